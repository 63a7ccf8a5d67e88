from __future__ import annotations

import pytest
import torch

from methods.numerics import backend
from methods.numerics.backend import backend_of, column_backend, column_kernels, runs_kernels


class OnCuda:
    is_cuda = True


def test_a_cpu_runs_the_twin():
    assert not runs_kernels(torch.zeros(1))
    assert column_kernels(torch.zeros(1)) is None
    assert backend_of(torch.zeros(1)) == "torch"


def test_without_triton_the_twin_runs_on_cuda_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(backend, "has_triton", lambda: False)
    backend.say_that_triton_is_missing.cache_clear()
    assert not runs_kernels(OnCuda())
    assert backend_of(OnCuda()) == "torch"
    assert [record.message.partition(":")[0] for record in caplog.records] == ["Triton is not installed"]
    backend.say_that_triton_is_missing.cache_clear()


def test_a_forced_backend_ends_with_its_block(monkeypatch):
    monkeypatch.setattr(backend, "has_triton", lambda: True)
    assert runs_kernels(OnCuda())
    with column_backend("torch"):
        assert not runs_kernels(OnCuda())
    with pytest.raises(KeyError), column_backend("torch"):
        raise KeyError
    assert runs_kernels(OnCuda())
    with column_backend("triton"):
        assert runs_kernels(torch.zeros(1))
    assert not runs_kernels(torch.zeros(1))

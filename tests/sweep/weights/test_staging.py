"""Weights that go to a device in pieces: the same to the bit, and the same model."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from sweep.models import resolve_model
from sweep.weights import staging
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.staging import Buffer, carry, moved, staged
from tests.sweep.weights.conftest import Save


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def tied(save: Save) -> Any:
    return DenseModel(resolve_model(str(save("llama-tied")), "models[0]")).model


def test_pieces_of_several_threads_make_the_same_tensors(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (37, 101), dtype=torch.int16, generator=generator)
    tensors = [bits.view(torch.bfloat16), bits.to(torch.float64), torch.tensor(3.5), bits.view(-1)[:1000].view(10, 100)]
    found = staged(tensors, device, threads=3, piece=256)
    assert all(each.device.type == device.type for each in found)
    for tensor, copied in zip(tensors, found, strict=True):
        assert (copied.shape, copied.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(copied.cpu().reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
        assert copied.data_ptr() != tensor.data_ptr()


def test_parameters_that_were_carried_are_the_same_model_with_tied_weights_tied(
    device: torch.device, tied: Any
) -> None:
    before, parameters = weights_hash(tied), dict(tied.named_parameters())
    places = {name: parameter.data_ptr() for name, parameter in parameters.items()}
    carry(list(parameters.values()), device)
    assert all(parameter.data_ptr() != places[name] for name, parameter in tied.named_parameters())
    assert {name: id(each) for name, each in tied.named_parameters()} == {n: id(p) for n, p in parameters.items()}
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert weights_hash(tied) == before


def test_an_error_of_one_piece_is_raised_and_changes_no_parameter(tied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Buffer, size: int) -> torch.Tensor:
        raise torch.OutOfMemoryError("no pinned memory")

    places = [parameter.data_ptr() for parameter in tied.parameters()]
    monkeypatch.setattr(Buffer, "of", fail)
    with pytest.raises(torch.OutOfMemoryError, match="no pinned memory"):
        carry(list(tied.parameters()), torch.device("cpu"))
    assert [parameter.data_ptr() for parameter in tied.parameters()] == places


@pytest.mark.parametrize("fails", [False, True])
def test_copies_that_were_begun_have_ended_when_a_thread_ends(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, sizes = Mock(), list[int]()

    def of(self: Buffer, size: int) -> torch.Tensor:
        sizes.append(size)
        if fails and len(sizes) == 2:
            raise torch.OutOfMemoryError("no pinned memory")
        assert not stream.synchronize.called
        return torch.empty(size, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(Buffer, "of", of)
    pieces = [(torch.full((8,), number, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8)) for number in (1, 2, 3)]
    with pytest.raises(torch.OutOfMemoryError) if fails else nullcontext():
        staging._send(iter(pieces), torch.device("cuda"), 8)
    assert [int(target[0]) for _, target in pieces] == ([1, 0, 0] if fails else [1, 2, 3])
    stream.synchronize.assert_called_once_with()


@pytest.mark.gpu
@pytest.mark.parametrize("fails", [False, True])
def test_model_that_is_moved_is_what_to_makes_of_it(fails: bool, tied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LEAST", 64)  # bytes: norms stay below
    if fails:
        monkeypatch.setattr(Buffer, "of", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    expected = copy.deepcopy(tied).to("cuda")
    found = moved(tied, "cuda", worth=1)
    assert found is tied
    assert weights_hash(found) == weights_hash(expected)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    for (name, one), (other, two) in zip(found.named_buffers(), expected.named_buffers(), strict=True):
        assert name == other
        assert one.device == two.device
        assert torch.equal(one, two)
    assert {each.device for each in found.parameters()} == {torch.device("cuda", 0)}


@pytest.mark.gpu
def test_dense_model_is_the_same_on_whatever_way_it_came(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = resolve_model(str(save("llama-shards")), "models[0]")
    plain = DenseModel(ref, "cuda")
    monkeypatch.setattr(staging, "LEAST", 1)
    monkeypatch.setattr("sweep.weights.dense.moved", lambda model, device: moved(model, device, worth=1))
    sooner = DenseModel(ref, "cuda")
    assert weights_hash(sooner.model) == weights_hash(plain.model)
    with torch.no_grad():
        sooner.model.lm_head.weight.zero_()
    sooner.restore()
    assert weights_hash(sooner.model) == weights_hash(plain.model)


def test_small_models_and_those_that_stay_are_left_to_torch(tied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("staged")

    monkeypatch.setattr(staging, "staged", refuse)
    monkeypatch.setattr(staging, "LEAST", 1)
    assert moved(tied, "cpu", worth=1) is tied
    assert moved(copy.deepcopy(tied), "meta").lm_head.weight.is_meta

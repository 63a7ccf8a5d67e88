"""Weights are read ahead: all files of the model, unless memory would be short."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sweep.models import resolve_model
from sweep.weights import ahead
from sweep.weights.ahead import begin_reading, read_ahead


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that the system was asked to read."""
    found: list[str] = []

    def advise(descriptor: int, start: int, length: int, advice: int) -> None:
        assert (start, length, advice) == (0, ahead.PIECE, os.POSIX_FADV_WILLNEED)
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return found


def test_the_files_of_a_model_are_read(tiny_model: Path, asked: list[str]) -> None:
    file = tiny_model / "model.safetensors"
    assert read_ahead(resolve_model(str(tiny_model), "models[0]")) == file.stat().st_size
    assert asked == [str(file)]


def test_what_memory_cannot_hold_stays_on_the_disk(
    tiny_model: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (tiny_model / "model.safetensors").stat().st_size
    monkeypatch.setattr(ahead, "host_memory", lambda: 2 * size - 1)
    assert read_ahead(resolve_model(str(tiny_model), "models[0]")) == 0
    assert asked == []


def test_a_model_that_cannot_be_read_is_nobodys_business_yet(tiny_model: Path, asked: list[str]) -> None:
    begin_reading(replace(resolve_model(str(tiny_model), "models[0]"), path="/nowhere")).join()
    assert asked == []

"""Where the weights of blocks live, asked by a walk that does not know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from methods.walk.residency import device_memory, home_of, parked, resident


class Home:
    """Notes what a walk announces."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int | None, bool]] = []

    @contextmanager
    def resident(self, index: int, following: int | None = None, *, changes: bool = False) -> Iterator[None]:
        self.heard.append((index, following, changes))
        yield


def test_a_model_that_holds_its_blocks_has_no_home_and_nothing_happens() -> None:
    model = torch.nn.Linear(2, 2)
    assert home_of(model) is None
    with resident(model, 0, 1, changes=True):
        assert model.weight.device.type == "cpu"


def test_a_home_hears_which_block_runs_which_follows_and_whether_it_changes() -> None:
    model = torch.nn.Linear(2, 2)
    model.block_home = Home()
    with resident(model, 3, 4), resident(model, 4, changes=True):
        pass
    assert model.block_home.heard == [(3, 4, False), (4, None, True)]


def test_hidden_states_in_host_memory_are_the_same(device: str) -> None:
    hidden = torch.randn(2, 5, 4, device=device)
    waiting = parked(hidden)
    again = parked(2 * hidden, waiting)
    if device == "cuda":
        torch.cuda.synchronize()
        assert again.data_ptr() == waiting.data_ptr()
    assert again.device.type == "cpu"
    assert torch.equal(again, 2 * hidden.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_tensors_take_is_no_longer_free() -> None:
    before = device_memory(torch.device("cuda", 0))
    taken = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    assert before - device_memory(torch.device("cuda", 0)) >= taken.numel() // 2

"""Statistics are filled in batches of windows, as a walk does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def fill() -> Callable[[Any, torch.Tensor, int], Any]:
    """`fill(statistic, inputs, batch)`: the statistic of inputs [windows, length, cols], so many windows at a time."""

    def run(statistic: Any, inputs: torch.Tensor, batch: int) -> Any:
        for start in range(0, inputs.shape[0], batch):
            part = inputs[start : start + batch]
            statistic.update(part.reshape(-1, part.shape[-1]), part.shape[0])
        return statistic

    return run

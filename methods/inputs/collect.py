"""The statistic of inputs that are there as a tensor, for trying a method on one matrix."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from calib.settings import SettingsError
from methods.inputs.statistic import Statistic
from methods.lazy import torch


class Asking(Protocol):
    """Whoever needs a statistic, and the name by which errors call it."""

    name: ClassVar[str]
    needs: ClassVar[type[Statistic] | None]


def collect(method: Asking, inputs: Any, weight: torch.Tensor) -> Statistic | None:
    """The statistic that `method` needs from `inputs` [windows, length, cols], added one window at a time.

    None when it needs nothing. Raises SettingsError when the inputs are not there or do not fit.
    """
    kind, cols = method.needs, weight.shape[1]
    if kind is None or not kind.of_data:
        return None if kind is None else kind(cols, weight.device)
    if kind.of_gradients:
        raise SettingsError(f"{method.name}: needs a whole model; use methods.blockwise.compress_model")
    if inputs is None:
        raise SettingsError(f"{method.name}: needs inputs [windows, length, cols] of the linear, got None")
    inputs = torch.as_tensor(inputs).to(weight.device)
    if inputs.dim() == 2:
        inputs = inputs[None]
    if inputs.dim() != 3 or inputs.shape[2] != cols:
        raise SettingsError(
            f"{method.name}: inputs of shape {tuple(inputs.shape)} do not fit a weight of shape {tuple(weight.shape)};"
            f" expected [windows, length, {cols}]"
        )
    statistic = kind(cols, weight.device)
    for window in inputs:
        statistic.update(window)
    return statistic

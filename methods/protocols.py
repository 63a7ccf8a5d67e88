"""What a method may ask of the walk that calls it: a look at the dense model, and the block that it works on.

The walk comes after the methods (`methods/walk`), so they know it by what it answers. A weight method asks nothing: it
gets a weight and a statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from methods.inputs.statistic import Statistic
from methods.lazy import torch
from methods.outcome import Measurement

S = TypeVar("S", bound=Statistic)
K = TypeVar("K", bound=Statistic, covariant=True)
T = TypeVar("T")


class Survey(Protocol):
    """The dense model, as a method may look at it before its walk. `blocks`: how many decoder blocks it has."""

    @property
    def blocks(self) -> int: ...

    def measure(self, kind: type[S], of: Callable[[Sequence[tuple[torch.Tensor, S]]], T]) -> dict[int, T]:
        """`of` the weights in scope, each with the statistic of its input, for every block that has some, by number."""
        ...


class BlockLinear(Protocol):
    """A linear inside a block, as a method sees it.

    kind: `linear`, `conv1d` (stored transposed) or `expert`, a slice of the 3-D parameter that `module` holds.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def module(self) -> torch.nn.Module: ...

    @property
    def weight(self) -> torch.Tensor:
        """[rows, cols], a view of what the model holds."""
        ...

    def store(self, weight: torch.Tensor) -> None:
        """Put `weight` [rows, cols] in place, in the dtype of the model."""
        ...


class BlockInput(Protocol[K]):
    """Linears that receive the same tensor, and the statistic of that tensor."""

    @property
    def linears(self) -> Sequence[BlockLinear]: ...

    @property
    def statistic(self) -> K: ...


class BlockWindows(Protocol):
    """The calibration windows as they enter the block, batch by batch."""

    @property
    def hidden(self) -> Sequence[torch.Tensor]:
        """Of every batch [windows, length, width]."""
        ...

    def __len__(self) -> int: ...

    def run(self, block: torch.nn.Module, index: int, batch: int) -> torch.Tensor:
        """The output of `block`, number `index` of the model, for one batch."""
        ...

    def weighted(self, batch: int, output: torch.Tensor) -> torch.Tensor:
        """The rows of `output` [windows, length, width] whose tokens count, √w times as large where one counts w times.

        `output` itself where all tokens of the batch count once.
        """
        ...

    def first_window(self) -> BlockWindows:
        """The first window alone, with its part of what the block gets besides."""
        ...


class BlockWork(Protocol):
    """What a block method may ask of the walk: the block, its inputs, and the statistics of its linears.

    index: number of the block. linears: those in scope. keep_zeros: zeros in their weights stay zero.
    """

    @property
    def block(self) -> torch.nn.Module: ...

    @property
    def index(self) -> int: ...

    @property
    def linears(self) -> Sequence[BlockLinear]: ...

    @property
    def keep_zeros(self) -> bool: ...

    @property
    def windows(self) -> BlockWindows: ...

    def collect(self, kind: type[S], *, to_the_end: bool = False) -> Sequence[BlockInput[S]]:
        """Statistics of that kind of all linears, by shared input, in order of execution.

        to_the_end: the block runs on after the last of them.
        """
        ...

    def unreached(self, linear: BlockLinear) -> Measurement:
        """The measurement of a linear that no token reached, and that stays dense."""
        ...

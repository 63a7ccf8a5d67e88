"""What a method needs to know of the inputs of a block's linears: each distinct input is collected once.

q, k and v receive the very same tensor, and so do the gate and the up projection of a gated MLP. Which linears share an
input is found out in the first batch, by the identity of the tensors that they receive; from then on one of them is
watched for all. A pass through the block ends at the last input that is needed, unless the block's output is wanted as
well. Hard cases: experts that no token of the first batch reaches, and linears that nothing ever reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from methods.inputs.statistic import Statistic
from methods.lazy import torch
from methods.walk.batches import Batches
from methods.walk.linears import Linear, watched

S = TypeVar("S", bound=Statistic)


@dataclass
class SharedInput(Generic[S]):
    """Linears that receive the same tensor, and the statistic of that tensor."""

    linears: list[Linear]
    statistic: S


class _StopPassError(Exception):
    """All inputs that are needed have been seen."""


class Collector(Generic[S]):
    """Accumulates a statistic of each distinct input of a block's `linears`, while batches run through the block.

    kind: of the statistics. first_only: only the linears that run first are collected, for `true_sequential`.
    to_the_end: passes go on to the block's output.
    """

    def __init__(
        self,
        linears: Sequence[Linear],
        kind: type[S],
        *,
        first_only: bool = False,
        to_the_end: bool = False,
    ) -> None:
        self.linears = list(linears)
        self.kind = kind
        self.first_only = first_only
        self.to_the_end = to_the_end
        self.shared: dict[str, SharedInput[S]] = {}  # by name of the linear that was seen first
        self.order: list[str] = []  # names, in order of execution
        self._leaders: list[Linear] = []

    def run(self, block: torch.nn.Module, index: int, batches: Batches, batch: int) -> torch.Tensor | None:
        """Send one batch through the block; returns its output, or None when the pass ended early."""
        valid = batches.valid[batch]
        seen: dict[int, tuple[torch.Tensor, str]] = {}
        watched_so_far: set[str] = set()

        def watch(linear: Linear, inputs: torch.Tensor) -> None:
            known = seen.get(id(inputs))
            if known is not None and self._may_share(linear, known[1]):
                self._join(linear, known[1])
            else:
                seen[id(inputs)] = (inputs, linear.name)  # keeps the tensor alive, so its id stays its own
                self._update(linear, inputs, batches, batch)
            watched_so_far.add(linear.name)
            if not self.to_the_end and len(watched_so_far) == len(self._wanted):
                raise _StopPassError

        try:
            with watched(self._wanted, watch, valid):
                return batches.run(block, index, batch)
        except _StopPassError:
            return None
        finally:
            if batch == 0:
                self._after_first_batch()

    def finished(self) -> list[SharedInput[S]]:
        """The linears with their statistics; linears that nothing reached have one without tokens."""
        for linear in [t for t in self.linears if t.name not in self.order]:
            self.shared[linear.name] = SharedInput([linear], self._new(linear))
        return list(self.shared.values())

    @property
    def _wanted(self) -> list[Linear]:
        return self._leaders or self.linears

    def _new(self, linear: Linear) -> S:
        return self.kind(linear.weight.shape[1], linear.weight.device)

    def _may_share(self, linear: Linear, leader: str) -> bool:
        return linear.name != leader and leader in self.shared

    def _join(self, linear: Linear, leader: str) -> None:
        if linear.name not in self.order:
            self.order.append(linear.name)
            self.shared[leader].linears.append(linear)

    def _update(self, linear: Linear, inputs: torch.Tensor, batches: Batches, batch: int) -> None:
        if linear.name not in self.shared:
            self.order.append(linear.name)
            self.shared[linear.name] = SharedInput([linear], self._new(linear))
        flat, weights = inputs.reshape(-1, inputs.shape[-1]), None
        if linear.kind != "expert":  # which get the rows of valid tokens alone
            flat, weights = batches.counted(batch, flat)
        self.shared[linear.name].statistic.update(flat, batches.hidden[batch].shape[0], weights)

    def _after_first_batch(self) -> None:
        """From now on only the first linear of each distinct input is watched."""
        if self.first_only:
            self._keep_first_group()
        if len(self.order) == len(self.linears):
            leaders = set(self.shared)
            self._leaders = [t for t in self.linears if t.name in leaders]

    def _keep_first_group(self) -> None:
        """Only what runs first stays: one distinct input, or all experts of one parameter."""
        if not self.order:
            return
        first = next(t for t in self.linears if t.name == self.order[0])
        if first.kind == "expert":
            # every expert counts, also those that no token of the first batch reached
            self.linears = [t for t in self.linears if t.kind == "expert" and t.group == first.group]
            self.shared = {name: shared for name, shared in self.shared.items() if shared.linears[0] in self.linears}
        else:
            self.shared = {self.order[0]: self.shared[self.order[0]]}
            self.linears = list(self.shared[self.order[0]].linears)
        names = {t.name for t in self.linears}
        self.order = [name for name in self.order if name in names]

"""The work on one block: collect what the method needs to know of its inputs, compress, and hand on the outputs.

A weight method gets the linears of one distinct input after the other; a block method gets the whole block. Without
`propagate` the next block gets what the dense block gives, so the outputs of the first pass, in which the block is
still dense, are kept. Hard cases: a statistic of a wide layer fills gigabytes, so each goes as soon as it has served;
experts that no token meets stay dense, and their reports say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from methods.base import BlockMethod, Method, WeightMethod
from methods.inputs.statistic import Statistic
from methods.inputs.telemetry import Replacement, measured
from methods.lazy import torch
from methods.outcome import CompressedWeight, CompressionError, LayerReport, Measurement
from methods.protocols import BlockLinear
from methods.walk.batches import Batches
from methods.walk.collector import Collector, SharedInput
from methods.walk.gradients import Sums
from methods.walk.linears import Linear, check_linears

S = TypeVar("S", bound=Statistic)
Witness = Callable[[int, str, CompressedWeight], None]

NO_TOKENS = "no calibration token reached it: left dense"


@dataclass
class BlockJob:
    """The work on block number `index` in step number `step` of a method.

    linears: those in scope. batches: what enters the block; None when data-free. last: no later block needs its
    outputs. keep_zeros: zeros in the weights stay zero. gradients: by address of the weight, where the method asks.
    dense_outputs: of the dense block per batch, where they go on; None until a pass has given them. witness: sees what
    takes the place of each weight, with the block's number and the linear's name.
    """

    method: Method
    block: torch.nn.Module
    index: int
    linears: Sequence[Linear]
    batches: Batches | None
    step: int = 0
    last: bool = False
    keep_zeros: bool = False
    gradients: Mapping[int, Sums] = field(default_factory=dict)
    dense_outputs: list[torch.Tensor] | None = None
    witness: Witness | None = None

    def run(self) -> list[LayerReport]:
        """Compress the block in place and hand on its outputs. Raises CompressionError naming block and linear."""
        check_linears(self.linears, self.index)  # before they spoil the inputs of others, which would be named instead
        if isinstance(self.method, BlockMethod):
            reports = self._as_a_whole(self.method)
        elif self.method.needs is None:
            reports = [report for linear in self.linears for report in self._compress([linear], None)]
        else:
            reports = self._input_by_input(self.method.needs)
        if self.batches is not None and not self.last:
            self._hand_on(self.batches)
        order = {linear.name: place for place, linear in enumerate(self.linears)}
        return sorted(reports, key=lambda report: order[report.linear])

    def collect(
        self,
        kind: type[S],
        linears: Sequence[Linear] | None = None,
        *,
        first_only: bool = False,
        to_the_end: bool = False,
    ) -> list[SharedInput[S]]:
        """Statistics of `linears` (None: of all in scope), grouped by shared input, in order of execution.

        first_only: of those alone that run first. to_the_end: the block runs on after the last of them, as it does
        where its dense outputs go on.
        """
        keep = not self.method.propagate and not self.last and self.dense_outputs is None
        wanted = self.linears if linears is None else linears
        collector = Collector(wanted, kind, first_only=first_only, to_the_end=to_the_end or keep)
        outputs: list[torch.Tensor] = []
        for batch in range(len(self.windows)):
            output = collector.run(self.block, self.index, self.windows, batch)
            if keep and output is not None:
                outputs.append(self.windows.at_home(output))
        if keep:
            self.dense_outputs = outputs
        return collector.finished()

    @property
    def windows(self) -> Batches:
        """The batches of a method that needs inputs."""
        assert self.batches is not None
        return self.batches

    def unreached(self, linear: BlockLinear) -> Measurement:
        """The measurement of a linear that no calibration token reached."""
        weight = linear.weight
        dense = Replacement(linear.name, weight, weight, CompressedWeight(weight, fallback=NO_TOKENS))
        return measured([dense], None)[linear.name]

    def _as_a_whole(self, method: BlockMethod) -> list[LayerReport]:
        started = time.perf_counter()
        with self._located(self.linears):
            found = method.compress_block(self) if self.linears else {}
        return self._reports(found, started)

    def _input_by_input(self, kind: type[Statistic]) -> list[LayerReport]:
        """Compress the linears of one distinct input after the other.

        All inputs are collected in one pass, or with `true_sequential` each in a pass that sees what was compressed
        before.
        """
        reports: list[LayerReport] = []
        waiting = list(self.linears)
        while waiting:
            collected = self.collect(kind, waiting, first_only=self.method.true_sequential)
            compressed = {linear.name for shared in collected for linear in shared.linears}
            waiting = [linear for linear in waiting if linear.name not in compressed]
            while collected:
                if isinstance(self.method, WeightMethod):
                    self.method.prepare([shared.statistic for shared in collected])
                reports.extend(self._compress_input(collected.pop(0)))
        return reports

    def _compress_input(self, shared: SharedInput[Any]) -> list[LayerReport]:
        if shared.statistic.of_data and shared.statistic.tokens == 0:
            started = time.perf_counter()
            return self._reports({linear.name: self.unreached(linear) for linear in shared.linears}, started)
        if not shared.statistic.of_gradients:
            return self._compress(shared.linears, shared.statistic)
        reports = []
        for linear in shared.linears:  # each weight has gradients of its own
            rows, columns = self.gradients[linear.weight.data_ptr()]
            reports.extend(self._compress([linear], shared.statistic.of_weight(rows, columns)))
        return reports

    def _compress(self, linears: Sequence[Linear], statistic: Statistic | None) -> list[LayerReport]:
        """Compress linears that share an input, put the result into the model, and report."""
        assert isinstance(self.method, WeightMethod)
        started = time.perf_counter()
        with self._located(linears):
            weights = [linear.weight for linear in linears]
            pruned = [weight == 0 for weight in weights] if self.keep_zeros else None
            compressed = self.method.compress_weights(weights, statistic, pruned=pruned)
            replaced = [
                Replacement(linear.name, dense, result.weight.to(dense.dtype), result)
                for linear, dense, result in zip(linears, weights, compressed, strict=True)
            ]
            found = measured(replaced, statistic)
        for linear, new in zip(linears, replaced, strict=True):
            if self.witness is not None:
                self.witness(self.index, linear.name, new.compressed)
            if new.compressed.factors is not None:
                linear.store_factors(*new.compressed.factors)
            else:
                linear.store(new.stored)
        return self._reports(found, started)

    def _hand_on(self, batches: Batches) -> None:
        """What enters the next block: outputs of the dense block where they were kept, else of the block as it is."""
        for batch in range(len(batches)):
            dense = self.dense_outputs
            batches.keep(batch, batches.run(self.block, self.index, batch) if dense is None else dense[batch])

    def _reports(self, found: Mapping[str, Measurement], started: float) -> list[LayerReport]:
        """The reports of linears that were compressed together since `started`, each with an equal part of the time."""
        seconds = (time.perf_counter() - started) / max(len(found), 1)
        return [
            LayerReport.of(cost, step=self.step, block=self.index, linear=name, seconds=seconds)
            for name, cost in found.items()
        ]

    @contextmanager
    def _located(self, linears: Sequence[Linear]) -> Iterator[None]:
        """Add the place to an error of the solver."""
        try:
            yield
        except CompressionError as error:
            names = ", ".join(linear.name for linear in linears)
            raise CompressionError(f"block {self.index} {names}: {self.method.label}: {error}") from None

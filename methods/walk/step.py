"""One step of a method through all blocks of a decoder: what enters the first block, then block after block.

Words of the walk. *Scope*: the linears of a block that a step compresses. *Home*: what holds the weights of blocks that
are not on the device (`residency.py`), or where hidden states wait between blocks. *Resident*: a block whose weights
are on the device now. *Unreached*: a linear that no calibration token met. *Shared input*: one tensor that several
linears receive. *Tied*: one matrix that stands in several places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from methods.base import Method
from methods.lazy import torch
from methods.outcome import LayerReport
from methods.walk.batches import PROBE, Batches, Data, capture
from methods.walk.decoder import decoder_blocks
from methods.walk.gradients import Sums, squared_gradients
from methods.walk.job import BlockJob, Witness
from methods.walk.linears import Linear, check_linears, linears_of
from methods.walk.residency import resident
from methods.walk.survey import Survey

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Step:
    """Step `number` of `steps`: `method` on the blocks of `model`, in place.

    keep_zeros: zeros in the weights stay zero. progress: called with (blocks done, blocks in all) over all steps.
    witness: called with (block, linear, what takes its place) for every weight.
    first: only so many blocks, which become what they become in a walk through all; None: all.
    """

    model: torch.nn.Module
    method: Method
    number: int = 0
    steps: int = 1
    keep_zeros: bool = False
    progress: Progress | None = None
    witness: Witness | None = None
    first: int | None = None

    def run(self, data: Data | None) -> list[LayerReport]:
        """Compress the blocks; `data` is None when data-free. Raises CompressionError naming block and linear."""
        blocks = decoder_blocks(self.model)
        scope = [_scope(self.method, block, index, len(blocks)) for index, block in enumerate(blocks)]
        last = max((index for index, linears in enumerate(scope[: self.first]) if linears), default=-1)
        self.method.change_outside(self.model)
        methods = self.method.for_blocks(Survey(self.model, blocks, scope, data))
        gradients = self._gradients(scope, data)
        batches = self._capture(blocks, data)
        reports: list[LayerReport] = []
        for index in range(last + 1):
            job = BlockJob(
                methods[index],
                blocks[index],
                index,
                scope[index],
                batches,
                step=self.number,
                last=index == last,
                keep_zeros=self.keep_zeros,
                gradients=gradients,
                witness=self.witness,
            )
            with resident(self.model, index, index + 1 if index < last else None, changes=bool(scope[index])):
                reports.extend(job.run())
            self._tell(index + 1, len(blocks))
        self._tell(len(blocks), len(blocks))
        return reports

    def _capture(self, blocks: torch.nn.ModuleList, data: Data | None) -> Batches | None:
        kind = self.method.needs
        if kind is None:
            return None
        if not kind.of_data:  # only which linears share an input is asked
            return capture(self.model, blocks, PROBE)
        assert data is not None
        return capture(self.model, blocks, data)

    def _gradients(self, scope: Sequence[Sequence[Linear]], data: Data | None) -> dict[int, Sums]:
        """Sums of squared gradients by address of the weight, for methods that need them."""
        if not self.method.needs_gradients:
            return {}
        assert data is not None
        for index, block in enumerate(scope):
            check_linears(block, index)
        linears = [linear for block in scope for linear in block]
        sums = squared_gradients(self.model, linears, data.tokens, data.attention_mask)
        return {linear.weight.data_ptr(): sums[index] for index, linear in enumerate(linears)}

    def _tell(self, done: int, blocks: int) -> None:
        if self.progress is not None:
            self.progress(self.number * blocks + done, self.steps * blocks)


def _scope(method: Method, block: torch.nn.Module, index: int, blocks: int) -> list[Linear]:
    """The linears of block `index` of `blocks` that `method` compresses."""
    return [] if method.skips(index, blocks) else [each for each in linears_of(block) if method.selects(each.name)]

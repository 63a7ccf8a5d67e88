"""Second moments of the inputs of a dense model's linears for several texts at once, block by block.

E[x xᵀ] over the tokens of each text is what the Hessians of GPTQ and SparseGPT are up to a factor. The hard case is
memory: those of a whole model are larger than the model, so each block's are handed out before the next one's are
summed, and only some blocks have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from methods.inputs.hessian import Hessian
from methods.lazy import torch
from methods.walk.batches import Batches, Data, capture
from methods.walk.collector import Collector
from methods.walk.decoder import decoder_blocks
from methods.walk.fused import fused
from methods.walk.lengths import forgetful
from methods.walk.linears import linears_of
from methods.walk.residency import resident

Moments = dict[str, "torch.Tensor"]  # by text: [cols, cols], float64


def second_moments(
    model: Any, texts: Mapping[str, np.ndarray], layers: Sequence[int], batch_size: int | None = None
) -> Iterator[Moments]:
    """For each distinct input of the linears of the blocks `layers`, in order: E[x xᵀ] over the tokens of each text.

    texts: windows [windows, length] by name. An input that a text does not reach (an expert) is left out for all.
    """
    blocks = decoder_blocks(model)
    last = max(layers, default=-1)
    with torch.inference_mode(), torch.cuda.device_of(next(model.parameters())), forgetful(model), fused(model):
        streams = {name: capture(model, blocks, Data(tokens, None, batch_size)) for name, tokens in texts.items()}
        for index in range(last + 1):
            with resident(model, index, index + 1 if index < last else None):
                found = [_sums(blocks[index], index, each, summed=index in layers) for each in streams.values()]
            yield from _together(dict(zip(streams, found, strict=True)))


def _sums(block: torch.nn.Module, index: int, batches: Batches, *, summed: bool) -> dict[str, Hessian]:
    """The Hessian of each distinct input, by the first of its linears, while the windows go on to the next block."""
    collector = Collector(linears_of(block) if summed else [], Hessian, to_the_end=True)
    for batch in range(len(batches)):
        output = collector.run(block, index, batches, batch)
        assert output is not None  # the pass goes to the end
        batches.keep(batch, output)
    return {shared.linears[0].name: shared.statistic for shared in collector.finished()}


def _together(found: Mapping[str, dict[str, Hessian]]) -> Iterator[Moments]:
    """The moments of every input that all texts reach; its sums are freed as soon as they are read."""
    names = [name for name in next(iter(found.values())) if all(name in each for each in found.values())]
    for name in names:
        sums = {text: each.pop(name) for text, each in found.items()}
        if all(each.tokens for each in sums.values()):
            yield {text: _moment(each) for text, each in sums.items()}


def _moment(statistic: Hessian) -> torch.Tensor:
    scale = max(statistic.windows, 1) / (2 * statistic.tokens)  # a Hessian is 2 / windows Σ x xᵀ
    return statistic.hessian.double() * scale

"""Compress a whole model, block by block, and report what happened to it.

Works for decoders of transformers whose blocks are a `ModuleList` and pass on hidden states alone. One cheap forward,
with every block replaced by the identity, records the hidden states that enter block 0 and the arguments of every block
(they differ by layer in some architectures). Then each block sees all calibration windows: a first pass collects what
the method needs about each distinct input of its linears (q, k and v share one) and stops at the last input that is
needed; the linears are compressed; a second pass with the compressed block produces the inputs of the next. Each step
of a composition walks the whole model (`methods/walk/step.py`). Hard cases: padding never enters a statistic, experts
may see no token at all (recorded, left dense), and a failure names the block and the linear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from calib.settings import SettingsError
from methods.base import Composition, Method
from methods.lazy import torch
from methods.numerics.backend import backend_of
from methods.outcome import HALF_PRECISION_BITS, CompressedWeight, CompressionError, LayerReport, Measurement
from methods.walk.batches import Data
from methods.walk.checks import check_device, check_steps, check_weighted
from methods.walk.decoder import decoder_blocks
from methods.walk.factored import refuse_to_save_factors
from methods.walk.fused import fused
from methods.walk.job import NO_TOKENS, Witness
from methods.walk.lengths import forgetful
from methods.walk.step import Progress, Step

__all__ = ["CompressionError", "CompressionReport", "compress_model", "decoder_blocks"]


def compress_model(
    model: torch.nn.Module,
    method: Method,
    tokens: Any = None,
    *,
    attention_mask: Any = None,
    batch_size: int | None = None,
    offload: bool | None = None,
    progress: Progress | None = None,
    witness: Witness | None = None,
    first_blocks: int | None = None,
    token_weights: Any = None,
) -> CompressionReport:
    """Compress the model in place with calibration `tokens` [nsamples, seqlen] (None for a data-free method).

    attention_mask: [nsamples, seqlen], zero at padding. batch_size: windows per forward, a matter of speed. offload:
    hidden states wait in host memory between blocks (None: when a GPU is crowded). progress: called with (blocks done,
    blocks in all). witness: called with (block, linear, `CompressedWeight`) for every weight that a weight method
    replaces; what it does not keep is gone. first_blocks: only so many, each as in a compression of all; a step before
    one that looks at all blocks goes through all of them. token_weights: [nsamples, seqlen], how often a token counts
    in what the method knows of its inputs, at least zero (None: once); all are read. Raises SettingsError before
    any work when the settings do not fit the model, CompressionError naming block and linear. A model that holds
    low-rank factors afterwards refuses `save_pretrained` (`methods/walk/factored.py`).
    """
    started = time.perf_counter()
    steps = steps_of(method)
    if not method.data_free and tokens is None:
        raise SettingsError(f"tokens: {method.label} needs calibration tokens [nsamples, seqlen], got None")
    check_device(model)
    data = Data(tokens, attention_mask, batch_size, offload, token_weights)
    layers: list[LayerReport] = []
    groups: dict[tuple[int, str], torch.Tensor] = {}
    seen = _noting_groups(groups, witness)
    with ready_to_walk(model):
        check_steps(model, steps)
        if token_weights is not None:
            check_weighted(model, steps)
        reach = reach_of(steps, first_blocks)
        for number, step in enumerate(steps):
            keep_zeros = any(earlier.prunes for earlier in steps[:number])
            walk = Step(model, step, number, len(steps), keep_zeros, progress, witness=seen, first=reach[number])
            layers.extend(walk.run(None if step.data_free else data))
    return CompressionReport(
        layers,
        seconds=time.perf_counter() - started,
        backend=backend_of(next(model.parameters())),
        keep_codes=frozenset(number for number, step in enumerate(steps) if step.keeps_codes),
        groups=groups,
    )


def steps_of(method: Method) -> list[Method]:
    """The steps of a composition; the method itself where it is none."""
    return list(method.steps) if isinstance(method, Composition) else [method]


def reach_of(steps: Sequence[Method], first_blocks: int | None) -> list[int | None]:
    """How many blocks each step must go through for the first ones to be as in a compression of all; None: all.

    A step that changes the whole model leaves none of it out, since half of a change is none.
    """
    behind = [any(later.looks_at_all_blocks for later in steps[number + 1 :]) for number in range(len(steps))]
    return [
        None if all_of_them or step.whole_model else first_blocks
        for step, all_of_them in zip(steps, behind, strict=True)
    ]


@contextmanager
def ready_to_walk(model: torch.nn.Module) -> Iterator[None]:
    """While open, the model is in evaluation mode, its calls are fast and forget each other; no gradients."""
    was_training = model.training
    model.eval()
    try:
        # kernels run on the current device
        with torch.no_grad(), torch.cuda.device_of(next(model.parameters())), forgetful(model), fused(model):
            yield
    finally:
        model.train(was_training)
        refuse_to_save_factors(model)


@dataclass(frozen=True)
class CompressionReport:
    """What happened to every linear, and the model's totals. `seconds` is the wall time of the walk.

    `backend` names what runs column loops on the model's device: `torch`, or Triton with its version. `keep_codes`:
    numbers of the steps after which a weight is still on the grid of an earlier step. `groups`: int32 [cols] by block
    and linear, the group of every input, from the latest step whose groups are not consecutive inputs.
    """

    layers: Sequence[LayerReport] = ()
    seconds: float = 0.0
    backend: str = "torch"
    keep_codes: frozenset[int] = frozenset()
    groups: Mapping[tuple[int, str], torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def final(self) -> list[LayerReport]:
        """The latest report of every linear: the model as it is now.

        Pruning after quantization leaves the codes, and with them the earlier step's bits, as does a step that left the
        linear as it was. The two factors of a linear (`up_proj.0`, `up_proj.1`) take its place as soon as a later step
        compresses one of them; the other one is stored as it was.
        """
        latest: dict[tuple[int, str], LayerReport] = {}
        for layer in self.layers:
            name = layer.linear.rpartition(".")[0]
            whole = latest.get((layer.block, name))
            if whole is not None and whole.step < layer.step and whole.rank is not None:
                del latest[layer.block, name]
                latest.update({(layer.block, factor.linear): factor for factor in _factors(whole, whole.rank)})
            before = latest.get((layer.block, layer.linear))
            stays = layer.step in self.keep_codes or layer.fallback == NO_TOKENS
            latest[layer.block, layer.linear] = replace(layer, bits=before.bits) if before and stays else layer
        return list(latest.values())

    @property
    def achieved_sparsity(self) -> float:
        """Share of zero weights over the compressed linears."""
        return self._mean(lambda layer: layer.sparsity)

    @property
    def average_bits(self) -> float:
        """Stored bits per weight of the dense linears in scope, grids and outliers included."""
        dense: dict[tuple[int, str], int] = {}
        for layer in self.layers:
            if (layer.block, layer.linear.rpartition(".")[0]) not in dense:
                dense.setdefault((layer.block, layer.linear), layer.rows * layer.cols)
        stored = sum(layer.bits * layer.rows * layer.cols for layer in self.final)
        return stored / sum(dense.values()) if dense else 0.0

    @property
    def layer_error(self) -> float:
        """Mean over the linears of their relative output error."""
        errors = [layer.relative_error for layer in self.final if layer.relative_error is not None]
        return sum(errors) / len(errors) if errors else 0.0

    @property
    def fallbacks(self) -> int:
        """Linears that needed a recorded numerical fallback, in any step."""
        return sum(layer.fallback is not None for layer in self.layers)

    def _mean(self, value: Callable[[LayerReport], float]) -> float:
        total = sum(layer.rows * layer.cols for layer in self.final)
        return sum(value(layer) * layer.rows * layer.cols for layer in self.final) / total if total else 0.0


def _noting_groups(groups: dict[tuple[int, str], torch.Tensor], witness: Witness | None) -> Witness:
    """`witness`, with what the weights say of their inputs' groups put into `groups`."""

    def note(block: int, linear: str, compressed: CompressedWeight) -> None:
        if compressed.group_of is not None:
            groups[block, linear] = compressed.group_of
        if witness is not None:
            witness(block, linear, compressed)

    return note


def _factors(whole: LayerReport, rank: int) -> list[LayerReport]:
    """What stands for the two factors of a linear that no later step has reported: stored in half precision."""
    shapes = [(rank, whole.cols), (whole.rows, rank)]
    return [
        LayerReport.of(
            Measurement(rows=rows, cols=cols, bits=HALF_PRECISION_BITS),
            step=whole.step,
            block=whole.block,
            linear=f"{whole.linear}.{number}",
            seconds=0.0,
        )
        for number, (rows, cols) in enumerate(shapes)
    ]

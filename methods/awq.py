"""AWQ (Lin et al. 2023, arXiv:2306.00978): scale up the weights of large inputs before rounding, then clip.

For every group of linears that share an input, s = mean|X|^α is searched over 20 values of α for the least change of
the output of the module around them (attention, MLP), with weights rounded as grid(W·s)/s; the best scale is folded
into the norm or the linear before. `duo_scaling` also divides by the size of the weights, as AutoAWQ does. Then each
row and group is clipped to the range that changes the group's partial outputs least. Inputs come from the dense model,
as in the published code. The hard case is the fold: where scaling cannot move into another layer (grouped-query values,
a GELU, experts behind a router) the group keeps a scale of one.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field

from calib.settings import settings
from methods.base import register
from methods.families.grids import GridMethod
from methods.families.scaling import ScalingMethod
from methods.inputs.norms import Magnitudes
from methods.inputs.telemetry import Replacement, measured
from methods.lazy import torch
from methods.numerics.grids import divide, quantize_groups, stored_scale
from methods.outcome import CompressedWeight, CompressionError, Measurement
from methods.protocols import BlockLinear, BlockWork
from methods.walk.folding import ScaleGroup

SMALLEST_SCALE = 1e-4
DUO_OFFSET = 1e-4  # AutoAWQ's
WEIGHT_OFFSET = 1e-6  # AutoAWQ's
CLIP_STEPS = 10
CLIP_STEP = 0.05  # the narrowest range that is tried is 0.55 of the largest weight
CLIP_EXCLUDED = ("*q_proj*", "*k_proj*", "*query*", "*key*", "*qkv*", "*c_attn*")


@register("awq")
@settings
class AWQ(ScalingMethod, GridMethod):  # in this order: defaults of the walk are those of scaling
    """group_size: 128 as published; the grids are those of RTN and GPTQ. scale_steps: values of α in [0, 1).

    search_scale, search_clip: the two searches; the second sees the statistic's sample of the inputs. clip_exclude:
    linears that are not clipped, by name (queries and keys in the published code). duo_scaling: s = x̄^α / (w̄^(1−α) +
    1e-4), with x̄ the mean size of an input and w̄ that of its weights as shares of the largest of their group (AutoAWQ,
    llm-compressor); no scaling at all is tried as well, as α = 0 is without it.
    """

    version: ClassVar[int] = 3
    through_linears: ClassVar[bool] = True

    group_size: int | None = Field(default=128, ge=1)
    search_scale: bool = True
    search_clip: bool = True
    scale_steps: int = Field(default=20, ge=1)
    duo_scaling: bool = False
    clip_exclude: list[str] = field(default_factory=lambda: list(CLIP_EXCLUDED))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.duo_scaling and not self.search_scale:
            raise ValueError("duo_scaling: there is no scale to search; leave it out, or search_scale: false")

    def describe(self) -> str:
        flags = {"duo": self.duo_scaling, "no scale": not self.search_scale, "no clip": not self.search_clip}
        return " ".join(["AWQ", self.describe_grid(), *(name for name, on in flags.items() if on)])

    def compress_block(self, job: BlockWork) -> dict[str, Measurement]:
        with recorded_calls(job) as calls:
            collected = job.collect(Magnitudes, to_the_end=True)
        dense = {linear.name: linear.weight.clone() for linear in job.linears}
        zeros = {name: weight == 0 for name, weight in dense.items()} if job.keep_zeros else {}
        groups, found = self.groups(job, collected)
        if self.search_scale and not any(group.foldable for group in groups):
            raise CompressionError("scaling needs a norm or a linear that it can be folded into; there is none")
        scales = [self._search_scale(job, group, calls) for group in groups]
        changed = {name: _Change() for name in dense}
        for group, scale in zip(groups, scales, strict=True):
            if scale is not None:
                group.apply(scale)
                _note(changed, group, scale)
        for group, scale in zip(groups, scales, strict=True):
            for linear in group.linears:
                self._round(linear, group.statistic, scale, zeros.get(linear.name))
            found |= self._measured(group, dense, changed)
        return found

    def _search_scale(self, job: BlockWork, group: ScaleGroup[Magnitudes], calls: Calls) -> torch.Tensor | None:
        """The best scale [cols], or None when the group cannot be scaled."""
        if not (self.search_scale and group.foldable):
            return None
        parent = calls.parent_of(group.linears)
        dense = [linear.weight.clone() for linear in group.linears]
        expected = [output.float() for output in calls.outputs(parent)]
        scales, losses = self.scales(group.statistic.mean, dense), []
        try:
            for scale in scales:
                for linear, weight in zip(group.linears, dense, strict=True):
                    linear.store(self.on_grid(weight * scale) / scale)
                changes = [_squared(a, b) for a, b in zip(calls.outputs(parent), expected, strict=True)]
                losses.append(torch.stack(changes).sum())
        finally:
            for linear, weight in zip(group.linears, dense, strict=True):
                linear.store(weight)
        found = torch.stack(losses).tolist()  # the host waits here alone
        best = min((loss for loss in found if loss < float("inf")), default=None)
        if best is None:
            raise CompressionError(f"the output of {parent} is NaN or infinite for every scale")
        return scales[found.index(best)]

    def scales(self, inputs: torch.Tensor, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The scales to try, each [cols], from the mean sizes of the `inputs` [cols] of `weights` [rows, cols]."""
        exponents = [step / self.scale_steps for step in range(self.scale_steps)]
        if not self.duo_scaling:
            return [_centred(inputs.pow(each).clamp_min(SMALLEST_SCALE)) for each in exponents]
        sizes = weight_sizes(weights, self.group_size)
        duo = [inputs.pow(each) / (sizes.pow(1 - each) + DUO_OFFSET) for each in exponents]
        return [torch.ones_like(inputs), *(_centred(each.clamp_min(SMALLEST_SCALE)) for each in duo)]

    def on_grid(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight [rows, cols], each group rounded on a grid of its own."""
        return quantize_groups(weight, self.rule, self.group_size)

    def _round(
        self, linear: BlockLinear, statistic: Magnitudes, scale: torch.Tensor | None, pruned: torch.Tensor | None
    ) -> None:
        """Clip and round a linear whose columns were scaled; zeros of an earlier step stay."""
        weight = linear.weight.float()
        if self.search_clip and not any(fnmatch.fnmatchcase(linear.name, pattern) for pattern in self.clip_exclude):
            sample = statistic.sample() if scale is None else statistic.sample() / scale
            limit = self.clip_limits(weight, sample)
            weight = weight.unflatten(1, (-1, self.group_size or weight.shape[1]))
            weight = torch.maximum(torch.minimum(weight, limit[..., None]), -limit[..., None]).flatten(1)
        rounded = self.on_grid(weight)
        linear.store(rounded if pruned is None else rounded.masked_fill(pruned, 0))

    def clip_limits(self, weight: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """The largest |w| to keep for every row and group, [rows, groups].

        The error of a group's partial outputs, mean over the sample of (x · δ)², is δᵀ(XᵀX)δ with XᵀX of the group.
        """
        size = self.group_size or weight.shape[1]
        groups = weight.unflatten(1, (-1, size))
        inputs = sample.unflatten(1, (-1, size))
        gram = torch.einsum("tgi,tgj->gij", inputs, inputs)
        largest = groups.abs().amax(-1)
        best, best_error = largest, torch.full_like(largest, float("inf"))
        for step in range(CLIP_STEPS):
            limit = largest if step == 0 else self._storable(largest * (1 - step * CLIP_STEP))
            clipped = torch.maximum(torch.minimum(groups, limit[..., None]), -limit[..., None])
            delta = self.on_grid(clipped.flatten(1)).unflatten(1, (-1, size)) - groups
            partial = torch.bmm(delta.transpose(0, 1), gram).transpose(0, 1)  # one product for each group of inputs
            error = (partial * delta).sum(-1)
            better = error < best_error
            best, best_error = torch.where(better, limit, best), torch.where(better, error, best_error)
        return best

    def _storable(self, limit: torch.Tensor) -> torch.Tensor:
        """The nearest limit whose grid from -limit to limit has a scale that is stored as it is.

        The zero point of such a grid lies halfway between two levels, and a scale that is rounded up when it is stored
        puts all weights within the inner levels, so that one level is lost.
        """
        if self.scale_dtype == "float32":
            return limit
        levels = self.rule.levels
        return stored_scale(divide(2 * limit, levels), self.scale_dtype) * (levels / 2)

    def _measured(
        self, group: ScaleGroup[Magnitudes], dense: dict[str, torch.Tensor], changed: dict[str, _Change]
    ) -> dict[str, Measurement]:
        """Telemetry against the dense weights: the stored ones with the folded scales undone."""
        replaced = []
        for linear in group.linears:
            weight, stored = dense[linear.name], changed[linear.name].undo(linear.weight.float())
            bits = self.rule.stored_bits(weight.shape[1], self.group_size)
            compressed = CompressedWeight(weight, bits=bits, scale_dtype=self.scale_dtype)
            replaced.append(Replacement(linear.name, weight, stored, compressed))
        return measured(replaced, group.statistic)


def weight_sizes(weights: Sequence[torch.Tensor], group_size: int | None) -> torch.Tensor:
    """w̄ [cols]: mean over all rows of |w| as a share of the largest of its row and group."""
    total = torch.zeros(weights[0].shape[1], device=weights[0].device)
    for weight in weights:
        groups = weight.float().abs().unflatten(1, (-1, group_size or weight.shape[1]))
        total += (groups / (groups.amax(-1, keepdim=True) + WEIGHT_OFFSET)).flatten(1).sum(0)
    return total / sum(weight.shape[0] for weight in weights)


def _centred(scale: torch.Tensor) -> torch.Tensor:
    """`scale` [cols] with one halfway (in powers) between its largest and its smallest."""
    return scale / (scale.max() * scale.min()).sqrt()


@dataclass
class _Change:
    """Scales folded into a linear: its columns were multiplied by `columns`, its rows divided by `rows`."""

    columns: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def undo(self, weight: torch.Tensor) -> torch.Tensor:
        weight = weight if self.columns is None else weight / self.columns
        return weight if self.rows is None else weight * self.rows[:, None]


def _note(changed: dict[str, _Change], group: ScaleGroup[Magnitudes], scale: torch.Tensor) -> None:
    for linear in group.linears:
        changed[linear.name].columns = scale
    if group.before is not None:
        changed[group.before.name].rows = scale


@dataclass
class Calls:
    """What every module around a group of linears was called with, batch by batch, in the dense block."""

    job: BlockWork
    arguments: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]

    def parent_of(self, linears: Sequence[BlockLinear]) -> str:
        """The innermost module around all of them; the linear itself when it is alone. `""` is the block."""
        if len(linears) == 1 and linears[0].name in self.arguments:
            return linears[0].name
        parts = [linear.name.split(".") for linear in linears]
        common: list[str] = []
        for names in zip(*parts, strict=False):
            if len(set(names)) > 1:
                break
            common.append(names[0])
        path = ".".join(common)
        while path and path not in self.arguments:
            path = path.rpartition(".")[0]
        return path

    def outputs(self, path: str) -> Iterator[torch.Tensor]:
        """The module's outputs with the weights as they are now, for every batch."""
        batches = self.job.windows
        module = self.job.block.get_submodule(path) if path else None
        for batch in range(len(batches)):
            if module is None:
                output: Any = batches.run(self.job.block, self.job.index, batch)
            else:
                positional, keywords = self.arguments[path][batch]
                output = module(*positional, **keywords)
            first = output[0] if isinstance(output, tuple) else output
            yield batches.weighted(batch, first)


@contextmanager
def recorded_calls(job: BlockWork) -> Iterator[Calls]:
    """While open, remember the arguments of every module that holds linears (and of the linears) in `job.block`."""
    names = {linear.name for linear in job.linears if linear.kind != "expert"}
    wanted = set(names)
    for name in names:
        while "." in name:
            name = name.rpartition(".")[0]
            wanted.add(name)
    calls = Calls(job, {name: [] for name in wanted})
    handles = []
    try:
        for name in wanted:
            hook = _recorder(calls.arguments[name])
            handles.append(job.block.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _recorder(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Callable[..., None]:
    def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        calls.append((arguments, dict(keywords)))

    return hook


def _squared(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared distance to `second`, float32: float32 differences summed in float64, a scalar on the device."""
    return (first - second).square_().sum(dtype=torch.float64)

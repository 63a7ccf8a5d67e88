"""Scales that move between layers: x/s enters a linear whose columns are multiplied by s, and the block stays the same.

Somebody has to divide x by s: the norm that made it, or the linear before it (the values of attention, the `up` half
of a gated MLP). No table of architectures says who. The producer is found by watching one block run, and every
candidate is tried: scale both sides by random powers of two, run the block, and keep the fold only if the linears'
outputs and the block's output are what they were. So a fold through a softmax, a GELU, a router or a residual is
refused by itself. The hard case is half precision, where a wrong fold can hide in the rounding of ordinary scales;
powers of two round nothing, so a right fold gives the same bits there (but for norms that store their weight less one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from methods.inputs.statistic import Statistic
from methods.lazy import torch
from methods.protocols import BlockLinear, BlockWork

TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "float16": 1e-2, "bfloat16": 2e-2}
LARGEST_POWER = 3  # trial scales are 1 to 1/8

S = TypeVar("S", bound=Statistic)


@dataclass
class ScaleGroup(Generic[S]):
    """Linears that share an input, the statistic of that input, and where a scale of the input can be folded.

    `norm`: the module that made the input, with `offset` 1 where it multiplies by 1 + weight. `before`: the linear
    whose outputs the input is proportional to. Neither: the input cannot be scaled.
    """

    linears: Sequence[BlockLinear]
    statistic: S
    norm: Any = None
    offset: float = 0.0
    before: BlockLinear | None = None

    @property
    def foldable(self) -> bool:
        return self.norm is not None or self.before is not None

    def apply(self, scale: torch.Tensor) -> None:
        """Multiply the linears' columns by `scale` [cols] and divide the producer by it, in place."""
        for linear in self.linears:
            linear.store(linear.weight.float() * scale)
        if self.norm is not None:
            weight = self.norm.weight.detach()
            weight.copy_((weight.float() + self.offset) / scale - self.offset)
            _divide(getattr(self.norm, "bias", None), scale)
        elif self.before is not None:
            self.before.store(self.before.weight.float() / scale[:, None])
            _divide(getattr(self.before.module, "bias", None), scale)


@dataclass
class _Trace:
    """One run of the block on one window: its output, the linears' outputs, and who made which tensor."""

    output: torch.Tensor
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    makers: dict[str, Any] = field(default_factory=dict)  # linear -> norm whose output is its input


def find_folds(
    job: BlockWork, groups: Sequence[tuple[Sequence[BlockLinear], S]], *, through_linears: bool
) -> list[ScaleGroup[S]]:
    """The groups with their folds. `through_linears` also tries the linears that ran before."""
    trace = _run(job)
    found = [ScaleGroup(linears, statistic) for linears, statistic in groups]
    earlier: list[BlockLinear] = []
    for group in found:
        if not any(linear.kind == "expert" for linear in group.linears):
            _find(job, group, trace, list(reversed(earlier)) if through_linears else [])
        earlier.extend(linear for linear in group.linears if linear.kind != "expert")
    return found


def _find(job: BlockWork, group: ScaleGroup[Any], trace: _Trace, earlier: Sequence[BlockLinear]) -> None:
    cols = group.linears[0].weight.shape[1]
    norm = trace.makers.get(group.linears[0].name)
    candidates: list[dict[str, Any]] = []
    if norm is not None and norm.weight.shape == (cols,):
        candidates = [{"norm": norm, "offset": 0.0}, {"norm": norm, "offset": 1.0}]
    else:
        candidates = [{"before": linear} for linear in earlier if linear.weight.shape[0] == cols]
    for candidate in candidates:
        trial = ScaleGroup(group.linears, group.statistic, **candidate)
        if _holds(job, trial, trace):
            group.norm, group.offset, group.before = trial.norm, trial.offset, trial.before
            return


def _holds(job: BlockWork, group: ScaleGroup[Any], dense: _Trace) -> bool:
    """Whether a random scale leaves the outputs of the group's linears and of the block as they are."""
    like = group.linears[0].weight
    generator = torch.Generator().manual_seed(0)
    powers = torch.randint(0, LARGEST_POWER + 1, (like.shape[1],), generator=generator)
    scale = torch.exp2(-powers.float()).to(like.device)
    with restored(group):
        group.apply(scale)
        scaled = _run(job)
    tolerance = TOLERANCE.get(str(like.dtype).removeprefix("torch."), 1e-3)
    names = [linear.name for linear in group.linears]
    pairs = [(dense.outputs[name], scaled.outputs[name]) for name in names if name in dense.outputs]
    pairs.append((dense.output, scaled.output))
    return all(_distance(a, b) <= tolerance for a, b in pairs)


@contextmanager
def restored(group: ScaleGroup[Any]) -> Iterator[None]:
    """Put the weights that `group.apply` changes back at the end."""
    modules = [linear.module for linear in group.linears]
    before = None if group.before is None else group.before.module
    modules += [module for module in (group.norm, before) if module is not None]
    tensors = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    kept = {key: parameter.detach().clone() for key, parameter in tensors.items()}
    try:
        yield
    finally:
        for key, parameter in tensors.items():
            parameter.detach().copy_(kept[key])


def _run(job: BlockWork) -> _Trace:
    """Run the block on its first window. The trace holds the block's change of its input, not the residual itself."""
    window = job.windows.first_window()
    trace = _Trace(torch.empty(0))
    made: dict[int, tuple[torch.Tensor, Any]] = {}
    with ExitStack() as stack:
        for module in job.block.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.dim() == 1:
                stack.callback(module.register_forward_hook(_remember(made)).remove)
        for linear in job.linears:
            if linear.kind != "expert":
                stack.callback(linear.module.register_forward_hook(_follow(linear, made, trace)).remove)
        output = window.run(job.block, job.index, 0)
    trace.output = output - window.hidden[0].to(output.device)
    return trace


def _remember(made: dict[int, tuple[torch.Tensor, Any]]) -> Any:
    def hook(module: Any, arguments: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            made[id(output)] = (output, module)

    return hook


def _follow(linear: BlockLinear, made: dict[int, tuple[torch.Tensor, Any]], trace: _Trace) -> Any:
    def hook(module: Any, arguments: Any, output: Any) -> None:
        trace.outputs[linear.name] = output
        if arguments and id(arguments[0]) in made:
            trace.makers[linear.name] = made[id(arguments[0])][1]

    return hook


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    first, second = first.float(), second.float()
    return float((first - second).norm() / first.norm().clamp_min(1e-20))


def _divide(bias: Any, scale: torch.Tensor) -> None:
    if bias is not None:
        bias.detach().copy_(bias.detach().float() / scale)

"""Which weights of a decoder block can be compressed, and how to read, replace and watch them.

Three things hold a linear's weight in transformers models: `nn.Linear`, GPT-2's `Conv1D` (transposed), and the fused
experts of a mixture of experts (one 3-D parameter, a slice per expert, used through `F.linear`). All three become a
`Linear` here, with a weight [rows, cols], so that no method and no walk needs to know the architecture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from methods.inputs.telemetry import check_weights
from methods.lazy import torch
from methods.walk.factored import factors_of

Watch = Callable[["Linear", "torch.Tensor"], None]

LEAST_SHARE = 0.05  # of a block's numbers: smaller matrices that are no linears are routers, convolutions, positions


@dataclass(frozen=True)
class Linear:
    """One weight [rows, cols] inside a block. `parent` holds it as attribute `attribute`.

    kind: `linear` (nn.Linear), `conv1d` (stored transposed) or `expert` (slice `expert` of a 3-D parameter).
    """

    name: str
    module: Any
    parent: Any
    attribute: str
    kind: str
    expert: int = 0

    @property
    def weight(self) -> torch.Tensor:
        """The weight as [rows, cols], a view of what the model holds."""
        if self.kind == "expert":
            parameter: torch.Tensor = getattr(self.module, self.attribute).detach()
            return parameter[self.expert]
        stored: torch.Tensor = self.module.weight.detach()
        return stored.T if self.kind == "conv1d" else stored

    @property
    def group(self) -> str:
        """The name without the number of the expert: all experts of a parameter run in one step."""
        return self.name.rpartition(".")[0] if self.kind == "expert" else self.name

    def store(self, weight: torch.Tensor) -> None:
        """Put `weight` [rows, cols] in place, in the dtype of the model."""
        self.weight.copy_(weight)

    def store_factors(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Replace the linear by two: `right` [rank, cols] first, then `left` [rows, rank] with the bias."""
        if self.kind == "expert":
            self.store(left @ right)  # fused experts have one parameter for all: the product takes its place
            return
        setattr(self.parent, self.attribute, factors_of(self.module, left, right))


def linears_of(block: torch.nn.Module) -> list[Linear]:
    """Every linear of a block, in the order of its modules.

    Linears with a single output are left out: they are gates (the shared expert of Qwen-MoE), not projections.
    """
    found: list[Linear] = []
    for path, module in block.named_modules():
        parent = block.get_submodule(path.rpartition(".")[0]) if path else block
        attribute = path.rpartition(".")[2]
        if isinstance(module, torch.nn.Linear):
            if module.weight.shape[0] > 1:
                found.append(Linear(path, module, parent, attribute, "linear"))
        elif type(module).__name__ == "Conv1D" and module.weight.dim() == 2:
            found.append(Linear(path, module, parent, attribute, "conv1d"))
        else:
            found.extend(_experts(path, module))
    return found


def _experts(path: str, module: Any) -> Iterator[Linear]:
    """Slices of fused experts, [experts, rows, cols]; layouts that say they are transposed are not supported."""
    if getattr(module, "is_transposed", False):
        return
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() == 3 and re.search("proj", name):
            for number in range(parameter.shape[0]):
                yield Linear(
                    f"{path}.{name}.{number}" if path else f"{name}.{number}", module, None, name, "expert", number
                )


def check_linears(linears: Sequence[Linear], block: int) -> None:
    """Raise CompressionError naming `block` and the first of its `linears` whose weight holds NaN or infinity."""
    check_weights({f"block {block} {linear.name}": linear.weight for linear in linears})


@dataclass(frozen=True)
class Unsupported:
    """A large weight of a block that cannot be compressed: its name, shape and the class that holds it."""

    name: str
    shape: tuple[int, ...]
    kind: str


def experts_of(block: torch.nn.Module) -> list[list[Linear]]:
    """The linears that are slices of fused experts, by parameter."""
    found: dict[str, list[Linear]] = {}
    for linear in linears_of(block):
        if linear.kind == "expert":
            found.setdefault(linear.group, []).append(linear)
    return list(found.values())


def unsupported(block: torch.nn.Module) -> list[Unsupported]:
    """Matrices that hold a good part of the block's numbers and are no linears: experts in other layouts."""
    covered = {id(linear.module.weight) for linear in linears_of(block) if linear.kind != "expert"}
    covered |= {id(getattr(group[0].module, group[0].attribute)) for group in experts_of(block)}
    least = LEAST_SHARE * sum(parameter.numel() for parameter in block.parameters())
    found = []
    for path, module in block.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            wide = sum(size > 1 for size in parameter.shape) >= 2
            if wide and id(parameter) not in covered and parameter.numel() >= least:
                place = f"{path}.{name}" if path else name
                found.append(Unsupported(place, tuple(parameter.shape), type(module).__name__))
    return found


@contextmanager
def watched(linears: Sequence[Linear], watch: Watch, valid: torch.Tensor | None = None) -> Iterator[None]:
    """While open, `watch(linear, inputs)` is called before each linear runs.

    `inputs` is the very tensor that the linear receives, so linears that share an input can be recognised. `valid`
    (a flat mask over the tokens of the batch) drops padding before tokens are routed to experts.
    """
    with ExitStack() as stack:
        fused: dict[int, list[Linear]] = {}
        for linear in linears:
            if linear.kind == "expert":
                fused.setdefault(id(linear.module), []).append(linear)
            else:
                hook = linear.module.register_forward_pre_hook(_watching(linear, watch), with_kwargs=True)
                stack.enter_context(_removed(hook))
        for experts in fused.values():
            _watch_experts(stack, experts, watch, valid)
        yield


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _watching(linear: Linear, watch: Watch) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
    def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        watch(linear, arguments[0] if arguments else next(iter(keywords.values())))

    return hook


def _watch_experts(stack: ExitStack, experts: list[Linear], watch: Watch, valid: torch.Tensor | None) -> None:
    """Fused experts have no module of their own: see the products with a slice of their parameter."""
    module = experts[0].module
    by_place = {linear.weight.data_ptr(): linear for linear in experts}
    config = getattr(module, "config", None)
    if config is not None and hasattr(config, "_experts_implementation"):
        stack.enter_context(_set(config, "_experts_implementation", "eager"))  # one F.linear per expert
    mode: list[Any] = []

    def before(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        mode.append(_linear_calls(by_place, watch))
        mode[-1].__enter__()
        if valid is None:
            return None
        return tuple(_rows(a, valid) for a in arguments), {key: _rows(a, valid) for key, a in keywords.items()}

    def after(_: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        mode.pop().__exit__(None, None, None)
        if valid is None or output is None:  # None: the pass was stopped inside
            return None
        full = output.new_zeros(valid.shape[0], *output.shape[1:])
        full[valid] = output
        return full

    stack.enter_context(_removed(module.register_forward_pre_hook(before, with_kwargs=True)))
    stack.enter_context(_removed(module.register_forward_hook(after, always_call=True)))


def _rows(value: Any, valid: torch.Tensor) -> Any:
    is_per_token = isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == valid.shape[0]
    return value[valid] if is_per_token else value


@contextmanager
def _set(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


def _linear_calls(by_place: dict[int, Linear], watch: Watch) -> Any:
    """A torch function mode that reports `F.linear(inputs, slice of a watched parameter)`."""
    from torch.overrides import TorchFunctionMode

    class LinearCalls(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
            if function is torch.nn.functional.linear and len(arguments) > 1:
                linear = by_place.get(arguments[1].data_ptr())
                if linear is not None:
                    watch(linear, arguments[0])
            return function(*arguments, **(keywords or {}))

    return LinearCalls()

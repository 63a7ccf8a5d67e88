"""The last block's position-wise modules, run only at the places that are read.

What the last block gives at a place that predicts nothing is thrown away, yet its MLP, its queries and its output
projection run there too. Here they get the rows of the places alone, and zeros stand for the others. Which modules of
an architecture bear that is found by trying: NaN at every other place of a module's input and output must not reach a
log-likelihood, so keys and values, which all later places read, and modules that mix places rule themselves out. The
hard case is a module that is not called with one tensor: its children are tried instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from calib.settings import SettingsError
from methods.lazy import torch
from methods.walk.decoder import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Modules = Mapping[str, type]  # by name in the last block; a module of another type under that name runs everywhere


class Agrees(Protocol):
    """Whether scores stay the same with these modules run only where they are read."""

    def __call__(self, modules: Modules, *, poisoned: bool) -> bool: ...


@dataclass(frozen=True)
class Reading:
    """Which modules of the last block run where, in one model call.

    places: (u,), int64, of `positions` in the flattened call. `poisoned`: run everywhere, with NaN at other places.
    """

    modules: Modules
    places: torch.Tensor
    positions: int
    poisoned: bool = False


@contextmanager
def only_where_read(block: torch.nn.Module, reading: Reading | None) -> Iterator[None]:
    """Run the reading's modules of `block` at its places alone while open; other rows of their outputs are zero."""
    if reading is None:
        yield
        return
    with ExitStack() as stack:
        for name, module in block.named_modules():
            if reading.modules.get(name) is type(module):
                stack.enter_context(_narrowed(module, reading))
        yield


def placewise_modules(model: PreTrainedModel, agrees: Agrees) -> Modules:
    """The largest modules of the model's last block that can run only where they are read.

    Scores must agree with these modules so run, poisoned or not.
    """
    try:
        block = decoder_blocks(model)[-1]
    except SettingsError:  # not a stack of blocks
        return {}
    called: set[str] = set()
    with ExitStack() as stack:
        for name, module in block.named_modules():
            stack.callback(module.register_forward_hook(lambda *_, name=name: called.add(name)).remove)
        agrees({}, poisoned=False)
    found: dict[str, type] = {}
    waiting = [*block.named_children()]
    while waiting:
        name, module = waiting.pop()
        if all(parameter.dim() < 2 for parameter in module.parameters()):
            continue  # nothing to save
        # of some modules only the children or the weights are used
        if name in called and agrees({**found, name: type(module)}, poisoned=True):
            found[name] = type(module)
        else:
            waiting += [(f"{name}.{child}", part) for child, part in module.named_children()]
    return found if found and agrees(found, poisoned=False) else {}


@contextmanager
def _narrowed(module: Any, reading: Reading) -> Iterator[None]:
    before = vars(module).get("forward")
    module.forward = narrow(module.forward, reading)
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def narrow(inner: Callable[..., torch.Tensor], reading: Reading) -> Callable[..., torch.Tensor]:
    """The forward `inner`, given the rows of the reading's places alone; other rows of its output are zero."""
    places, nan = reading.places, float("nan")

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.flatten(0, -2)
        if len(rows) != reading.positions:
            raise ValueError(f"{len(rows)} rows, of {reading.positions} positions")
        read = rows[places]
        if reading.poisoned:
            spoiled = torch.full_like(rows, nan).index_copy_(0, places, read)
            output = inner(spoiled.view_as(inputs)).flatten(0, -2)[places]
        else:
            output = inner(read.view(*[1] * (inputs.dim() - 2), *read.shape)).flatten(0, -2)
        whole = output.new_full((len(rows), output.shape[-1]), nan if reading.poisoned else 0.0)
        return whole.index_copy_(0, places, output).view(*inputs.shape[:-1], -1)

    return forward

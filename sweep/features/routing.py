"""Which experts the tokens of windows are sent to, in a mixture of experts.

Fused experts of transformers are called with the tokens, the numbers of the experts of each token, and their weights;
the numbers are the only integers among them, so no table of architectures is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from methods.lazy import torch
from methods.walk.linears import experts_of


def expert_modules(block: torch.nn.Module) -> dict[int, Any]:
    """The modules of a block that hold fused experts, by `id`, in their order: module and number of its experts."""
    groups = experts_of(block)
    return {id(group[0].module): (group[0].module, len(group)) for group in groups}


@contextmanager
def routed(block: torch.nn.Module, windows: int, *, wanted: bool = True) -> Iterator[list[torch.Tensor]]:
    """While open, a run of the block on `windows` windows appends [windows, experts], int64, for each of its mixtures:
    how many tokens of each window go to each expert. Nothing is appended unless `wanted`."""
    loads: list[torch.Tensor] = []

    def count(experts: int) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            chosen = next(each for each in (*arguments, *keywords.values()) if _is_choice(each))
            bins = experts + 1  # the last: numbers beyond the experts, which stand for no expert
            first = bins * torch.arange(windows, device=chosen.device)
            places = first[:, None] + chosen.reshape(windows, -1).clamp_max(experts)
            counts = torch.bincount(places.flatten(), minlength=windows * bins)
            loads.append(counts.reshape(windows, bins)[:, :experts])

        return hook

    with ExitStack() as stack:
        for module, experts in expert_modules(block).values() if wanted else ():
            stack.callback(module.register_forward_pre_hook(count(experts), with_kwargs=True).remove)
        yield loads


def _is_choice(value: Any) -> bool:
    """Whether it is the numbers of the experts of each token, [tokens, experts of one]."""
    return isinstance(value, torch.Tensor) and value.dim() == 2 and not value.is_floating_point()

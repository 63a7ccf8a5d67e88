"""What a model computes from the length of a whole call, and what it keeps of the calls before.

Rotary frequencies of some kinds follow the largest position of a call: LongRoPE takes other ones beyond the original
context, dynamic NTK scaling makes new ones for every length beyond it. Two sequences of one call share them, so the
longer one moves the results of the shorter one, and of frequencies that grow the next call finds what the last one
left. `LengthRule` says which lengths may share a call: rotary modules are asked, so no kind has to be known by its
name. `forgetful` lets every call find a model as it was loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from methods.lazy import torch

PROBED = 3  # positions that a rotary module is asked for: the first two show frequencies and scale, the last the length


@contextmanager
def forgetful(model: torch.nn.Module) -> Iterator[None]:
    """While open, no rotary module of `model` remembers a call; afterwards all are as they were loaded."""
    with ExitStack() as stack:
        for module in model.modules():
            if _remembered(module):
                stack.callback(_forget, module)
                hook = module.register_forward_pre_hook(lambda module, _: _forget(module))
                stack.callback(hook.remove)
        yield


def _remembered(module: Any) -> list[str]:
    """Prefixes of the frequencies that transformers lets grow with the longest call so far (`dynamic_rope_update`)."""
    kinds = getattr(module, "rope_type", None)
    by_prefix = {f"{layer}_": kind for layer, kind in kinds.items()} if isinstance(kinds, dict) else {"": kinds}
    return [
        prefix
        for prefix, kind in by_prefix.items()
        if "dynamic" in str(kind) and getattr(module, f"{prefix}original_inv_freq", None) is not None
    ]


def _forget(module: Any) -> None:
    for prefix in _remembered(module):
        now = getattr(module, f"{prefix}inv_freq")
        setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").to(now.device))
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def padded_positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions that count the tokens of each window alone, so that padding makes none longer; both [windows, length].

    `mask` is zero at padding.
    """
    return (mask.cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class LengthRule:
    """Which lengths share what a model's rotary modules compute: see `length_rule`."""

    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]]  # (a copy of a module on the CPU, arguments, keywords)
    _tables: dict[int, bytes] = field(default_factory=dict)

    def classes(self, lengths: Sequence[int]) -> list[int]:
        """A number for every length, in tokens; those with the same number may share a call."""
        known = sorted({int(length) for length in lengths})
        if not known or self.table(known[0]) == self.table(known[-1]):
            return [0] * len(lengths)
        numbers: dict[bytes, int] = {}
        by_length = {length: numbers.setdefault(self.table(length), len(numbers)) for length in known}
        return [by_length[int(length)] for length in lengths]

    def turn(self, longest: int) -> int | None:
        """The largest length that computes as the shortest does; None when all up to `longest` do."""
        low, high = 1, longest
        if self.table(low) == self.table(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.table(middle) == self.table(1) else (low, middle)
        return low

    def table(self, length: int) -> bytes:
        """What rotary modules give for the first two positions of a sequence of `length` tokens."""
        if length not in self._tables:
            positions = torch.tensor([0, 1, max(length - 1, 1)])
            self._tables[length] = b"".join(_ask(*call, positions) for call in self.calls)
        return self._tables[length]


def length_rule(model: torch.nn.Module, run: Callable[[torch.Tensor], Any]) -> LengthRule:
    """The rule of `model`; `run` sends token ids [1, n] through it and is called once.

    A rotary module is one without parameters that holds inverse frequencies and is called with positions.
    """
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def note(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if any(_are_positions(given) for given in (*arguments, *keywords.values())):
            given = tuple(_on_cpu(each) for each in arguments)
            named = {name: _on_cpu(each) for name, each in keywords.items()}
            calls.append((copies[id(module)], given, named))

    copies: dict[int, Any] = {}
    with ExitStack() as stack, torch.no_grad(), forgetful(model):
        for module in model.modules():
            if _is_rotary(module):
                copies[id(module)] = copy.deepcopy(module).to("cpu")
                stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        if copies:
            run(torch.zeros(1, PROBED, dtype=torch.long, device=next(model.parameters()).device))
    return LengthRule(calls)


def _is_rotary(module: Any) -> bool:
    return next(module.parameters(), None) is None and any(
        name.endswith("inv_freq") and not buffer.is_meta for name, buffer in module.named_buffers(recurse=False)
    )


def _are_positions(given: Any) -> bool:
    return (
        isinstance(given, torch.Tensor)
        and not given.is_floating_point()
        and given.shape[-1:] == (PROBED,)
        and bool((given == torch.arange(PROBED, device=given.device)).all())
    )


def _on_cpu(given: Any) -> Any:
    """In float32, so that no difference is rounded away."""
    if not isinstance(given, torch.Tensor):
        return given
    return given.detach().cpu().float() if given.is_floating_point() else given.detach().cpu()


def _ask(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], positions: torch.Tensor) -> bytes:
    def swapped(given: Any) -> Any:
        return positions.expand(given.shape) if _are_positions(given) else given

    _forget(module)
    try:
        with torch.no_grad():
            found = module(*map(swapped, arguments), **{name: swapped(given) for name, given in keywords.items()})
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return bytes(positions.numpy().tobytes())  # nothing is known, so every length stays by itself
    tensors = found if isinstance(found, (tuple, list)) else (found,)
    return b"".join(_first(each) for each in tensors if isinstance(each, torch.Tensor))


def _first(found: torch.Tensor) -> bytes:
    """The numbers of the first two positions; of tables of another shape all, which the length is part of."""
    if found.dim() >= 2 and found.shape[-2] == PROBED:
        found = found[..., :2, :]
    return bytes(found.contiguous().numpy().tobytes())

"""A model cut to its first blocks, as few as show every kind of layer: what is tried on it costs a few blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from methods.lazy import torch

SAMPLED = 8  # blocks that stand for a whole model at most: Gemma 3 repeats itself after 6


@contextmanager
def cut_to(model: Any, blocks: torch.nn.ModuleList, count: int) -> Iterator[None]:
    """While open, the model has the first `count` of its decoder blocks alone."""
    whole = blocks._modules
    config = model.config.get_text_config()
    try:
        blocks._modules = dict(list(whole.items())[:count])
        config.num_hidden_layers = count
        yield
    finally:
        blocks._modules = whole
        config.num_hidden_layers = len(whole)


def enough(kinds: Sequence[object]) -> int:
    """The number of first blocks that show every kind of block, `SAMPLED` at most; `kinds` are those of all blocks."""
    count = min(SAMPLED, len(kinds))
    return next((n for n in range(1, count) if set(kinds[:n]) == set(kinds)), count)


def block_kinds(model: Any, blocks: torch.nn.ModuleList) -> list[object]:
    """What each block is: its kind of layer in the configuration, and the settings that its modules hold."""
    layer_types = getattr(model.config.get_text_config(), "layer_types", None) or [None] * len(blocks)
    return [
        (kind, tuple((path, type(module).__name__, _settings(module)) for path, module in block.named_modules()))
        for kind, block in zip(layer_types, blocks, strict=True)
    ]


def _settings(module: torch.nn.Module) -> tuple[tuple[str, object], ...]:
    """Switches, sizes and names that a module holds, without the number of its layer."""
    plain = [(name, value) for name, value in vars(module).items() if isinstance(value, bool | int | str)]
    return tuple((name, value) for name, value in sorted(plain) if not re.search("idx|index|layer_id|number", name))

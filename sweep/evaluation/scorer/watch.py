"""Whether a model's logits were NaN while it wrote texts, which no text shows: the largest of NaNs is some token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from methods.lazy import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Within the block, whether the logits of some step were NaN; a tensor that is read once, at the end."""
    seen: list[torch.Tensor] = []

    def look(_: Any, __: Any, output: Any) -> None:
        nan = output.logits[:, -1].isnan().any()
        seen[:] = [seen[0] | nan] if seen else [nan]

    hook = model.register_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()

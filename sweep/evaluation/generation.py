"""Generation tasks: lm-eval's own model class on the model in memory, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from sweep.evaluation.forward import TokenBudget
from sweep.evaluation.requests import Generation, quiet

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

CUDA_BATCH = 64
CPU_BATCH = 8


def generate(
    model: Any, tokenizer: Any, generations: Sequence[Generation], max_length: int, budget: TokenBudget
) -> Sequence[str | None]:
    """The continuation of every prompt, by `HFLM.generate_until`; None for all when logits were NaN on the way.

    The largest of NaNs is some token, so that a broken model would write something.
    """
    from lm_eval.models.huggingface import HFLM

    batch = CUDA_BATCH if budget.device.type == "cuda" else CPU_BATCH
    with quiet("lm_eval"), torch.inference_mode(), _watched(model) as seen:
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=max_length)
        texts = list(wrapped.generate_until([_instance(item) for item in generations], disable_tqdm=True))
        return [None] * len(texts) if any(seen) else texts


@contextmanager
def _watched(model: Any) -> Iterator[list[torch.Tensor]]:
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


def _instance(item: Generation) -> Instance:
    from lm_eval.api.instance import Instance

    return Instance(request_type="generate_until", doc={}, arguments=(item.prompt, item.arguments), idx=0)

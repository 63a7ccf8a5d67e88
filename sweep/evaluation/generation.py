"""Generation tasks: lm-eval's own model class on the model in memory, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sweep.evaluation.forward import TokenBudget
from sweep.evaluation.requests import Generation, quiet
from sweep.evaluation.watch import watched

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
    with quiet("lm_eval"), torch.inference_mode(), watched(model) as seen:
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=max_length)
        texts = list(wrapped.generate_until([_instance(item) for item in generations], disable_tqdm=True))
        return [None] * len(texts) if any(seen) else texts


def _instance(item: Generation) -> Instance:
    from lm_eval.api.instance import Instance

    return Instance(request_type="generate_until", doc={}, arguments=(item.prompt, item.arguments), idx=0)

"""The largest token ids of what a model will be asked, and where each stands; without torch.

Held against the rows of a model's embedding before a worker starts (`sweep/runs/vocabulary.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.questions.requests import TaskRequests

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LargestId:
    """The largest token id of something that a model will be given."""

    id: int
    place: str  # where it stands, for an error: `calibration: source 'tickets'`


def largest_ids(
    tasks: TaskRequests, heldout: Sequence[HeldOut], tokenizer: PreTrainedTokenizerBase
) -> tuple[LargestId, ...]:
    """The largest id of each held-out text, of the task that has the largest, and of the prompts to be continued."""
    found = [LargestId(int(text.tokens.max()), f"evaluation.heldout: '{text.label}'") for text in heldout]
    tokens = tasks.requests.tokens
    if tokens.size:
        place = int(np.searchsorted(tasks.requests.offsets, int(tokens.argmax()), side="right")) - 1
        found.append(LargestId(int(tokens.max()), f"evaluation.tasks: task '{_task_of(tasks, place)}'"))
    prompts = sorted({generation.prompt for generation in tasks.generations})
    if prompts:
        ids = [number for text in tokenizer(prompts)["input_ids"] for number in text]
        names = ", ".join(task.name for task in tasks.tasks if any(call.kind == "generation" for call in task.calls))
        found.append(LargestId(max(ids, default=0), f"evaluation.tasks: task '{names}'"))
    return tuple(found)


def _task_of(tasks: TaskRequests, request: int) -> str:
    for task in tasks.tasks:
        for call in task.calls:
            if call.kind != "generation" and call.start <= request < call.stop:
                return task.name
    return "?"

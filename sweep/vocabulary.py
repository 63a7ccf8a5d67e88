"""The token ids that texts and requests really use, against the rows of a model's embedding.

A tokenizer may know more tokens than the model (added tokens that nobody uses), and an embedding may have more rows
than the tokenizer has tokens; both are common and harmless. What is wrong is an id that is used and has no row: it ends
in an error deep inside a kernel, or in another token's row. So the ids themselves are looked at, of calibration sets,
requests and held-out windows alike, before a worker starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.settings import SettingsError
from sweep.models import ModelRef, load_tokenizer

if TYPE_CHECKING:
    from calib.build import CalibrationSet
    from sweep.evaluation.suite import EvaluationData


@dataclass(frozen=True)
class LargestId:
    """The largest token id of something that a model will be given."""

    id: int
    place: str  # where it stands, for an error: `calibration: source 'tickets'`


def largest_in_sets(sets: Sequence[CalibrationSet]) -> dict[str, LargestId]:
    """The largest id of each calibration set, by the set's id."""
    return {
        built.id: LargestId(int(built.tokens.max()), f"calibration: source '{built.spec.source.label}'")
        for built in sets
    }


def largest_in_requests(data: EvaluationData, tokenizer: Any) -> tuple[LargestId, ...]:
    """The largest id of each held-out text, of the task that has the largest, and of the prompts to be continued."""
    found = [LargestId(int(text.tokens.max()), f"evaluation.heldout: '{text.label}'") for text in data.heldout]
    tokens = data.tasks.requests.tokens
    if tokens.size:
        place = int(np.searchsorted(data.tasks.requests.offsets, int(tokens.argmax()), side="right")) - 1
        found.append(LargestId(int(tokens.max()), f"evaluation.tasks: task '{_task_of(data, place)}'"))
    prompts = sorted({generation.prompt for generation in data.tasks.generations})
    if prompts:
        ids = [number for text in tokenizer(prompts)["input_ids"] for number in text]
        names = ", ".join(
            task.name for task in data.tasks.tasks if any(call.kind == "generation" for call in task.calls)
        )
        found.append(LargestId(max(ids, default=0), f"evaluation.tasks: task '{names}'"))
    return tuple(found)


def refuse_unknown_ids(model: ModelRef, rows: int, used: Iterable[LargestId]) -> None:
    """Raise SettingsError when a model with `rows` embeddings is given an id that has none."""
    for largest in used:
        if largest.id >= rows:
            token = load_tokenizer(model).convert_ids_to_tokens(largest.id)
            raise SettingsError(
                f"{largest.place}: the tokenizer of {model.name} makes the id {largest.id} ({token!r}) of it, and the "
                f"model has embeddings for 0 to {rows - 1} alone; give the tokenizer that belongs to the model, or "
                "text without such tokens"
            )


def _task_of(data: EvaluationData, request: int) -> str:
    for task in data.tasks.tasks:
        for call in task.calls:
            if call.kind != "generation" and call.start <= request < call.stop:
                return task.name
    return "?"

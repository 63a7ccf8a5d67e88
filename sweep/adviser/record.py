"""What was decided and why, as `adviser.json` in the results folder: the report draws it, and a person can check it.

It is written after every round, whole or not at all. Nothing is read back from it but the number of workers that a
budget was shared by: decisions come from the trials alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from calib.settings import SettingsError
from sweep.adviser.candidates import Look
from sweep.adviser.conduct import Conclusion, Step
from sweep.adviser.question import Question
from sweep.adviser.study import Design
from sweep.results import Results, ResultsError

FILE = "adviser.json"
VERSION = 1


def write_record(
    store: Results,
    question: Question,
    design: Design,
    looks: Sequence[Look],
    steps: Sequence[Step],
    workers: int,
    ended: Conclusion | None = None,
    lines: Sequence[str] = (),
) -> None:
    """Write what is known until now; `ended` and the answer's `lines` when it is over."""
    content = {
        "version": VERSION,
        "study": design.name,
        "question": plain(question),
        "model": design.studies["full"].models[0].name,
        "method": design.studies["full"].labels[-1],
        "control": design.studies["full"].labels[0] if len(design.studies["full"].labels) > 1 else None,
        "workers": workers,
        "arms": [{"name": arm.name, "shares": arm.shares} for arm in design.arms],
        "targets": [{"name": t.name, "unit": t.unit, "measure": t.measure} for t in design.targets],
        "looks": [plain(look) for look in looks],
        "rounds": [_round(number, step) for number, step in enumerate(steps, 1)],
        "ended": None if ended is None else _ended(ended),
        "lines": list(lines),
    }
    store.write_text(FILE, json.dumps(content, indent=1, allow_nan=False))


def recorded_workers(store: Results) -> int | None:
    """The workers that an earlier command with this folder had; None when there was none.

    Raises SettingsError for a file that is no record.
    """
    try:
        text = store.read_text(FILE)
        found = json.loads(text) if text is not None else {}
        workers = found.get("workers") if isinstance(found, Mapping) else ()
    except (ValueError, RecursionError, ResultsError):
        workers = ()
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise SettingsError(
            f"--results {store.root}: {FILE} there is no record of an adviser; delete it, or choose another folder"
        )
    return workers


def _round(number: int, step: Step) -> dict[str, Any]:
    return {
        "number": number,
        "reason": step.reason,
        "spent": step.spent,
        "deciding": step.seconds,
        "trials": [
            {"trial_id": trial_id, **plain(outcome)} for trial_id, outcome in zip(step.ids, step.outcomes, strict=True)
        ],
        "verdict": plain(step.verdict),
    }


def _ended(ended: Conclusion) -> dict[str, Any]:
    return {
        "stop": plain(ended.stop),
        "verdict": plain(ended.verdict),
        "rules": plain(ended.rules),
        "costs": plain(ended.costs),
        "controls": plain(ended.controls),
        "examples": list(ended.examples),
        "wanted_examples": list(ended.wanted),
        "deciding": ended.deciding,
    }


def plain(value: Any) -> Any:
    """JSON of dataclasses; numbers that are none in JSON are null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if not hasattr(value, "item") else plain(value.item())

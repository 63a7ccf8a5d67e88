"""What may stand in one results folder: numbers that were made from the same evaluation, requests and models.

Ids say what a trial was asked to be; the data sets and models behind the names of a hub can change all the same. What
was found under a name is therefore recorded in every row of `trials/`, and a folder takes no second version of it.
Rows of earlier versions of this package do not say, and are let through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from calib.settings import SettingsError, as_dict
from sweep.evaluation.settings import EvaluationSettings
from sweep.plan import Trial
from sweep.results import Results

PLACES = ("task_path",)  # settings that say where something lies and may change freely


def check_evaluation(trials: Sequence[Trial], before: pl.DataFrame, store: Results) -> None:
    """Refuse trials that are evaluated otherwise than those in the folder. Raises SettingsError."""
    ids = {trial.evaluation_id for trial in trials}
    others = before.filter(pl.col("evaluation_id").is_not_null() & ~pl.col("evaluation_id").is_in(list(ids)))
    if others.is_empty() or not trials:
        return
    difference = _difference(store.read_text("study.yaml"), trials[0].evaluation)
    raise SettingsError(
        f"--results {store.root}: {others.height} trials there have another evaluation: {difference}; "
        "give it as it was, or choose another folder"
    )


def _difference(text: str | None, now: EvaluationSettings) -> str:
    """`limit was 6 and is 3`, from the study file in the folder."""
    document = yaml.safe_load(text) if text else None
    earlier = document.get("evaluation") if isinstance(document, Mapping) else None
    if not isinstance(earlier, Mapping):
        return "which settings they have is not known, because study.yaml is missing"
    current: dict[str, Any] = as_dict(now)
    keys = [key for key in current if key not in PLACES and current[key] != earlier.get(key)]
    if not keys:
        return "its settings are the same, but a task's files, a held-out text or this package has changed"
    return ", ".join(f"{key} was {_short(earlier.get(key))} and is {_short(current[key])}" for key in keys)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

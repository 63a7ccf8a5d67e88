"""The `evaluation` section of a study: its paths made absolute, and no code believed without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from calib.files import expanded
from calib.settings import as_dict, identity, parse
from calib.source import located_entry
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.tasks.files import task_hashes

ASKED = (
    *("tasks", "limit", "num_fewshot", "fewshot_seed", "chat_template"),
    *("heldout_windows", "heldout_seqlen"),
)  # settings that decide what a model reads in its evaluation


def parse_evaluation(section: Any, folder: Path) -> EvaluationSettings:
    """The settings in the section; relative paths are read from `folder`. Raises SettingsError."""
    given = parse(EvaluationSettings, section, "evaluation")
    return replace(
        given,
        task_path=_located(given.task_path, folder),
        allow_code=bool(given.allow_code),
        heldout=[
            entry if isinstance(entry, str) else located_entry(entry, folder, f"evaluation.heldout[{number}]")
            for number, entry in enumerate(given.heldout)
        ],
    )


def asked_id(evaluation: EvaluationSettings) -> str:
    """16 hex digits over what a model is asked: settings, and the content of task files and held-out texts."""
    settings = {name: value for name, value in as_dict(evaluation).items() if name in ASKED}
    texts = [{**source.identity(), "revision": source.revision()} for source in evaluation.heldout_sources()]
    files = task_hashes(evaluation.task_names, evaluation.task_path)
    return identity({**settings, "heldout": texts, "task_files": files})


def _located(task_path: str | None, folder: Path) -> str | None:
    return str(folder / expanded(task_path, "evaluation.task_path")) if task_path else task_path

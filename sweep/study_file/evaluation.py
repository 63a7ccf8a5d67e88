"""The `evaluation` section of a study: its paths made absolute, no code believed without a word, and nothing asked that
its models and methods cannot give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calib.files import expanded
from calib.settings import SettingsError, as_dict, identity, parse
from calib.source import located_entry
from methods.base import Method
from methods.target_error import changes_the_whole
from sweep.descriptor import chosen
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.tasks.files import task_hashes
from sweep.models import ModelRef

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


def check_descriptors(evaluation: EvaluationSettings) -> None:
    """Raise SettingsError for a descriptor that there is not."""
    try:
        chosen(evaluation.descriptors)
    except SettingsError as error:
        raise SettingsError(f"evaluation.descriptors: {error}") from None


def check_first_blocks(evaluation: EvaluationSettings, models: Sequence[ModelRef], methods: Sequence[Method]) -> None:
    """Raise SettingsError for as many first blocks as a model has in all, as far as its config is here, and for methods
    that turn hidden states, which cannot be compared with the dense ones then."""
    first = evaluation.first_blocks
    if first is None:
        return
    for model in models:
        if model.blocks is not None:
            refuse_all_blocks(first, model.name, model.blocks)
    for method in methods:
        if changes_the_whole(method):
            raise SettingsError(
                f"evaluation.first_blocks: {method.label} turns the hidden states, so what leaves a block cannot be "
                "compared with the dense model; leave the method out, or first_blocks"
            )


def refuse_all_blocks(first: int, name: str, blocks: int) -> None:
    """Raise SettingsError for as many first blocks as the model of this name has in all."""
    if first >= blocks:
        raise SettingsError(
            f"evaluation.first_blocks: {first}, and {name} has {blocks} in all; choose fewer, or leave it out, which "
            "evaluates the whole model"
        )


def _located(task_path: str | None, folder: Path) -> str | None:
    return str(folder / expanded(task_path, "evaluation.task_path")) if task_path else task_path

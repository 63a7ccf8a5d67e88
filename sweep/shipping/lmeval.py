"""The lm_eval commands that measure a shipped folder as its trial was measured.

lm_eval asks the same questions when it is given the trial's tasks, limit and examples in the prompt. The hard case is
half precision: lm_eval takes the log-softmax in the model's dtype unless it is told otherwise, so the log-likelihood of
an answer has the 8 bits of a bfloat16, answers tie that are merely close, and the first of them wins. Hence
`softmax_dtype=float32`. What remains are the model's own sums, whose order depends on what shares a model call.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.tasks.names import REFERENCE_TASKS, names_of, text_of
from sweep.evaluation.tasks.presets import fewshot_of
from sweep.evaluation.tasks.yamlfiles import Index, leaves, mappings
from sweep.models import ModelRef

BATCH = 8  # requests of a model call
LM_EVAL_SEED = 1234  # that draws the examples in the prompt when nothing is said
HALVES = ("float16", "bfloat16")
BUNDLED = '"$(python -c "import sweep.evaluation.tasks.names as names; print(names.REFERENCE_TASKS)")"'


def lm_eval_commands(model: ModelRef, dtype: str, evaluation: EvaluationSettings, folder: Path) -> list[str]:
    """What is typed in `folder`: one command for the tasks of one place with one number of examples in the prompt.

    dtype: in which the trial was measured. Perturbed variants of tasks are this project's own and not among them.
    """
    fixed = fewshot_of(evaluation.tasks)
    together: dict[tuple[str, Path | None, int | None], list[str]] = {}
    for task in evaluation.task_names:
        for name, start in _asked(task, evaluation.task_path):
            place = _include(name, evaluation.task_path, start or folder)
            together.setdefault((place, start, fixed.get(task, evaluation.num_fewshot)), []).append(name)
    commands = []
    for (place, start, shots), names in together.items():
        arguments = _arguments(model, dtype, _path(folder, start or folder))
        words = [f"lm_eval --model hf --model_args {shlex.quote(arguments)}", f"--tasks {shlex.quote(','.join(names))}"]
        command = " ".join([*words, *_flags(evaluation, shots), *([place] if place else [])])
        commands.append(f"(cd {shlex.quote(_path(start, folder))} && {command})" if start else command)
    return commands


def lm_eval_note(dtype: str) -> str:
    """What may differ from the trial's numbers, in a sentence or two."""
    if dtype not in HALVES:
        return "lm_eval then decides every answer as the trial did, but for ties within the rounding of float32."
    return (
        "Without `softmax_dtype=float32` lm_eval rounds the log-likelihood of an answer to the model's type and takes "
        f"the first of answers that tie. With it, log-likelihoods still move by tenths of a nat, since in {dtype} the "
        "sums of a forward pass depend on which requests share a model call; answers that are as close as that may be "
        "decided otherwise. `recipe.yaml` gives the very numbers where the trial ran."
    )


def _asked(task: str, task_path: str | None) -> list[tuple[str, Path | None]]:
    """What lm_eval is asked for in the place of a task, and the folder to ask in where the shipped one does not do.

    A trial reads `data_files` beside the task's own file, lm_eval where it is started. A group whose tasks have theirs
    in several folders is asked task by task.
    """
    if task_path is None or not _defines(Path(task_path), task):
        return [(task, None)]
    index = Index.read([Path(task_path)])
    found: dict[str, Path | None] = {}
    todo = [task]
    for name in todo:
        file = index.get(name)
        inside = [*index.tags.get(name, ()), *(index.members(file.config) if file else ())]
        if file is not None and any(map(_reads_beside, mappings(file.config))):
            found[name] = file.file.parent
        elif not inside:
            found[name] = None
        else:
            todo += [other for other in inside if other not in todo]
    folders = set(found.values())
    return [(task, folders.pop())] if len(folders) == 1 else list(found.items())


def _reads_beside(config: Mapping[str, Any]) -> bool:
    """Whether a task's `data_files` are named relative to a folder."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    return any("://" not in name and not os.path.isabs(name) for name in leaves(files) if isinstance(name, str))


def _arguments(model: ModelRef, dtype: str, place: str) -> str:
    parts = [f"pretrained={place}", f"dtype={dtype}"]
    if dtype in HALVES:
        parts.append("softmax_dtype=float32")
    if model.length_given:
        parts.append(f"max_length={model.max_length}")
    if model.trust_remote_code:
        parts.append("trust_remote_code=True")
    return ",".join(parts)


def _flags(evaluation: EvaluationSettings, shots: int | None) -> list[str]:
    flags = [f"--batch_size {BATCH}"]
    if shots is not None:
        flags.append(f"--num_fewshot {shots}")
    if evaluation.limit is not None:
        flags.append(f"--limit {evaluation.limit}")
    if evaluation.fewshot_seed != LM_EVAL_SEED:
        flags.append(f"--seed 0,1234,1234,{evaluation.fewshot_seed}")
    if evaluation.chat_template:
        flags.append("--apply_chat_template")
    return flags


def _include(name: str, task_path: str | None, start: Path) -> str:
    """The flag that says where a task lies which does not come with lm_eval, typed in `start`; empty for one that
    does."""
    if task_path is not None and _defines(Path(task_path), name):
        return f"--include_path {shlex.quote(_path(Path(task_path), start))}"
    return f"--include_path {BUNDLED}" if _defines(REFERENCE_TASKS, name) else ""


def _path(place: Path, start: Path) -> str:
    """How `place` is called in the folder `start`."""
    return os.path.relpath(os.path.realpath(place), os.path.realpath(start))


def _defines(folder: Path, name: str) -> bool:
    return any(name in names_of(text_of(file)) for file in folder.rglob("*.yaml"))

"""The lm_eval commands that measure a shipped folder as its trial was measured.

lm_eval asks the same questions when it is given the trial's tasks, limit and examples in the prompt. The hard case is
half precision: lm_eval takes the log-softmax in the model's dtype unless it is told otherwise, so the log-likelihood of
an answer has the 8 bits of a bfloat16, answers tie that are merely close, and the first of them wins. Hence
`softmax_dtype=float32`. What remains are the model's own sums, whose order depends on what shares a model call.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.tasks.names import REFERENCE_TASKS, names_of, text_of
from sweep.evaluation.tasks.presets import fewshot_of
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
    together: dict[tuple[str, int | None], list[str]] = {}
    for name in evaluation.task_names:
        key = _include(name, evaluation.task_path, folder), fixed.get(name, evaluation.num_fewshot)
        together.setdefault(key, []).append(name)
    start = f"lm_eval --model hf --model_args {shlex.quote(_arguments(model, dtype))}"
    return [
        " ".join(
            [start, f"--tasks {shlex.quote(','.join(names))}", *_flags(evaluation, shots), *([place] if place else [])]
        )
        for (place, shots), names in together.items()
    ]


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


def _arguments(model: ModelRef, dtype: str) -> str:
    parts = ["pretrained=.", f"dtype={dtype}"]
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


def _include(name: str, task_path: str | None, folder: Path) -> str:
    """The flag that says where a task lies which does not come with lm_eval; empty for one that does."""
    if task_path is not None and _defines(Path(task_path), name):
        relative = os.path.relpath(os.path.realpath(task_path), os.path.realpath(folder))
        return f"--include_path {shlex.quote(relative)}"
    return f"--include_path {BUNDLED}" if _defines(REFERENCE_TASKS, name) else ""


def _defines(folder: Path, name: str) -> bool:
    return any(name in names_of(text_of(file)) for file in folder.rglob("*.yaml"))

"""What the questions are made from, as far as they know the settings of an evaluation.

`sweep/evaluation/settings.py` stands above this room and answers all of it; what decides how answers are judged
(resamples, divergence) is no business of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from calib.spec import CalibrationSpec
from sweep.evaluation.questions.perturb import Perturbation


class Asked(Protocol):
    """The part of `EvaluationSettings` that decides what a model is asked."""

    @property
    def tasks(self) -> Sequence[str]: ...

    @property
    def task_names(self) -> list[str]: ...

    @property
    def task_path(self) -> str | None: ...

    @property
    def allow_code(self) -> bool | None: ...

    @property
    def limit(self) -> int | None: ...

    @property
    def num_fewshot(self) -> int | None: ...

    @property
    def fewshot_seed(self) -> int: ...

    @property
    def chat_template(self) -> bool: ...

    @property
    def heldout(self) -> Sequence[Any]: ...

    @property
    def heldout_seqlen(self) -> int: ...

    def parsed_perturbations(self, path: str = "evaluation") -> list[Perturbation]: ...

    def heldout_specs(self, path: str = "evaluation") -> list[CalibrationSpec]: ...

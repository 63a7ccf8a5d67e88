"""What is evaluated: tasks, held-out text, and how much of each. The study file's `evaluation:` section.

Everything here is checked without torch, datasets or lm-eval, so that a typo stops a plan within a second and before
any model is loaded. Whether a data set can be reached is known only when the requests are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from calib.build import preflight
from calib.settings import INT32_MAX, SettingsError, settings
from calib.source import get_source
from calib.spec import CalibrationSpec
from sweep.evaluation.questions.perturb import Perturbation
from sweep.evaluation.tasks.check import check_tasks, refuse_labels
from sweep.evaluation.tasks.presets import expand_tasks


@settings
class EvaluationSettings:
    """Settings of one evaluation.

    Every field can change the numbers and is part of a trial's identity, but for `task_path`, whose files count by
    their content, and `allow_code`, without which there are no numbers.
    """

    tasks: list[str] = Field(default_factory=list)
    """lm-eval tasks, groups or tags by name, or a preset (`paper_a`, `paper_b`, `beware`, `reference`)."""
    task_path: str | None = None
    """Folder with task YAML of one's own; relative `data_files` are read relative to their YAML file."""
    allow_code: bool | None = None
    """Whether task files in `task_path` may run the Python code that they name (`!function`, a class, ...). A study
    file that does not say so means false; None is a caller of this class, who runs Python anyway."""
    limit: int | None = Field(default=None, ge=1, le=INT32_MAX)
    """First examples of each task; None takes all."""
    num_fewshot: int | None = Field(default=None, ge=0, le=INT32_MAX)
    """Examples in the prompt, by lm-eval's rule: a task whose own file says 0 keeps 0."""
    fewshot_seed: int = 1234
    """Seed that draws the examples in the prompt (lm-eval's own default)."""
    chat_template: bool = False
    """Render prompts with the tokenizer's chat template."""
    bootstrap_iters: int = Field(default=0, ge=0, le=1_000_000)
    """Resamples for the standard errors that lm-eval bootstraps (`perplexity`, `f1`, ...); 0 leaves those null.
    Standard errors with a closed form (`acc`, ...) are always given."""
    perturbations: list[dict[str, Any]] = Field(default_factory=list)
    """Variants of every task with a seeded perturbation of its prompts: `{perturbation: typos, strength: 0.05}`."""
    heldout: list[str | dict[str, Any]] = Field(default_factory=list)
    """Texts for perplexity and divergence: a domain of the bundled held-out text, or the settings of a source."""
    heldout_windows: int | None = Field(default=None, ge=1, le=INT32_MAX)
    """Windows of each held-out text, drawn by a fixed seed; None takes all of them, in file order."""
    heldout_seqlen: int = Field(default=2048, ge=2, le=INT32_MAX)
    """Tokens of a held-out window."""
    divergence: bool = True
    """Compare the next-token distributions on the held-out windows with the dense model's."""
    first_blocks: int | None = Field(default=None, ge=1, le=INT32_MAX)
    """Compress so many blocks alone, and evaluate nothing but the relative error of what leaves them, on the held-out
    windows: a cheap look at a calibration set, and no compressed model. None compresses and evaluates all of it."""

    descriptors: list[str] | None = None
    """Numbers that describe the calibration sets, by name; None takes those that need no model, [] none. They change no
    trial."""

    def __post_init__(self) -> None:
        if not self.tasks and not self.heldout:
            raise ValueError("tasks: nothing to evaluate; name tasks, heldout, or both")
        if self.perturbations and not self.tasks:
            raise ValueError("perturbations: they vary tasks, and there are none; name tasks")
        if self.first_blocks is not None and (self.tasks or not self.heldout):
            raise ValueError("first_blocks: the first blocks answer no tasks; name heldout alone, or leave it out")

    @property
    def task_names(self) -> list[str]:
        """The lm-eval names asked for, presets expanded, in order and without repeats."""
        return expand_tasks(self.tasks)

    def parsed_perturbations(self, path: str = "evaluation") -> list[Perturbation]:
        return [
            Perturbation.parse(entry, f"{path}.perturbations[{number}]")
            for number, entry in enumerate(self.perturbations)
        ]

    def check(self, path: str = "evaluation", max_length: int | None = None) -> None:
        """Raise SettingsError for unknown tasks or texts, task files that are wrong or run code that is not allowed,
        too little text, and windows longer than the model's context.

        `max_length` is the shortest context of the models, in tokens; None leaves that check out.
        """
        if self.task_path is not None and not Path(self.task_path).is_dir():
            raise SettingsError(f"{path}.task_path: no folder {self.task_path!r}; give the folder with the task YAML")
        self.parsed_perturbations(path)
        tasks = check_tasks(self.tasks, self.task_path, f"{path}.tasks", allow_code=self.allow_code)
        refuse_labels([source.label for source in self.heldout_sources(path)], tasks, path)
        if self.heldout and max_length is not None and self.heldout_seqlen > max_length:
            raise SettingsError(
                f"{path}.heldout_seqlen: {self.heldout_seqlen} tokens do not fit the model's context of "
                f"{max_length}; choose at most {max_length}"
            )
        specs = self.heldout_specs(path)
        try:
            preflight(specs)
        except SettingsError as error:
            asked = f"heldout_windows {self.heldout_windows or 'null'}, heldout_seqlen {self.heldout_seqlen}"
            raise type(error)(f"{path}.heldout ({asked}): {error}") from None

    def heldout_specs(self, path: str = "evaluation") -> list[CalibrationSpec]:
        """The windows of each held-out text, as calibration sets are asked for.

        A few windows are drawn from everywhere in the text, all windows keep its order.
        """
        return [
            CalibrationSpec(
                source=source,
                set=0,
                nsamples=self.heldout_windows,
                seqlen=self.heldout_seqlen,
                sampling="sequential" if self.heldout_windows is None else "windows",
            )
            for source in self.heldout_sources(path)
        ]

    def heldout_sources(self, path: str = "evaluation") -> Sequence[Any]:
        """The calibration sources behind `heldout`; a bare name is a domain of the bundled held-out text."""
        sources = []
        for number, entry in enumerate(self.heldout):
            wanted = {"source": "heldout", "domain": entry} if isinstance(entry, str) else entry
            sources.append(get_source(wanted, f"{path}.heldout[{number}]"))
        labels = [source.label for source in sources]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                raise SettingsError(
                    f"{path}.heldout[{number}]: two texts are called '{label}'; give one of them another `label`"
                )
        refuse_labels(labels, self.task_names, path)
        return sources

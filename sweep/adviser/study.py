"""The studies of a question: the full one, and the short ones whose trials screen the arms.

The full study is the grid that a person without an adviser would run; the adviser runs some of its trials, under the
same ids, so that a launch with its study file runs the rest. One short study takes the first windows of the same sets
and asks the first of the same examples: sets are nested, so a screened draw is the beginning of the full one. The other
takes the sets as they are and compresses the first blocks of the model alone. It is there where all targets are texts,
and no step of the method looks at the blocks behind.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calib.build import TooShort
from calib.settings import SettingsError
from calib.spec import CalibrationSpec
from methods.base import Method, method_name, parse_method
from methods.families.lowrank import LowRank
from methods.families.pruning import PruningMethod
from sweep import plan
from sweep.adviser.candidates import Arm, check_text
from sweep.adviser.outcomes import BLOCKS, FULL, SCREEN, Trial
from sweep.adviser.question import Question
from sweep.adviser.targets import Asked, Target
from sweep.config import Study, parse_study
from sweep.formats.grids import steps_of
from sweep.models import context_length, resolve_model
from sweep.shipping.entries import LONGEST, stored_dtype, with_scales

SMALLER = 8  # times fewer windows and examples in a screen
FEWEST = 4  # windows of each text in a screen
DEEP = 8  # blocks of a model from which on the first ones are a quarter of it or less
FIRST_BLOCKS = 2  # the inputs of the second have met compressed weights already
BLOCK_WINDOWS = 8  # windows of each text that go through them, as many as were measured (docs/adviser.md)
WINDOWS, WINDOW = 32, 512  # of a target's text: windows, and tokens of each
GENERAL_WINDOWS = 16  # of each bundled text, of which there are eight
BYTES_OF_A_TOKEN = 5  # more than most texts have, so that the windows are there
SHORTEST = 32  # tokens of a window of a small text
SCREEN_LIMIT = 64  # examples of each task in a screen, where the full test asks all
GRID = ("bits", "group_size", "sym", "sym_rule", "scale_dtype")
WALK = ("linears", "skip_blocks")


@dataclass(frozen=True)
class Design:
    """A question as studies, and where each trial stands in them."""

    name: str
    arms: tuple[Arm, ...]
    targets: tuple[Target, ...]
    studies: Mapping[str, Study]  # by fidelity
    controls: Mapping[str, tuple[plan.Trial, ...]]  # by fidelity: dense, and the data-free control where there is one
    trials: Mapping[Trial, plan.Trial]  # draws of the arms; of screens by first blocks under `BLOCKS`

    @property
    def names(self) -> list[str]:
        return [arm.name for arm in self.arms]

    @property
    def screened_windows(self) -> int:
        """Windows of a screened set."""
        spec = self.trials[Trial(self.names[0], 0, SCREEN)].spec
        return (spec.nsamples if spec else None) or 1

    def specs(self) -> dict[str, list[CalibrationSpec]]:
        """The sets of each arm in the full study."""
        found: dict[str, list[CalibrationSpec]] = {name: [] for name in self.names}
        for spec in self.studies[FULL].calibration:
            found[spec.source.label].append(spec)
        return found


def make_design(question: Question, arms: Sequence[Arm], asked: Asked, also: Sequence[Arm] = ()) -> Design:
    """Both studies and their trials; `also` is only screened.

    Raises SettingsError for whatever is wrong with model, method or sizes.
    """
    ref = resolve_model(_model_entry(question.model), "MODEL")
    dtype = stored_dtype(ref)
    method = parse_method(question.method, "--method")
    if method.data_free:
        raise SettingsError(f"--method: {method.label} looks at no calibration text, so any will do")
    context = context_length(ref)
    entry = with_scales(question.method, method, dtype)
    control = data_free_control(parse_method(entry, "--method"))
    length = question.seqlen or min(LONGEST, context)
    check_text(arms, question.sets, question.nsamples, length)
    common = {
        "seed": question.seed,
        "models": [{**_model_entry(question.model), "dtype": dtype}],
        "methods": [*([control] if control else []), entry],
    }
    full, screen = _evaluations(question, asked, context)
    name = study_name(ref.name, method)
    taking_part = {FULL: arms, SCREEN: [*arms, *also], BLOCKS: arms}
    sizes = {FULL: question.nsamples, SCREEN: screen_windows(question.nsamples, arms), BLOCKS: question.nsamples}

    def study_of(fidelity: str, suffix: str, evaluation: Mapping[str, Any]) -> Study:
        size = {"sets": question.sets, "nsamples": sizes[fidelity], "seqlen": length}
        if fidelity == SCREEN:
            size["max_nsamples"] = question.nsamples
        calibration = _calibration(taking_part[fidelity], size)
        study = parse_study({"study": name + suffix, "evaluation": evaluation, **common, "calibration": calibration})
        try:
            plan.check(study)
        except TooShort as error:
            least = f"fewer than {FEWEST} windows of {SHORTEST} tokens judge nothing, so give more of it"
            now = least if question.windows is None else f"--windows {question.windows} are asked of it now"
            raise SettingsError(f"--target: {error}; {now}") from None
        return study

    studies = {FULL: study_of(FULL, "", full), SCREEN: study_of(SCREEN, "-screening", screen)}
    if screened_by_blocks(question, method, studies[FULL].models[0].blocks):  # by now the config of a hub model is here
        windows = min(full["heldout_windows"], BLOCK_WINDOWS)
        of_blocks = {**full, "heldout_windows": windows, "first_blocks": FIRST_BLOCKS, "descriptors": []}
        studies[BLOCKS] = study_of(BLOCKS, "-first-blocks", of_blocks)
    return _design(name, arms, asked, studies)


def _calibration(arms: Sequence[Arm], size: Mapping[str, Any]) -> Any:
    """The calibration section: one grid of all texts, and one more of each selected set."""
    whole = {"source": [arm.entry for arm in arms if arm.select is None], **size}
    selected = [{"source": arm.entry, **size, "select": arm.select.to_dict()} for arm in arms if arm.select is not None]
    if not selected:
        return whole
    return [*([whole] if whole["source"] else []), *selected]


def _design(name: str, arms: Sequence[Arm], asked: Asked, studies: Mapping[str, Study]) -> Design:
    trials: dict[Trial, plan.Trial] = {}
    controls: dict[str, tuple[plan.Trial, ...]] = {}
    for fidelity, study in studies.items():
        expanded = plan.expand(study)
        controls[fidelity] = tuple(trial for trial in expanded if trial.spec is None)
        for trial in expanded:
            if trial.spec is not None:
                trials[Trial(trial.spec.source.label, trial.spec.set, fidelity)] = trial
    return Design(name, tuple(arms), asked.targets, studies, controls, trials)


def screened_by_blocks(question: Question, method: Method, blocks: int | None) -> bool:
    """Whether the first of so many blocks can screen a set: for texts, where no step looks at the blocks behind.

    The search of a mixture is made of screens of few windows, and whatever was screened so is screened alike.
    """
    if question.tasks or question.search_mixture or blocks is None or blocks < DEEP:
        return False
    return not any(step.whole_model or step.looks_at_all_blocks for step in steps_of(method))


def screen_windows(nsamples: int, arms: Sequence[Arm]) -> int:
    """Windows of a screened set: an eighth, but at least one of each part of a mixture."""
    smallest = min((share for arm in arms for _, share in arm.source.components()), default=1.0)
    return min(nsamples, max(math.ceil(nsamples / SMALLER), math.ceil(1 / smallest - 1e-9), 2))


def data_free_control(method: Method) -> Any:
    """The entry of the method that does the same without data: rounding, magnitude or a plain decomposition.

    None where there is no such method.
    """
    steps = []
    for step in steps_of(method):
        walk = {name: getattr(step, name) for name in WALK}
        if isinstance(step, PruningMethod):
            amount = {"pattern": step.pattern} if step.pattern else {"sparsity": step.sparsity}
            steps.append({"method": "magnitude", **amount, **walk})
        elif isinstance(step, LowRank):
            steps.append({"method": "svd", "ratio": step.ratio, **walk})
        elif hasattr(step, "bits"):
            grid = {name: getattr(step, name) for name in GRID if hasattr(step, name)}
            steps.append({"method": "rtn", **grid, **walk})
    if not steps:
        return None
    return steps[0] if len(steps) == 1 else steps


def windows_of(question: Question, asked: Asked, context: int) -> tuple[int, int]:
    """(tokens of a window, windows of each text): as asked for, or as many as the smallest text surely holds."""
    length = min(WINDOW, context)
    if question.windows is not None:
        return length, question.windows
    most = WINDOWS if question.targets else GENERAL_WINDOWS
    room = [bound // BYTES_OF_A_TOKEN for source in asked.sources.values() if (bound := source.capacity()) is not None]
    if room and min(room) < most * length:
        length = max(SHORTEST, min(length, min(room) // most))
        most = max(FEWEST, min(most, min(room) // length))
    return length, most


def study_name(model: str, method: Method) -> str:
    """`advise-reference-2m-gptq-1a2b3c`: of the model, the method, and its settings."""
    digest = hashlib.sha256(repr(sorted(method.identity().items())).encode()).hexdigest()[:6]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in f"{model}-{method_name(method)}")
    return f"advise-{plain[:70]}-{digest}"


def _model_entry(model: Any) -> dict[str, Any]:
    return dict(model) if isinstance(model, Mapping) else {"model": str(model)}


def _evaluations(question: Question, asked: Asked, context: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The evaluation sections of the full and the short study."""
    full: dict[str, Any] = {}
    screen: dict[str, Any] = {}
    if asked.heldout:
        length, windows = windows_of(question, asked, context)
        texts = {"heldout": list(asked.heldout), "heldout_seqlen": length}
        full |= {**texts, "heldout_windows": windows}
        screen |= {**texts, "heldout_windows": min(windows, max(FEWEST, math.ceil(windows / SMALLER)))}
    if question.tasks:
        tasks = {"tasks": list(question.tasks), "task_path": question.task_path}
        full |= {**tasks, "limit": question.limit}
        limit = SCREEN_LIMIT if question.limit is None else max(FEWEST, math.ceil(question.limit / SMALLER))
        screen |= {**tasks, "limit": min(limit, question.limit or limit)}
    return full, screen

"""The way from a question to advice: look at everything that can be wrong, conduct the rounds, write what was found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from calib.settings import SettingsError
from sweep import plan
from sweep.adviser.candidates import UNIFORM, Look, look_at, make_arms, renamed
from sweep.adviser.conduct import Conclusion, Conduct, Step
from sweep.adviser.outcomes import BLOCKS, FULL, SCREEN, Costs, Trial
from sweep.adviser.policy import least_budget
from sweep.adviser.question import SHARE, Question
from sweep.adviser.record import recorded_workers, write_record
from sweep.adviser.rounds import Rounds
from sweep.adviser.search import check_search
from sweep.adviser.study import Design, make_design
from sweep.adviser.targets import Asked, make_targets, task_texts
from sweep.adviser.verdict import NO_MATTER, Verdict
from sweep.adviser.words import answer_lines
from sweep.models import context_length, load_tokenizer
from sweep.results import Results
from sweep.runs.estimate import estimate, expected
from sweep.runs.folder import check_evaluation, check_stale, stale
from sweep.runs.preview import machines
from sweep.runs.progress import Reporter, duration
from sweep.runs.repair import read_trials
from sweep.runs.runner import Runner, RunOptions
from sweep.runs.session import find_results, usable
from sweep.storage.lease import Lease
from sweep.storage.store import inside

FASTER = 2.0  # than the machines that estimates were measured on
SCREENING = {SCREEN: "screening", BLOCKS: "first-blocks"}  # folders of screens, inside that of the results


@dataclass(frozen=True)
class Prepared:
    """A question that can be asked: its studies, and what was seen of the texts. Nothing has run."""

    question: Question
    asked: Asked
    design: Design
    looks: tuple[Look, ...]
    results: str
    options: RunOptions

    def plan_lines(self) -> list[str]:
        """What would be asked, for a person."""
        design = self.design
        full, screen = design.studies[FULL], design.studies[SCREEN]
        sample = {fidelity: design.trials[Trial(design.names[0], 0, fidelity)] for fidelity in (FULL, SCREEN)}
        windows = {fidelity: trial.spec.nsamples if trial.spec else 0 for fidelity, trial in sample.items()}
        trials = _planned(design, FULL)
        asked = f"{SHARE if self.question.share is None else self.question.share:g} of the full study's time"
        if self.question.budget is not None:
            asked = f"{duration(self.question.budget)} on all workers"
        return [
            f"{full.name}: which of {len(design.arms)} arms: {', '.join(design.names)}",
            f"judged on {', '.join(f'{target.name} ({target.unit})' for target in design.targets)}",
            f"controls: {', '.join(trial.label for trial in design.controls[FULL])}",
            f"screens: {windows[SCREEN]} windows and a short test ({screen.name}); full draws: {windows[FULL]} windows",
            *self._blocks,
            f"the full study: {len(trials)} trials, {self.question.sets} sets of each arm; budget: {asked}",
            f"full study, {estimate(trials, _known(design, find_results(self.results)), machines(self.options))}",
            *self.notes,
        ]

    @property
    def _blocks(self) -> list[str]:
        """The other kind of screens, where the question allows it."""
        study = self.design.studies.get(BLOCKS)
        if study is None:
            return []
        first = study.evaluation.first_blocks
        return [f"or screens: the first {first} blocks alone ({study.name}), where the run shows that they take less"]

    @property
    def notes(self) -> list[str]:
        """What the candidates share with the targets without being refused."""
        return [note for look in self.looks for note in look.notes]


@dataclass(frozen=True)
class Advice:
    """What was found: the verdict, how it came about, and the lines that say it."""

    verdict: Verdict
    steps: tuple[Step, ...]
    lines: tuple[str, ...]
    results: str
    trial: str | None  # id of the trial to ship

    def __str__(self) -> str:
        return "\n".join(self.lines)


def prepare(question: Question, results: str | None, options: RunOptions) -> Prepared:
    """Check all that can be checked before a worker starts. Raises SettingsError."""
    arms = make_arms(question)
    asked = make_targets(question)
    design = make_design(question, arms, asked)
    if question.search_mixture:
        check_search(arms, design.screened_windows, question.nsamples)
    root = f"results/{design.name}" if results is None else results
    store = find_results(root)
    if _holds_another_mixture(design, store):
        arms = [renamed(arm, f"{UNIFORM} of {len(arm.shares or {})}") if arm.name == UNIFORM else arm for arm in arms]
        design = make_design(question, arms, asked)
    _check_folders(design, store)
    specs = design.specs()
    _check_budget(question, design, options, store)
    tokenizer = load_tokenizer(design.studies[FULL].models[0])
    full = design.trials[Trial(design.names[0], 0, FULL)]
    tasks = task_texts(full.evaluation, tokenizer, context_length(full.model))
    looks = look_at(arms, specs, tokenizer, asked.sources, tasks, allow_overlap=question.allow_overlap)
    return Prepared(question, asked, design, tuple(looks), root, options)


def run(
    prepared: Prepared,
    store: Results,
    lease: Lease,
    make_runner: Callable[[str], Runner],
    reporter: Reporter,
    *,
    retry_failed: bool = False,
) -> Advice:
    """Conduct the question in a folder that is held. Raises SettingsError, and RunnerError when trials cannot go on."""
    question = prepared.question
    rounds = Rounds(_stores(store), lease, make_runner, reporter, retry_failed=retry_failed)
    workers = prepared.options.workers or recorded_workers(store)
    conduct = Conduct(question, prepared.asked, prepared.design, rounds, workers=workers)

    def on_step(steps: Sequence[Step]) -> None:
        write_record(store, question, conduct.design, prepared.looks, steps, conduct.workers)

    conduct.on_step = on_step
    for note in prepared.notes:
        reporter.say(note)
    try:
        ended = conduct.conclude()
    finally:
        rounds.close()
    design = conduct.design
    trial = shipped(ended, design)
    lines = answer_lines(ended, design, store.root, trial, conduct.full_study())
    write_record(store, question, design, prepared.looks, ended.steps, ended.workers, ended, lines)
    return Advice(ended.verdict, ended.steps, tuple(lines), store.root, trial)


def shipped(ended: Conclusion, design: Design) -> str | None:
    """The id of the trial to ship: a draw, or the data-free control where data cannot matter. None without either."""
    ship = ended.verdict.ship
    if ship is None:
        free = design.controls[FULL][1:] if ended.verdict.kind == NO_MATTER else ()
        return free[0].id if free else None
    return design.trials[Trial(ship.arm, ship.draw, FULL)].id


def _known(design: Design, store: Results, fidelity: str = FULL) -> pl.DataFrame:
    """The sound rows of `trials/`: a damaged one counts when its trial was made again. Raises SettingsError."""
    with usable(store):
        rows, _ = read_trials(store, {trial.id for trial in _planned(design, fidelity)})
    return rows


def _planned(design: Design, fidelity: str) -> list[plan.Trial]:
    """All trials that may be run at a fidelity."""
    return [*design.controls[fidelity], *(run for one, run in design.trials.items() if one.fidelity == fidelity)]


def _stores(store: Results) -> dict[str, Results]:
    """The results folder and those of screens inside it, by fidelity."""
    return {FULL: store, **{kind: find_results(inside(store.root, folder)) for kind, folder in SCREENING.items()}}


def _holds_another_mixture(design: Design, store: Results) -> bool:
    """Whether an earlier question in this folder had another even mixture, since it had other candidates: two texts
    under one name would be one source in every table."""
    found = (
        row
        for kind, there in _stores(store).items()
        if kind in design.studies
        for row in stale(_planned(design, kind), _known(design, there, kind))
    )
    return any(row["source"] == UNIFORM for row in found)


def _check_folders(design: Design, store: Results) -> None:
    """Raises SettingsError where earlier results cannot stand beside what may be run: said now, not rounds later."""
    for kind, there in _stores(store).items():
        if kind in design.studies:
            planned, rows = _planned(design, kind), _known(design, there, kind)
            check_evaluation(planned, rows, there)
            check_stale(planned, rows, there.root)


def _check_budget(question: Question, design: Design, options: RunOptions, store: Results) -> None:
    """Raises SettingsError for a budget that the controls alone exceed, measured ones or a cautious estimate."""
    if question.budget is None:
        return
    controls = design.controls[FULL]
    rows = _known(design, store).filter(pl.col("trial_id").is_in([trial.id for trial in controls]))
    found = dict(rows.select("trial_id", "seconds_total").iter_rows())
    least = [found.get(trial.id) or _least(trial, options) for trial in controls]
    workers = options.workers or 1
    if sum(least) <= question.budget * workers:
        return
    screen, full = (_least(design.trials[Trial(design.names[0], 0, fidelity)], options) for fidelity in (SCREEN, FULL))
    costs = Costs(screen, full, spent=sum(least))
    labels = ", ".join(trial.label for trial in controls)
    raise SettingsError(
        f"--budget: {duration(question.budget)} buy no trial of a candidate: the controls alone ({labels}) "
        f"take {duration(sum(least) / workers)} or more; an answer for {len(design.arms)} arms takes at least "
        f"{duration(least_budget(design.names, costs) / workers)}"
    )


def _least(trial: plan.Trial, options: RunOptions) -> float:
    """Seconds that a trial takes at least: what a plan expects, on a faster machine with all its cores."""
    on_gpu = bool(not options.on_cpus and (options.address or shutil.which("nvidia-smi")))
    cores = 1 if on_gpu else os.cpu_count() or 1
    return expected(trial, on_gpu=on_gpu, unknown=1.0).total / (FASTER * cores)

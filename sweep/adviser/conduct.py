"""From a question to an answer: controls, screens, rounds of full trials, and the verdict.

The driver decides nothing: `policy.next_round` is a pure function of the outcomes so far, and everything it is told
comes from the rows of finished trials, their seconds included. So a command that is given again after a kill meets the
same rounds in the same order, finds their trials in the folder, and goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from sweep.adviser.candidates import Arm
from sweep.adviser.guarantee import race
from sweep.adviser.luck import noise, spread, worth_asking
from sweep.adviser.outcomes import BLOCKS, FULL, SCREEN, Controls, Costs, Outcome, Round, Rules, Stop, Trial
from sweep.adviser.policy import SCREEN_COST, TIMED, measured, next_round, spent
from sweep.adviser.question import SHARE, Question
from sweep.adviser.rounds import Rounds
from sweep.adviser.search import SEARCH_SHARE, alike, searched, to_mix, to_screen
from sweep.adviser.study import Design, make_design
from sweep.adviser.targets import Asked, examples, losses
from sweep.adviser.verdict import Verdict, judge
from sweep.results import Results
from sweep.runs.estimate import expected
from sweep.runs.runner import RunnerError

Point = tuple[Mapping[str, float], tuple[float, ...]]  # shares of a mixture, and its losses

MOST_ROUNDS = 1000  # a policy that asks for more never ends
FAR_LESS = 0.5  # of what a screen takes: what is foreseen is the least, and timing has its price


@dataclass(frozen=True)
class Step:
    """A round that was run: what was asked for and why, what it gave, and what was believed then."""

    reason: str
    outcomes: tuple[Outcome, ...]
    ids: tuple[str, ...]  # of their trials
    verdict: Verdict
    spent: float  # seconds of one worker until its end, controls included
    seconds: float  # that deciding on it took


@dataclass(frozen=True)
class Conclusion:
    """How it ended. `examples`: windows or examples behind each target's loss; `wanted`: as many as would tell most for
    the time, None where the trials do not say."""

    steps: tuple[Step, ...]
    stop: Stop
    verdict: Verdict
    rules: Rules
    costs: Costs
    controls: Controls
    examples: tuple[int, ...]
    wanted: tuple[int | None, ...]
    workers: int
    deciding: float  # seconds of all decisions together


@dataclass
class State:
    """What is known so far."""

    controls: Controls = field(default_factory=Controls)
    outcomes: list[Outcome] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    kind: str | None = None  # of the screens: few windows (`SCREEN`) or first blocks (`BLOCKS`); None: not chosen yet
    compress: dict[str, dict[str, float]] = field(default_factory=lambda: {SCREEN: {}, BLOCKS: {}, FULL: {}})  # seconds
    evaluate: float = 0.0  # seconds of a full evaluation
    alone: float = 0.0  # seconds of the controls
    examples: tuple[int, ...] = ()


class Conduct:
    """Runs one question. `workers`: how many share a budget of wall time, where no trial has to run to know."""

    def __init__(
        self,
        question: Question,
        asked: Asked,
        design: Design,
        rounds: Rounds,
        on_step: Callable[[Sequence[Step]], None] = lambda steps: None,
        workers: int | None = None,
    ) -> None:
        self.question = question
        self.asked = asked
        self.design = design
        self.rounds = rounds
        self.on_step = on_step
        self.state = State()
        self.deciding = 0.0
        self._workers = workers
        self._ids: dict[Trial, str] = {}
        self._dense: dict[str, pl.DataFrame] = {}  # rows of the dense model in `metrics/`, by fidelity

    def conclude(self) -> Conclusion:
        """Run until the policy stops. Raises RunnerError when the dense model or the cluster fails."""
        self._run_controls(FULL)
        self.on_step(())
        if self.question.search_mixture and isinstance(self._decide()[0], Round):
            self._search()
        while True:
            found, seconds = self._decide()
            if isinstance(found, Stop):
                break
            found = replace(found, reason=found.reason + self._by_what(found))
            self.rounds.reporter.say(f"round {len(self.state.steps) + 1}: {found.reason}")
            self._run_round(found, seconds)
            self.on_step(self.state.steps)
        verdict = self._judge(self._survivor(found))
        return Conclusion(
            tuple(self.state.steps),
            found,
            verdict,
            self.rules(),
            self.costs(),
            self.state.controls,
            self.state.examples,
            self._wanted(verdict),
            self.workers,
            self.deciding,
        )

    @property
    def workers(self) -> int:
        return self._workers or self.rounds.workers or 1

    def rules(self) -> Rules:
        """What the policy must keep to, the budget in seconds of one worker."""
        question, targets = self.question, self.design.targets
        matters = question.matters[0] if len(question.matters) == 1 else question.matters or None
        return Rules(
            budget=self.budget(),
            targets=tuple(target.name for target in targets),
            matters=matters,
            criterion=question.criterion,
            guarantee=question.guarantee,
            draws=question.sets,
        )

    def budget(self) -> float:
        """Seconds of one worker: the wall time of all workers, or a share of the full study."""
        if self.question.budget is not None:
            return self.question.budget * self.workers
        return (SHARE if self.question.share is None else self.question.share) * self.full_study()

    def full_study(self) -> float:
        """Seconds of one worker that the full study takes."""
        costs = measured(self.state.outcomes, self.costs())
        return self.state.alone + len(self.design.arms) * self.question.sets * costs.full

    def costs(self) -> Costs:
        """Expected seconds of a trial: what is foreseen of it, and of a full trial what screens lead to expect."""
        state, found = self.state, self._foreseen()
        kind = state.kind or min(self._kinds(), key=found.__getitem__)
        seconds = state.compress[kind].values()
        if seconds and not state.compress[FULL]:
            full, screen = (expected(self._samples()[place]).compress for place in (FULL, kind))
            found[FULL] = state.evaluate + sum(seconds) / len(seconds) * full / max(screen, 1e-9)
        return Costs(found[kind], max(found[FULL], 1e-3), state.alone, guessed=True)

    def _foreseen(self) -> dict[str, float]:
        """Seconds of a trial of each study: from the control, by what a plan expects (`sweep/runs/estimate.py`)."""
        unit = self.state.evaluate / max(expected(self.design.controls[FULL][-1]).evaluate, 1e-9)
        guesses = {place: expected(trial) for place, trial in self._samples().items()}
        return {place: max(unit * (one.compress + one.evaluate), 1e-3) for place, one in guesses.items()}

    def _samples(self) -> Mapping[str, Any]:
        """A draw of the first arm as each study has it."""
        return {place: self.design.trials[Trial(self.design.names[0], 0, place)] for place in self.design.studies}

    def _kinds(self) -> list[str]:
        """Kinds of screens that the question allows: those first that need no controls of their own."""
        return [kind for kind in (BLOCKS, SCREEN) if kind in self.design.studies]

    def _decide(self) -> tuple[Round | Stop, float]:
        started = time.perf_counter()
        state = self.state
        if len(state.steps) >= MOST_ROUNDS:
            raise RunnerError(f"{MOST_ROUNDS} rounds gave no answer")
        found = next_round(state.outcomes, self.design.names, self.rules(), self.costs(), state.controls)
        seconds = time.perf_counter() - started
        self.deciding += seconds
        return found, seconds

    def _survivor(self, stop: Stop) -> str | None:
        """The arm that the race has left, where one was run to its end."""
        if stop.kind != "guaranteed":
            return None
        return race(self.state.outcomes, self.design.names, self.rules()).survivors[0]

    def _judge(self, survivor: str | None = None) -> Verdict:
        started = time.perf_counter()
        names, state = self.design.names, self.state
        samples, arms = self._samples_of_draws()
        luck = [noise(samples, arms, target) or 0.0 for target in self.design.targets]
        found = judge(state.outcomes, names, self.rules(), self.costs(), state.controls, luck, self.workers, survivor)
        self.deciding += time.perf_counter() - started
        return found

    def _samples_of_draws(self) -> tuple[pl.DataFrame, dict[str, str]]:
        """(rows of the full draws in `samples/`, their arms by trial id)."""
        draws = [o for o in self.state.outcomes if o.fidelity == FULL and not o.lost and o.arm in self.design.names]
        arms = {self._ids[Trial(o.arm, o.draw, FULL)]: o.arm for o in draws}
        rows = self.rounds.stores[FULL].scan("samples").filter(pl.col("trial_id").is_in(list(arms)))
        return rows.collect(), arms

    def _wanted(self, verdict: Verdict) -> tuple[int | None, ...]:
        """Examples of each target that tell most for the time."""
        samples, arms = self._samples_of_draws()
        compress = self.state.compress[FULL]
        found: list[int | None] = []
        for target, asked, sd in zip(self.design.targets, self.state.examples, verdict.sd or (), strict=False):
            own, between = noise(samples, arms, target), spread(samples, list(arms), target)
            if own is None or between is None:
                found.append(None)
                continue
            seconds = sum(compress.values()) / len(compress), self.state.evaluate
            found.append(worth_asking(asked, *seconds, between, sd**2 - own))
        return (*found, *[None] * (len(self.design.targets) - len(found)))

    def _run_controls(self, fidelity: str) -> None:
        """The dense model and the data-free control. Raises RunnerError when the dense model fails."""
        trials = self.design.controls[fidelity]
        rows = self.rounds.run(self.design.studies[fidelity], trials, fidelity)
        by_id = {row["trial_id"]: row for row in rows.iter_rows(named=True)}
        dense = by_id[trials[0].id]
        if dense["status"] != "ok":
            raise RunnerError(
                f"the dense model failed in {dense['phase']}: {dense['error']}; --retry-failed tries again"
            )
        metrics = _metrics(self.rounds.stores[fidelity], [trial.id for trial in trials])
        self._dense[fidelity] = metrics[trials[0].id]
        self.state.alone += sum(row["seconds_total"] or 0.0 for row in by_id.values())
        if fidelity != FULL:
            return
        last = by_id[trials[-1].id]
        tested = (last["seconds_tasks"] or 0.0) + (last["seconds_windows"] or 0.0)
        if len(trials) == 1:  # what is kept of the dense model is evaluated in no time
            tested = expected(trials[0]).evaluate
        self.state.evaluate = tested
        targets = self.design.targets
        free = None
        if len(trials) > 1 and last["status"] == "ok":
            free = losses(metrics[trials[1].id], self._dense[FULL], targets, screen=False)
        if free is not None and not all(map(math.isfinite, free)):
            free = None
        self.state.controls = Controls((0.0,) * len(targets), free)
        self.state.examples = tuple(examples(self._dense[FULL], target) for target in targets)

    def _search(self) -> None:
        """Screen candidates and mixtures of them, and let the mixture that looks best take part."""
        arms, self.state.kind = {arm.name: arm for arm in self.design.arms if arm.plain}, SCREEN
        self.rounds.reporter.say("search: a screen of each candidate, then of mixtures of them")
        self._run_controls(SCREEN)
        alone = self._run_trials([Trial(name, 0, SCREEN) for name in arms], SCREEN)
        self.state.outcomes += alone
        known = {outcome.arm: outcome.values for outcome in alone if not outcome.lost}
        chosen = to_mix(known, SEARCH_SHARE * self.budget() / measured(alone, self.costs()).screen) if known else []
        if len(chosen) < 2:
            self._keep(f"a screen of each of {len(arms)} candidates; no mixture can be paid", alone, 0.0)
            return
        windows = self.design.screened_windows
        tried = to_screen(chosen, list(arms.values()), windows)
        self._redesign(self.design.arms, tried)
        by_name = {self._name(arm): arm for arm in tried}
        mixed = self._run_trials([Trial(name, 0, SCREEN) for name in by_name], SCREEN)
        self.state.outcomes += [outcome for outcome in mixed if outcome.arm in self.design.names]
        self.state.alone += sum(outcome.seconds for outcome in mixed if outcome.arm not in self.design.names)
        points: list[Point] = [({name: 1.0}, known[name]) for name in chosen]
        points += [(by_name[outcome.arm].shares or {}, outcome.values) for outcome in mixed if not outcome.lost]
        found = searched(points, chosen, list(arms.values()), windows)
        if found is not None and self._name(found) == found.name:
            self._redesign([*self.design.arms, found], tried)
        told = "none beats its parts" if found is None else _told(found)
        self._keep(
            f"screens of {len(arms)} candidates and {len(mixed)} mixtures propose: {told}", [*alone, *mixed], 0.0
        )

    def _name(self, mixed: Arm) -> str:
        """What a mixture is called: it may be an arm already."""
        return next((arm.name for arm in self.design.arms if alike(mixed, arm)), mixed.name)

    def _redesign(self, arms: Sequence[Arm], tried: Sequence[Arm]) -> None:
        """Other arms take part, and mixtures are screened beside them."""
        also = [mixed for mixed in tried if not any(alike(mixed, arm) for arm in arms)]
        self.design = make_design(self.question, arms, self.asked, also)

    def _run_round(self, asked: Round, seconds: float) -> None:
        """Run a round, screens before full trials, and keep what it gave."""
        found: list[Outcome] = []
        for fidelity in (SCREEN, FULL):
            chosen = [trial for trial in asked.trials if trial.fidelity == fidelity]
            if chosen:
                found += self._run_trials(chosen, self._screened_by(chosen) if fidelity == SCREEN else FULL)
        self.state.outcomes += found
        self._keep(asked.reason, found, seconds)

    def _screened_by(self, chosen: Sequence[Trial]) -> str:
        """The kind of screens that are bought: of those that may be cheap enough the one that takes least, timed on the
        first few that are chosen. A second kind is timed where it is foreseen to take far less than the first one did.
        """
        if self.state.kind is None:
            foreseen = self._foreseen()
            kinds = [kind for kind in self._kinds() if foreseen[kind] <= SCREEN_COST * foreseen[FULL]]
            kinds = kinds or [min(self._kinds(), key=foreseen.__getitem__)]
            timed: dict[str, list[Outcome]] = {}
            for kind in kinds if len(kinds) > 1 else ():
                if not timed or foreseen[kind] < FAR_LESS * min(map(_least, timed.values())):
                    timed[kind] = self._run_trials(chosen[:TIMED], kind)
            self.state.kind = min(timed, key=lambda kind: _least(timed[kind])) if timed else kinds[0]
            others = [outcome for kind, found in timed.items() if kind != self.state.kind for outcome in found]
            self.state.alone += sum(outcome.seconds for outcome in others)
        return self.state.kind

    def _by_what(self, asked: Round) -> str:
        """How the screens of a round look at a set, where that was a choice."""
        if len(self._kinds()) < 2 or self.state.kind is None or all(one.fidelity == FULL for one in asked.trials):
            return ""
        first = self.design.studies[BLOCKS].evaluation.first_blocks
        return f", by {f'the first {first} blocks' if self.state.kind == BLOCKS else 'their first windows'}"

    def _keep(self, reason: str, found: Sequence[Outcome], seconds: float) -> None:
        """Note a round, and what is believed after it."""
        total = spent(self.state.outcomes, self.costs())
        ids = tuple(self._ids[Trial(outcome.arm, outcome.draw, outcome.fidelity)] for outcome in found)
        self.state.steps.append(Step(reason, tuple(found), ids, self._judge(), total, seconds))

    def _run_trials(self, chosen: Sequence[Trial], place: str) -> list[Outcome]:
        """Run draws in the study of that name: the full one, or that of a kind of screens."""
        if place == SCREEN and SCREEN not in self._dense:
            self._run_controls(SCREEN)
        planned = {trial: self.design.trials[replace(trial, fidelity=place)] for trial in chosen}
        rows = self.rounds.run(self.design.studies[place], list(planned.values()), place)
        by_id = {row["trial_id"]: row for row in rows.iter_rows(named=True)}
        metrics = _metrics(self.rounds.stores[place], list(by_id))
        dense = self._dense.get(place, self._dense[FULL])  # with which first blocks were compared by their trial
        outcomes = []
        for trial, run in planned.items():
            self._ids[trial] = run.id
            row = by_id[run.id]
            outcome = Outcome(trial.arm, trial.draw, trial.fidelity, (), row["seconds_total"] or 0.0, failed=True)
            if row["status"] == "ok":
                values = losses(metrics[run.id], dense, self.design.targets, screen=place != FULL)
                self.state.compress[place][run.id] = row["seconds_compress"] or 0.0
                outcome = replace(outcome, values=values, failed=False)
            outcomes.append(outcome)
        return outcomes


def _least(outcomes: Sequence[Outcome]) -> float:
    """Least seconds of trials that gave a loss: the first on a worker loads what the others have."""
    return min((outcome.seconds for outcome in outcomes if not outcome.lost), default=math.inf)


def _metrics(store: Results, ids: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The rows of each trial in `metrics/`; none of one that failed."""
    rows = store.scan("metrics").filter(pl.col("trial_id").is_in(list(ids))).collect()
    return {trial_id: rows.filter(pl.col("trial_id") == trial_id) for trial_id in ids}


def _told(mixed: Arm) -> str:
    """`62 % books + 38 % code`."""
    return " + ".join(f"{100 * share:.0f} % {name}" for name, share in (mixed.shares or {}).items())

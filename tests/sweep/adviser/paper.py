"""A runner of paper: it commits rows whose losses are known, so that a whole question takes no time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sweep.adviser.advice import Advice, Prepared, run
from sweep.adviser.candidates import make_arms
from sweep.adviser.question import Question
from sweep.adviser.study import make_design
from sweep.adviser.targets import make_targets
from sweep.plan import EvaluationKey, Pool, RequestSet, Trial
from sweep.results import Results, TrialRows
from sweep.runs.outcome import Outcome
from sweep.runs.progress import Reporter
from sweep.runs.runner import RunOptions, Steady
from sweep.runs.schedule import Job
from sweep.storage.lease import Lease
from sweep.trial import describe

Loss = Callable[[Trial, str], "float | None"]  # of a trial on a text; None: it fails


class PaperRunner(Steady):
    """`loss` says what each trial loses on each text; `at` is called before the trial of that number."""

    def __init__(self, results: str, loss: Loss, workers: int = 2) -> None:
        self.results = results
        self.loss = loss
        self.workers = workers
        self.seconds = seconds
        self.at: dict[int, Callable[[], None]] = {}
        self.ran: list[str] = []
        self.starts = self.closed = 0

    def start(self) -> str:
        self.starts += 1
        return "cpu"

    def prepare(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        assert requests or pools
        for pool in pools:
            for calibration_id in pool.ids:
                row = {"calibration_id": calibration_id, "hash": "0", "window": 0}
                Results(self.results).write_table("calibration", calibration_id, [row])
                shared = {"calibration_id": calibration_id, "kind": "heldout", "name": "books", "unit": "words"}
                Results(self.results).write_table("overlap", calibration_id, [shared])

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.at.get(len(self.ran), lambda: None)()
            self.ran.append(job.trial.id)
            yield self._one(job)

    def _one(self, job: Job) -> Outcome:
        trial = job.trial
        labels = [source.label for source in trial.evaluation.heldout_sources()]
        found = {label: self.loss(trial, label) for label in labels}
        row = {**describe(trial), "dtype": "float32", "attempts": job.attempts, "seconds_total": self.seconds(trial)}
        if None in found.values():
            Results(self.results).write_trial(
                TrialRows({**row, "status": "failed", "phase": "compress", "error": "no"})
            )
            return Outcome(trial, "failed", job.attempts, phase="compress", error="no")
        first = trial.evaluation.first_blocks is not None
        named = {"kind": "blocks", "metric": "block_error"} if first else {"kind": "perplexity", "metric": "perplexity"}
        metrics = [
            {**named, "task": label, "value": math.exp((-9 if first else 3) + (loss or 0) / 100), "n": 4}
            for label, loss in found.items()
        ]
        timed = {"seconds_windows": 1.0, "seconds_compress": self.seconds(trial) - 1}
        Results(self.results).write_trial(TrialRows({**row, **timed, "status": "ok"}, metrics))
        return Outcome(trial, "ok", job.attempts)

    def close(self) -> None:
        self.closed += 1


def seconds(trial: Trial) -> float:
    """Ten for a full draw, two for a screen or a control."""
    return 10.0 if trial.spec is not None and not trial.study.endswith("-screening") else 2.0


def losses(levels: Mapping[str, float], sd: float = 1.0, control: float = 30.0) -> Loss:
    """Normal draws around the level of each arm, the same at both fidelities but for a third of their spread."""

    def loss(trial: Trial, label: str) -> float | None:
        if trial.method is None:
            return 0.0
        if trial.spec is None:
            return control
        level = levels[trial.spec.source.label]
        luck = np.random.default_rng([trial.spec.set, *trial.spec.source.label.encode()]).standard_normal()
        own = np.random.default_rng([1, *trial.id.encode()]).standard_normal()
        return None if math.isnan(level) else float(level + sd * (0.9 * luck + 0.3 * own))

    return loss


def prepared(question: Question, folder: Path) -> Prepared:
    """A question whose texts nobody looked at."""
    asked = make_targets(question)
    design = make_design(question, make_arms(question), asked)
    return Prepared(question, asked, design, (), str(folder), RunOptions())


def asked(model: Any, texts: Sequence[Path], **settings: Any) -> Question:
    """A small question about GPTQ."""
    common = {"targets": [{"source": "heldout", "domain": "books"}], "sets": 6, "nsamples": 64, "seqlen": 32}
    method = {"method": "gptq", "bits": 3, "group_size": 16}
    return Question(str(model), method, [str(text) for text in texts], **{**common, **settings})


def conduct(ready: Prepared, runner: PaperRunner) -> Advice:
    """The advice that paper gives."""
    store = Results(ready.results)
    reporter = Reporter(Console(quiet=True))
    return run(ready, store, Lease(store), lambda root: runner, reporter)

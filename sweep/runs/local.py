"""Runs trials in this process, one after the other: the sweep without Ray, for a debugger or a small machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from calib.build import CalibrationSet
from sweep.evaluation.suite import EvaluationData
from sweep.plan import EvaluationKey, Pool, RequestSet, evaluation_key, requests_of
from sweep.runs import phases
from sweep.runs.asked_model import release
from sweep.runs.machine import quiet_torch
from sweep.runs.model_check import check_model
from sweep.runs.outcome import Outcome, committed
from sweep.runs.prepare import check_reader, make_calibration_sets, make_requests
from sweep.runs.runner import Steady
from sweep.runs.schedule import Job, Queue, held_by
from sweep.runs.vocabulary import largest_in_sets, refuse_unknown_ids
from sweep.runs.worker import Worker


class LocalRunner(Steady):
    """Keeps what trials share in memory, and runs them in a loop. A `Runner` of one worker."""

    workers = 1

    def __init__(self, results: str, provenance: Mapping[str, Any], device: str | None = None) -> None:
        self.results = results
        self.provenance = provenance
        self.device = device
        self._sets: dict[str, CalibrationSet] = {}
        self._requests: dict[EvaluationKey, EvaluationData] = {}
        self._made_for: dict[EvaluationKey, str] = {}  # the folder whose trials the requests were compared with
        self._worker: Worker | None = None  # that stays

    def start(self) -> str:
        """Returns the device of the trials, `cuda` or `cpu`."""
        self.device = quiet_torch(self.device)
        return self.device

    def prepare(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Look at the models, and build all requests and calibration sets. Raises SettingsError."""
        self.on_phase(phases.MODELS, phases.of_requests(requests))
        uses = {
            key: [
                (use, check_model(use.model, use.methods, use.weighed, asked.trial.evaluation.first_blocks))
                for use in asked.uses
            ]
            for key, asked in requests.items()
        }
        for key, asked in requests.items():
            if self._made_for.get(key) == self.results:  # by an earlier run
                check_reader(asked.trial, self.results, asked.seqlens)
                continue
            self.on_phase(phases.REQUESTS, phases.of_requests({key: asked}))
            self._requests[key] = make_requests(asked.trial, self.results, asked.seqlens)
            self._made_for[key] = self.results
        for pool in pools:
            self.on_phase(*phases.of_sets([pool]))
            made = {key: self._requests[key] for key in requests}  # of this study alone
            sets = make_calibration_sets(pool, self.results, self.device or "cpu", requests_of(pool, made))
            self._sets.update(zip(pool.ids, sets, strict=True))
        release()  # before the worker loads its own
        of_sets = largest_in_sets(list(self._sets.values()))
        for key, found in uses.items():
            for use, rows in found:
                refuse_unknown_ids(use, rows, of_sets, self._requests[key].largest_ids)

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs; yields each outcome when its row is committed."""
        worker = self._worker or Worker(self.results, self.provenance, self.device)
        worker.write_to(self.results)
        self._worker = worker if self.stay else None
        queue, held = Queue(jobs), None
        while queue:
            job = queue.take(held)
            held = held_by(job.trial)
            if there := committed(worker.results, job.trial, job.attempts):
                yield there
                continue
            calibration = self._sets[job.trial.calibration_id] if job.trial.calibration_id else None
            requests = self._requests[evaluation_key(job.trial)]
            yield worker.run(job.trial, calibration, partial(_same, requests), job.attempts)

    def close(self) -> None:
        """Let go of the model of a worker that stayed."""
        self._worker = None


def _same(requests: EvaluationData) -> EvaluationData:
    return requests

"""What runs trials: a plain loop in this process, or Ray. The session knows no more of them than this.

`foresee` (which may be left out), `start`, `prepare`, `run`, `close` are called in this order, each once; `close` also
after an error. A runner that was told to `stay` keeps its workers and their models when a run ends, for another
`prepare` and `run`.

Words of this room: a *session* is one command in a results folder; a *job* is a trial to run with its starts so far,
its *outcome* how it ended; the *crew* are the workers that have started, *places* how many there is room for; *hands*
are processes of this machine that prepare; a *receipt* says of data that lies elsewhere what must be known of it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from calib.settings import SettingsError, shown
from sweep.models import check_gpus
from sweep.plan import EvaluationKey, Pool, RequestSet
from sweep.runs.outcome import Outcome
from sweep.runs.phases import OnPhase, nobody
from sweep.runs.schedule import Job

MAX_WORKERS = 10_000


class RunnerError(RuntimeError):
    """Trials cannot go on; those that ended are kept. The message says what was found and what to do."""


class Runner(Protocol):
    """Runs trials on one or more workers, which write their own rows."""

    workers: int  # that run trials, known when they have begun
    gpus: float  # that these hold together, where trials run on GPUs
    stay: bool  # keep the workers when a run ends

    def foresee(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Be told what `prepare` will be asked for, some of which may be done while the machines are found."""

    def start(self) -> str:
        """Find the machines. Returns the device of the trials, `cuda` or `cpu`; raises SettingsError."""

    def prepare(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Look at the models, and make what trials share: requests, and calibration sets, some of which may be made
        while trials run.

        Raises SettingsError or ResultsError for what is wrong with them until then.
        """

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs; yields each outcome when its row is committed. Raises RunnerError when they cannot go on."""

    def write_to(self, results: str) -> None:
        """Write the results of what follows into this folder or URI."""

    def close(self) -> None:
        """Give everything back that was started."""


class Steady:
    """What runners have in common: where the results go, whether workers stay between two runs, and who is told what
    is done before the first trial.
    """

    results: str
    gpus = 1.0
    stay = False
    on_phase: OnPhase = staticmethod(nobody)

    def foresee(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Nothing is done ahead."""

    def write_to(self, results: str) -> None:
        """Write the results of what follows into this folder or URI."""
        self.results = results


@dataclass(frozen=True)
class RunOptions:
    """Where and how trials run; nothing here changes a number. Raises SettingsError for what does not go together."""

    local: bool = False  # in this process, without Ray
    address: str | None = None  # of a running Ray cluster; None starts Ray here
    workers: int | None = None  # None: as many as there is room for
    gpus_per_worker: float | None = None  # 0 runs on CPUs; None: each model's own entry or size says
    dashboard: int | None = None  # port of this machine for the dashboard of a Ray that is started here

    def __post_init__(self) -> None:
        workers = self.workers
        if workers is not None and not 1 <= workers <= MAX_WORKERS:
            raise SettingsError(f"--workers {workers}: expected 1 to {MAX_WORKERS:,}")
        if self.gpus_per_worker:  # nan is true
            check_gpus(self.gpus_per_worker, f"--gpus-per-worker {self.gpus_per_worker:g}:", "0 (run on CPUs), ")
        if self.address is not None and not re.fullmatch(r"[A-Za-z0-9\[][^\s]*", self.address):
            raise SettingsError(f"--address {shown(self.address)}: expected auto, or host:port of a running cluster")
        if self.dashboard is not None and (self.local or self.address):
            raise SettingsError("--dashboard: is of a Ray that is started here; leave --local and --address out")
        if self.local and (self.address or (workers or 1) > 1):
            raise SettingsError("--local: runs one worker in this process; leave --address and --workers out")

    @property
    def on_cpus(self) -> bool:
        """Whether trials run on CPUs where there are GPUs as well."""
        return self.gpus_per_worker == 0

"""A thousand workers of paper and a hundred thousand trials: what does the driver cost, and when does the sweep end?

The real planner, queue, crew and hiring run a study of three models on a cluster that does not exist: a clock that
jumps from event to event, trials that last as long as measured on one H100 (docs/performance.md) and a tenth more or
less, nodes of eight GPUs that are taken away and come back. Printed are the driver's own seconds a trial, its memory,
and the makespan beside its lower bound: the work (each trial once, and one model loaded by each worker that starts)
shared out evenly over the GPUs that were there, but no earlier than a trial can end that was cut off when its node was
taken away, from then on.

    python -m benchmarks.scheduling                              # a minute
    python -m benchmarks.scheduling --trials 2000 --workers 40   # a second
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sweep import plan
from sweep.config import Study, parse_study
from sweep.plan import Trial
from sweep.runs.crew import Crew
from sweep.runs.hiring import Hiring
from sweep.runs.schedule import Job, held_by

NODE = 8  # GPUs of a node
START = 10.0  # seconds from a worker that is asked for to one that is up
AWAY = 600.0  # seconds until a lost node is replaced
LOSSES = 1 / 86_400  # of a node and second: a spot machine a day
SPREAD = 0.1  # of a trial's seconds, standard deviation of the logarithm
MODELS = ("reference-2m", "reference-5m", "reference-17m")  # stand for 7B, 13B and 33B
SECONDS: dict[tuple[str, str], float] = {  # of a trial by model and method, suite of eleven tasks included
    ("reference-2m", "gptq"): 68 + 18,
    ("reference-2m", "spqr"): 68 + 18,
    ("reference-2m", "sparsegpt"): 68 + 18,
    ("reference-2m", "wanda"): 68 + 11,
    ("reference-5m", "gptq"): 129 + 34,
    ("reference-5m", "spqr"): 129 + 35,
    ("reference-5m", "sparsegpt"): 129 + 34,
    ("reference-5m", "wanda"): 129 + 21,
    ("reference-17m", "gptq"): 336 + 90,
    ("reference-17m", "spqr"): 336 + 92,
    ("reference-17m", "sparsegpt"): 336 + 89,
    ("reference-17m", "wanda"): 336 + 51,
    **{(model, "dense"): seconds for model, seconds in zip(MODELS, (68, 129, 336), strict=True)},
}
LOAD = dict(zip(MODELS, (23.0, 45.0, 110.0), strict=True))  # seconds until a worker holds the model; 7B as measured


def make_study(trials: int) -> Study:
    """Three models, four methods, and so many sets that there are about `trials`."""
    sets = max(1, round((trials / len(MODELS) - 1) / 4))
    methods = [
        {"method": "gptq", "bits": 4, "group_size": 32},
        {"method": "spqr", "bits": 4, "group_size": 16},
        {"method": "sparsegpt", "pattern": "2:4"},
        {"method": "wanda", "pattern": "2:4"},
    ]
    calibration = {"source": "books", "sets": sets, "nsamples": 1, "seqlen": 32}
    evaluation = {"tasks": ["reference_lambada"], "limit": 1}
    document = {"study": "scheduling", "models": list(MODELS), "methods": methods}
    return parse_study({**document, "calibration": calibration, "evaluation": evaluation})


@dataclass
class Found:
    """What a simulated sweep was like."""

    trials: int
    ended: int = 0
    makespan: float = 0.0
    bound: float = 0.0
    driver: float = 0.0  # CPU seconds of planning and scheduling
    planning: float = 0.0  # of them
    loads: int = 0
    losses: int = 0
    workers: int = 0  # that were up at least once
    given_back: float = 0.0  # mean seconds before the end at which the last workers were ended

    @property
    def over_bound(self) -> float:
        return self.makespan / self.bound - 1

    @property
    def milliseconds(self) -> float:
        """Of the driver, a trial."""
        return 1000 * self.driver / self.trials


@dataclass
class Cluster:
    """Nodes, the workers on them, and what will happen when. The clock only goes forward."""

    rng: random.Random
    now: float = 0.0
    events: list[tuple[float, int, str, Any]] = field(default_factory=list)
    nodes: dict[int, list[int | None]] = field(default_factory=dict)  # workers by node; None is a free GPU
    where: dict[int, int] = field(default_factory=dict)  # node of a worker
    waiting: list[int] = field(default_factory=list)  # workers without a GPU
    up_since: dict[int, float] = field(default_factory=dict)  # of a node
    spans: list[tuple[float, float]] = field(default_factory=list)  # of nodes that are gone
    number: int = 0

    def clock(self) -> float:
        return self.now

    def later(self, seconds: float, kind: str, what: Any) -> None:
        self.number += 1
        heapq.heappush(self.events, (self.now + seconds, self.number, kind, what))

    def join(self) -> None:
        """A node is there, and will be lost some day."""
        self.number += 1
        node = self.number
        self.nodes[node] = [None] * NODE
        self.up_since[node] = self.now
        self.later(self.rng.expovariate(LOSSES), "loss", node)
        self.place()

    def place(self) -> None:
        """Workers that wait start where there is room."""
        for node, places in self.nodes.items():
            for number, worker in enumerate(places):
                if worker is None and self.waiting:
                    places[number] = self.waiting.pop(0)
                    self.where[places[number]] = node  # type: ignore[index]  # a worker by now
                    self.later(START, "up", places[number])

    def lose(self, node: int) -> list[int]:
        """The workers that are gone with it."""
        self.spans.append((self.up_since.pop(node), self.now))
        return [worker for worker in self.nodes.pop(node) if worker is not None]

    def end(self, worker: int) -> None:
        """The driver ends a worker."""
        if worker in self.waiting:
            self.waiting.remove(worker)
        elif (node := self.where.pop(worker, None)) in self.nodes:
            places = self.nodes[node]  # type: ignore[index]
            places[places.index(worker)] = None

    def room(self) -> int:
        return NODE * len(self.nodes)


class Sweep:
    """The loop of a driver, on the clock of a cluster. It makes the calls of `RayRunner.run` and nothing else."""

    def __init__(self, jobs: Sequence[Job], workers: int, seed: int, found: Found) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(random.Random(seed + 1))
        self.crew = Crew(self.cluster.clock)
        self.hiring = Hiring(self.crew, grows=True, asks_ahead=True)
        self.found = found
        self.holds: dict[int, object] = {}
        self.token: dict[int, int] = {}  # tells the end of a trial from that of an earlier one that was cut off
        self.ends: list[float] = []  # of workers that were given back
        self.work = 0.0  # seconds of the trials that ended
        self.runs: dict[int, str] = {}  # the trial that a worker has begun
        self.cut_off: dict[str, float] = {}  # when a trial last lost its node
        self.soonest = 0.0  # that all trials that were cut off can have ended
        self.hired = 0
        self.happens: dict[str, Callable[[Any], None]] = {
            "up": self.up,
            "end": self.ended,
            "loss": self.loss,
            "join": self.joined,
        }
        for _ in range(math.ceil(workers / NODE)):
            self.cluster.join()
        with self.driver():
            self.crew.begin(jobs)
            self.hiring.begin(workers)

    @contextmanager
    def driver(self) -> Iterator[None]:
        """What is done here is the driver's work."""
        since = time.thread_time()
        yield
        self.found.driver += time.thread_time() - since

    def run(self) -> None:
        self.turn()
        while self.crew.unfinished:
            self.cluster.now, _, kind, what = heapq.heappop(self.cluster.events)
            self.happens[kind](what)
            self.turn()
        self.found.makespan = self.cluster.now
        self.found.bound = self.bound()
        if self.ends:
            self.found.given_back = self.cluster.now - sum(self.ends) / len(self.ends)

    def turn(self) -> None:
        """Hand out trials, hire, and end whom nobody needs."""
        handed = []
        with self.driver():
            while assigned := self.crew.assign():
                handed.append(assigned)
            self.hiring.fit(self.cluster.room())
            while self.hiring.size < sum(self.hiring.wanted().values()):
                self.hired += 1
                self.hiring.hired(self.hired)
                self.cluster.waiting.append(self.hired)
            surplus = self.hiring.surplus()
            for worker in surplus:
                self.hiring.ended(worker)
        for worker in surplus:
            if self.token.pop(worker, None) is not None:
                self.ends.append(self.cluster.now)
            self.cluster.end(worker)
        for worker, job in handed:
            self.begin(worker, job.trial)
        self.cluster.place()

    def begin(self, worker: int, trial: Trial) -> None:
        seconds = SECONDS[trial.model.name, trial.method_name] * math.exp(self.rng.gauss(0, SPREAD))
        held, load = held_by(trial), 0.0
        if self.holds.get(worker) != held:
            load, self.holds[worker] = LOAD[trial.model.name], held
            self.found.loads += 1
        self.runs[worker] = trial.id
        self.token[worker] = self.token.get(worker, 0) + 1
        self.cluster.later(load + seconds, "end", (worker, self.token[worker], seconds))

    def up(self, worker: int) -> None:
        if worker in self.cluster.where:
            self.token[worker] = 0
            self.found.workers += 1
            with self.driver():
                self.hiring.started(worker)

    def ended(self, what: tuple[int, int, float]) -> None:
        worker, token, seconds = what
        if self.token.get(worker) == token:
            self.found.ended += 1
            self.work += seconds
            self.soonest = max(self.soonest, self.cut_off.get(self.runs[worker], -math.inf) + seconds)
            with self.driver():
                self.crew.record_over(self.crew.computed(worker), lost=False)

    def loss(self, node: int) -> None:
        self.found.losses += 1
        for worker in self.cluster.lose(node):
            del self.cluster.where[worker]
            self.token.pop(worker, None)
            with self.driver():
                if worker in self.crew.running:
                    self.cut_off[self.runs[worker]] = self.cluster.now
                    if not self.crew.try_again(self.crew.running[worker].job):
                        self.found.ended += 1  # with a failed row
                    self.crew.lost(worker)
                else:
                    self.hiring.ended(worker)
        self.cluster.later(AWAY, "join", None)

    def joined(self, _: None) -> None:
        self.cluster.join()

    def bound(self) -> float:
        """Seconds that the work needs on the GPUs that were there, if they all were busy to the end; and those until
        the last trial can end that was cut off."""
        spans = [*self.cluster.spans, *((since, math.inf) for since in self.cluster.up_since.values())]
        need = self.work + self.found.workers * min(LOAD.values())

        def there(until: float) -> float:
            return sum(NODE * max(0.0, min(end, until) - since) for since, end in spans)

        low, high = 0.0, self.cluster.now * 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if there(middle) >= need else (middle, high)
        return max(high, self.soonest)


def simulate(trials: int, workers: int, seed: int = 0) -> Found:
    """Plan a study of about so many trials, and run it on workers of paper."""
    since = time.thread_time()
    planned = plan.expand(make_study(trials))
    jobs = [Job(trial, seconds=SECONDS[trial.model.name, trial.method_name]) for trial in planned]
    planning = time.thread_time() - since
    found = Found(len(planned), planning=planning, driver=planning)
    Sweep(jobs, workers, seed, found).run()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when all aims are reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__)
    parser.add_argument("--trials", type=int, default=100_000, help="about")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    found = simulate(options.trials, options.workers, options.seed)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{found.ended:,} of {found.trials:,} trials ended; {found.losses} nodes of {NODE} GPUs lost; "
        f"{found.loads:,} models loaded by {found.workers:,} workers"
    )
    planning = 1000 * found.planning / found.trials
    print(f"driver {found.milliseconds:.3f} ms of CPU a trial, {planning:.3f} of it planning")
    print(f"peak memory {memory:.2f} GiB")
    print(f"makespan {found.makespan:,.0f} s, lower bound {found.bound:,.0f} s: {found.over_bound:.2%} above")
    print(f"workers without a trial were ended, on average {found.given_back:,.0f} s before the end")
    reached = (found.ended == found.trials, found.milliseconds < 1, memory < 2, found.over_bound < 0.03)
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())

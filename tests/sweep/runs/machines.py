"""Machines of paper, on which a crew and its hiring are tried: workers are numbers, and trials take no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sweep.plan import Trial
from sweep.runs.crew import Crew, refuse_untried, tried
from sweep.runs.hiring import Hiring
from sweep.runs.schedule import Job


class Machines:
    """Nodes of one worker each, and an autoscaler that gives each worker that waits a node, up to `most`.

    Workers start where there is room; trials finish at once, oldest first, or in the given `order`.
    """

    def __init__(self, nodes: int, most: int) -> None:
        self.nodes, self.most = nodes, most
        self.hired = 0
        self.ended: list[int] = []
        self.waiting: list[int] = []  # workers without room, at each step
        self.together = 0  # most trials at a time
        self.time = 0.0
        self.said: list[str] = []
        self.dies: Callable[[Trial], bool] = lambda trial: False
        self.cannot_start: Callable[[], bool] = lambda: False
        self.order: Callable[[Trial], Any] = lambda trial: 0

    def clock(self) -> float:
        return self.time

    def hiring(self, *, on_cluster: bool = False) -> Hiring:
        """A crew without workers, and who hires them; on a cluster it grows and asks ahead."""
        return Hiring(Crew(self.clock), grows=on_cluster, asks_ahead=on_cluster)

    def work(self, hiring: Hiring, jobs: list[Job], places: int) -> Iterator[tuple[str, str]]:
        """Do the jobs; yields the id of each trial that ended, and how."""
        crew = hiring.crew
        crew.begin(jobs)
        hiring.begin(places)
        while crew.unfinished:
            while crew.assign():
                pass
            hiring.fit(self.nodes)
            while hiring.size < sum(hiring.wanted().values()):
                self.hired += 1
                hiring.hired(self.hired)
            for worker in hiring.surplus():
                hiring.ended(worker)
                self.ended.append(worker)
            if not crew.unfinished:
                break
            self.time += 1.0
            yield from self.step(hiring)
        for job in tried(crew.queue):
            yield job.trial.id, "failed"
        refuse_untried(crew.queue)

    def step(self, hiring: Hiring) -> list[tuple[str, str]]:
        """A worker starts, or a trial ends."""
        crew = hiring.crew
        self.together = max(self.together, len(crew.running))
        room = self.nodes - crew.size
        up, waiting = hiring.starting[: max(0, room)], hiring.starting[max(0, room) :]
        self.waiting.append(len(waiting))
        self.nodes = min(self.most, self.nodes + len(waiting))
        if up:
            if self.cannot_start():
                self.said.append(hiring.did_not_start(up[0], "RuntimeError: no GPU") or "")
            else:
                hiring.started(up[0])
            return []
        worker = min(crew.running, key=lambda worker: self.order(crew.running[worker].job.trial))
        trial = crew.running[worker].job.trial
        if not self.dies(trial):
            crew.finished(worker)
            return [(trial.id, "ok")]
        failed = not crew.try_again(crew.running[worker].job)
        if line := crew.lost(worker):
            self.said.append(line)
        return [(trial.id, "failed")] if failed else []


def jobs(trials: list[Trial]) -> list[Job]:
    return [Job(trial) for trial in trials]


def ids(trials: list[Trial]) -> set[str]:
    return {trial.id for trial in trials}

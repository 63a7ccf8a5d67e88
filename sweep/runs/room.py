"""How many workers machines have room for. Pure: it is given what each node has, and asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calib.settings import SettingsError
from sweep.models import ModelRef
from sweep.runs.runner import RunOptions
from sweep.runs.schedule import ONE_KIND, Kind
from sweep.runs.share import gpu_memory, gpus_of


def worker_needs(device: str, gpus: float) -> dict[str, Any]:
    """What Ray is asked for: a CPU, or GPUs alone. Ray would add a CPU to these, which tasks may be waiting for."""
    return {"num_cpus": 1} if device == "cpu" else {"num_cpus": 0, "num_gpus": gpus}


@dataclass(frozen=True)
class Room:
    """The nodes that are alive, as a run with these options sees them. `nodes` are `{"CPU": 8.0, "GPU": 1.0}`.

    `lost` nodes were there and are not any more; `kinds` are the GPUs of workers, of which the smallest are counted.
    """

    nodes: Sequence[Mapping[str, float]]
    options: RunOptions
    lost: int = 0
    kinds: tuple[Kind, ...] = (ONE_KIND,)

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, Any]], options: RunOptions, kinds: tuple[Kind, ...]) -> Room:
        """`nodes` as Ray lists them."""
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        return cls(alive, options, len(nodes) - len(alive), kinds)

    @property
    def device(self) -> str:
        """Device of the trials; on a cluster GPUs may join later."""
        gpus = not self.options.on_cpus and (self._sum("GPU") or self.options.address)
        return "cuda" if gpus else "cpu"

    @property
    def workers(self) -> int:
        """Workers that there is room for. Where models say how many share a GPU, no more than the node has CPUs: each
        keeps one busy."""
        if self.device == "cuda":
            return sum(self._on_gpus(node) for node in self.nodes)
        cpus = sum(int(node.get("CPU", 0.0)) for node in self.nodes)
        # one is left to rebuild what a lost node held
        return max(cpus - 1, min(cpus, 1)) if len(self.nodes) + self.lost > 1 else cpus

    def _on_gpus(self, node: Mapping[str, float]) -> int:
        gpus, share = node.get("GPU", 0.0), min(self.kinds)
        count = int(gpus / share + 1e-9)
        if self.options.gpus_per_worker is None and self.kinds == (share,) and share < 1:
            count = min(count, max(int(node.get("CPU", 0.0)), int(gpus)))
        return count

    def kind_by_model(self, models: Sequence[ModelRef]) -> dict[ModelRef, Kind]:
        """GPUs of a worker for each model: as asked for, else by its entry or size. Where so many workers are asked
        for they are all alike, as the largest model needs them."""
        asked, memory = self.options.gpus_per_worker, gpu_memory(self.nodes)
        found = {model: gpus_of(model, memory) if asked is None else asked for model in models}
        return dict.fromkeys(found, max(found.values())) if self.options.workers and found else found

    def spare(self, workers: int) -> bool:
        """Whether so many workers leave the machines to other tasks: GPU workers hold no CPUs, others half at most."""
        return self.device == "cuda" or 2 * workers <= self._sum("CPU")

    def count(self, notify: Callable[[str], None]) -> int:
        """Workers that there will be; where some wait for nodes, `notify` is told. Raises SettingsError."""
        if shortage := self.shortage():
            notify(shortage)
        return self.options.workers or self.workers

    def shortage(self) -> str | None:
        """What is missing of the workers that are asked for, where a cluster may still grow; None when nothing is.

        Raises SettingsError when they cannot run.
        """
        asked, room, address = self.options.workers or 1, self.workers, self.options.address
        if asked <= room:
            return None
        have = f"{self._sum('GPU'):g} GPUs and {self._sum('CPU'):g} CPUs, room for {room} workers"
        each = f" of {min(self.kinds):g} GPUs each" if self.device == "cuda" else ""
        if address and room:
            return f"the cluster has {have}{each}; the other {asked - room} start when nodes join"
        raise SettingsError(
            f"--workers {asked}: there are {have}{each}; ask for fewer workers or another --gpus-per-worker"
            + (", or see `ray status` for nodes that have not joined" if address else "")
        )

    def wait_line(self, minutes: float) -> str:
        """What to say while a cluster has no room for one worker."""
        what = "a CPU" if self.options.on_cpus else f"{min(self.kinds):g} GPU"
        return f"waiting up to {minutes:.0f} minutes for a node with {what} to join (--gpus-per-worker 0 runs on CPUs)"

    def _sum(self, kind: str) -> float:
        return sum(node.get(kind, 0.0) for node in self.nodes)

"""How many workers machines have room for. Pure: it is given what each node has, and asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calib.settings import SettingsError
from sweep.runs.runner import RunOptions


def worker_needs(device: str, options: RunOptions) -> dict[str, float]:
    """What Ray is asked for: a CPU, or GPUs alone. Ray would add a CPU to these, which tasks may be waiting for."""
    return {"num_cpus": 1} if device == "cpu" else {"num_cpus": 0, "num_gpus": options.gpus_per_worker}


@dataclass(frozen=True)
class Room:
    """The nodes that are alive, as a run with these options sees them. `nodes` are `{"CPU": 8.0, "GPU": 1.0}`.

    `lost` nodes were there and are not any more.
    """

    nodes: Sequence[Mapping[str, float]]
    options: RunOptions
    lost: int = 0

    @property
    def device(self) -> str:
        """Device of the trials; on a cluster GPUs may join later."""
        gpus = self.options.gpus_per_worker and (self._sum("GPU") or self.options.address)
        return "cuda" if gpus else "cpu"

    @property
    def workers(self) -> int:
        """Workers that there is room for."""
        if self.device == "cuda":
            share = self.options.gpus_per_worker
            return sum(int(node.get("GPU", 0.0) / share + 1e-9) for node in self.nodes)
        cpus = sum(int(node.get("CPU", 0.0)) for node in self.nodes)
        return cpus - 1 if len(self.nodes) + self.lost > 1 else cpus  # one is left to rebuild what a lost node held

    def spare(self, workers: int) -> bool:
        """Whether so many workers leave the machines to other tasks: GPU workers hold no CPUs, others half at most."""
        return self.device == "cuda" or 2 * workers <= self._sum("CPU")

    def shortage(self) -> str | None:
        """What is missing of the workers that are asked for, where a cluster may still grow; None when nothing is.

        Raises SettingsError when they cannot run.
        """
        asked, room, address = self.options.workers or 1, self.workers, self.options.address
        if asked <= room:
            return None
        have = f"{self._sum('GPU'):g} GPUs and {self._sum('CPU'):g} CPUs, room for {room} workers"
        each = f" of {self.options.gpus_per_worker:g} GPUs each" if self.device == "cuda" else ""
        if address and room:
            return f"the cluster has {have}{each}; the other {asked - room} start when nodes join"
        raise SettingsError(
            f"--workers {asked}: there are {have}{each}; ask for fewer workers or another --gpus-per-worker"
            + (", or see `ray status` for nodes that have not joined" if address else "")
        )

    def wait_line(self, minutes: float) -> str:
        """What to say while a cluster has no room for one worker."""
        gpus = self.options.gpus_per_worker
        return (
            f"waiting up to {minutes:.0f} minutes for a node with {f'{gpus:g} GPU' if gpus else 'a CPU'} to join "
            "(--gpus-per-worker 0 runs on CPUs)"
        )

    def _sum(self, kind: str) -> float:
        return sum(node.get(kind, 0.0) for node in self.nodes)

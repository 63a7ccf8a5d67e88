"""The machine under a worker: its device, and that device's name, memory and health."""

from __future__ import annotations

import gc
import os
import platform
import resource
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from methods.lazy import torch


def quiet_torch(device: str | None = None) -> str:
    """Set up torch for a worker; returns its device, `cuda` or `cpu` (None: a GPU if there is one).

    On a CPU a worker always computes with one thread: sums are split by the number of threads, so a fixed number makes
    one worker and many give the same bits. More cores are used by more workers.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if device != "cpu" and torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise RuntimeError("this worker was given a GPU, but torch sees none: install a CUDA build of torch there")
    torch.set_num_threads(1)
    return "cpu"


@lru_cache
def device_name(device: str) -> str:
    """Name of the GPU or CPU, looked up once."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def uncompiled_line(module: ModuleType) -> str | None:
    """What to say where a package that was imported has no compiled file: each process compiles all that it imports."""
    spec = module.__spec__
    if spec is None or spec.cached is None or Path(spec.cached).is_file():
        return None
    return (
        "Python keeps no compiled files here (PYTHONDONTWRITEBYTECODE is set, or their folder cannot be written), so "
        "each process starts ten seconds later; set PYTHONPYCACHEPREFIX to a folder for them"
    )


def gpus_here() -> int:
    """NVIDIA GPUs of this machine that this process may use, found without torch."""
    try:
        found = len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if allowed is None else min(found, len([name for name in allowed.split(",") if name.strip()]))


def gpu_models_here() -> list[str]:
    """Names of the NVIDIA GPUs of this machine, such as `NVIDIA H100 80GB HBM3`, found without torch."""
    try:
        texts = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    except OSError:
        return []
    lines = [line for text in texts for line in text.splitlines() if line.startswith("Model:")]
    return [line.partition(":")[2].strip() for line in lines]


def process_began(process: Path = Path("/proc/self/stat"), uptime: Path = Path("/proc/uptime")) -> datetime | None:
    """When this process began; None on a system that does not say, as in containers that count from their own begin."""
    try:
        ticks = int(process.read_text().rpartition(")")[2].split()[19])  # since the machine began; see proc(5)
        age = float(uptime.read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return datetime.now(timezone.utc) - timedelta(seconds=age) if age >= 0 else None


def reset_peak_memory(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> int:
    """Bytes: of this trial on a GPU, of the process so far on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(device: str) -> None:
    gc.collect()
    if device == "cuda" and device_works(device):
        torch.cuda.empty_cache()


def device_works(device: str) -> bool:
    """False after an error that makes every later call on the GPU fail (an illegal memory access)."""
    if device != "cuda":
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True

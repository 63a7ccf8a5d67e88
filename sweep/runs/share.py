"""How much of a GPU a worker takes, where nobody says: all of it, or for a small model a share.

Trials of a small model keep one core busy and leave the GPU idle between its launches, so several workers share one:
as many as its memory holds, in halves. A trial of a large model keeps the GPU busy alone. The hard case is a GPU whose
memory is not known here, on a machine that joins later: it counts as a small one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sweep.models import ModelRef

GB = 10**9
MEMORY = {  # of GPUs by Ray's names of them, GB; of one that comes in several sizes the smallest
    **{"B300": 270, "B200": 180, "GB300": 270, "GB200": 180, "H200": 141, "H100": 80, "H20": 96, "A100": 40},
    **{"L40S": 48, "L40": 48, "L4": 24, "A40": 48, "A10G": 24, "A10": 24, "V100": 16, "T4": 16, "P100": 16},
}
UNKNOWN = 16  # GB
SHARES = (0.125, 0.25, 0.5)  # beyond eight workers a GPU each core's work and its own import of torch decide
SMALL = 1_500_000_000  # parameters; one of 135 M leaves a GPU idle most of the time, one of 7 B 2 % of it
WORKING = 8 << 30  # bytes beside the weights at the full token budget; SmolLM2-135M in float32 peaks at 6.1 GiB of them
CONTEXT = 3 << 28  # bytes that a process takes of a GPU for itself
PREFIX = "accelerator_type:"  # of the resource by which Ray says which GPU a node has


def gpu_memory(nodes: Iterable[Mapping[str, float]]) -> int:
    """Bytes of the smallest GPU of these nodes, as far as Ray's resources tell."""
    kinds = [[name.removeprefix(PREFIX) for name in node if name.startswith(PREFIX)] for node in nodes if "GPU" in node]
    return min((MEMORY.get(found[0], UNKNOWN) if found else UNKNOWN for found in kinds), default=UNKNOWN) * GB


def resource_of(name: str) -> str:
    """The resource by which Ray says that a node has GPUs of this name, such as `NVIDIA H100 80GB HBM3`."""
    return PREFIX + next((word for word in re.split(r"[\s-]+", name) if word in MEMORY), name)


def gpus_of(model: ModelRef, memory: int) -> float:
    """GPUs of a worker that runs trials of a model, on GPUs with so many bytes: what its entry says, else by size."""
    if model.gpus_per_worker is not None:
        return model.gpus_per_worker
    if model.parameters is None or model.parameters > SMALL:
        return 1.0
    dtype = model.expected_dtype("cuda")
    weights = model.parameters * (2 if dtype in ("bfloat16", "float16") else 4)
    need = 2 * weights + WORKING + CONTEXT  # with the dense copy from which they are restored
    return next((share for share in SHARES if need <= share * memory), 1.0)

"""Memory of writing a streamed model as a checkpoint: it must not grow with the number of blocks.

    python -m benchmarks.exporting --tiny                    # any machine: does it run?
    python -m benchmarks.exporting --blocks 2 4 8            # blocks of a 70B LLaMA, 1.7 GB each
    python -m benchmarks.exporting --linears 'self_attn.*'   # other linears stay dense: less arithmetic
    python -m benchmarks.exporting --device cpu              # a GPU does the arithmetic where there is one

Writes a checkpoint of random bfloat16 weights block by block, compresses it in a fresh process with `sweep.compress`
(`placement: streamed`), and prints the peak of that process's resident memory in the host, and of its tensors on the
GPU, beside the bytes that were read and written. With a GPU the host's includes two pinned buffers of a block. The disk
must hold the largest checkpoint, its compressed blocks and its export.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.streaming import TINY, Shape, write_checkpoint
from sweep.compress import compress

COLUMNS = {"read": 8, "written": 11, "peak": 13, "device": 12, "seconds": 7}  # width of each
METHOD = {"method": "rtn", "bits": 4, "group_size": 32, "sym": True}


def export(dense: Path, out: Path, method: dict[str, Any], device: str) -> dict[str, float]:
    """Compress and write in this process; its seconds, GiB written, GiB of resident and of GPU memory at the most."""
    started = time.perf_counter()
    written = compress({"model": str(dense), "placement": "streamed"}, method, None, out, device=device)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    on_gpu = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"seconds": seconds, "written": written.bytes / 2**30, "peak": peak, "device": on_gpu}


def measure(shape: Shape, blocks: int, method: dict[str, Any], folder: Path, device: str) -> dict[str, float]:
    """The figures of a fresh process that exports so many blocks."""
    (dense := folder / "dense").mkdir()
    read = write_checkpoint(dense, shape, blocks, device) / 2**30
    order = [sys.executable, "-m", "benchmarks.exporting", "--device", device]
    order += ["--one", str(dense), str(folder / "out"), json.dumps(method)]
    told = subprocess.run(order, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"blocks": blocks, "read": read, **json.loads(told.splitlines()[-1])}


def main() -> None:
    """Print one line for every number of blocks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a width of 64: does it run?")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--linears", nargs="+", default=["*"], help="which linears are compressed")
    parser.add_argument("--method", type=json.loads, default=METHOD, help="an entry of a study, as JSON")
    parser.add_argument("--scratch", help="folder for the checkpoints [the system's temporary one]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        dense, out, method = arguments.one
        print(json.dumps(export(Path(dense), Path(out), json.loads(method), arguments.device)))
        return
    shape = TINY if arguments.tiny else Shape()
    method = {**arguments.method, "linears": arguments.linears}
    print(f"on {arguments.device}\nblocks  read GiB  written GiB  host peak GiB  GPU peak GiB  seconds", flush=True)
    for blocks in arguments.blocks:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            found = measure(shape, blocks, method, Path(folder), arguments.device)
        figures = [(found[key], width) for key, width in COLUMNS.items()]
        print(f"{blocks:6d}" + "".join(f"  {value:{width}.2f}" for value, width in figures), flush=True)


if __name__ == "__main__":
    main()

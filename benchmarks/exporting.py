"""Memory of writing a streamed model as a checkpoint: it must not grow with the number of blocks.

    python -m benchmarks.exporting --tiny                    # any machine: does it run?
    python -m benchmarks.exporting --blocks 2 4 8            # blocks of a 70B LLaMA, 1.7 GB each
    python -m benchmarks.exporting --linears 'self_attn.*'   # other linears stay dense: less arithmetic

Writes a checkpoint of random bfloat16 weights block by block, compresses it in a fresh process with `sweep.compress`
on the CPU (`placement: streamed`), and prints the peak of that process's resident memory beside the bytes that were
read and written. The disk must hold the largest checkpoint and its export.
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

from benchmarks.streaming import TINY, Shape, write_checkpoint
from sweep.compress import compress

METHOD = {"method": "rtn", "bits": 4, "group_size": 32, "sym": True}


def export(dense: Path, out: Path, method: dict[str, Any]) -> dict[str, float]:
    """Compress and write in this process; its seconds, GiB written and GiB of resident memory at the most."""
    started = time.perf_counter()
    written = compress({"model": str(dense), "placement": "streamed"}, method, None, out, device="cpu")
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    return {"seconds": seconds, "written": written.bytes / 2**30, "peak": peak}


def measure(shape: Shape, blocks: int, method: dict[str, Any], folder: Path) -> dict[str, float]:
    """The figures of a fresh process that exports so many blocks."""
    (dense := folder / "dense").mkdir()
    read = write_checkpoint(dense, shape, blocks, "cpu") / 2**30
    order = [sys.executable, "-m", "benchmarks.exporting", "--one", str(dense), str(folder / "out"), json.dumps(method)]
    told = subprocess.run(order, check=True, capture_output=True, text=True).stdout
    return {"blocks": blocks, "read": read, **json.loads(told.splitlines()[-1])}


def main() -> None:
    """Print one line for every number of blocks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a width of 64: does it run?")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--linears", nargs="+", default=["*"], help="which linears are compressed")
    parser.add_argument("--method", type=json.loads, default=METHOD, help="an entry of a study, as JSON")
    parser.add_argument("--scratch", help="folder for the checkpoints [the system's temporary one]")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        dense, out, method = arguments.one
        print(json.dumps(export(Path(dense), Path(out), json.loads(method))))
        return
    shape = TINY if arguments.tiny else Shape()
    method = {**arguments.method, "linears": arguments.linears}
    print("blocks  read GiB  written GiB  peak GiB  seconds")
    for blocks in arguments.blocks:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            found = measure(shape, blocks, method, Path(folder))
        figures = (found[key] for key in ("read", "written", "peak", "seconds"))
        print(f"{blocks:6d}  {'  '.join(f'{value:8.2f}' for value in figures)}", flush=True)


if __name__ == "__main__":
    main()

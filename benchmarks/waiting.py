"""Do GPUs wait? A launch, read from outside: seconds until it starts, and how much of its GPUs' time is work.

    python -m benchmarks.waiting                          # the default study, on whatever there is
    python -m benchmarks.waiting --shape 7b --workers 2   # GPTQ 4-bit on 16 sets of a LLaMA-7B with random weights
    python -m benchmarks.waiting --shape tiny             # the same with two small blocks: does it run?

Writes the model and four files of random words (unless they are in `--folder`), launches `python -m sweep.launch` in a
process of its own and reads the workers' logs, which stay in the folder `logs` of `--folder`. *Start-up* ends when the
first worker holds its model with everything that its first trial needs; what that worker did until then is printed.
*Busy* is the time in which a worker gives weights back, compresses or evaluates, over the time from there to the last
trial's end, of all workers that ran a trial; where `nvidia-smi` answers, its utilization over the same time stands
beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

ON_DEVICE = ("restore", "compress", "evaluate")  # phases, ...
BESIDE = ("metrics",)  # ... and their parts that leave the device to the next trial
DENSE = "evaluation of the dense model"  # a part of loading that is work
SOURCES, SETS = 4, 4
SAMPLE_MS = 200  # between two looks at the GPUs
WORDS = ("the", "a", "river", "stone", "walked", "slowly", "over", "bright", "old", "house", "of", "and", "to", "never")


@dataclass(frozen=True)
class Span:
    """Of a worker's log: a phase, or a part of one."""

    worker: str
    phase: str
    part: str | None
    begin: float  # seconds of the clock
    end: float

    @property
    def works(self) -> bool:
        """Whether the device is at work."""
        return (self.phase in ON_DEVICE and self.part not in BESIDE) or self.part == DENSE


@dataclass
class Found:
    """What a launch was like, in seconds."""

    launched: float
    spans: list[Span] = field(default_factory=list)
    ended: int = 0
    loaded: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # by worker: seconds of the parts of loading ahead

    @property
    def begins(self) -> float:
        """When the first trial has what it needs."""
        return min((span.begin for span in self.spans if span.phase in ON_DEVICE), default=self.launched)

    @property
    def ends(self) -> float:
        """When the last trial is written."""
        return max((span.end for span in self.spans), default=self.launched)

    @property
    def start_up(self) -> float:
        return self.begins - self.launched

    @property
    def first(self) -> str | None:
        """The worker that begins first."""
        spans = [span for span in self.spans if span.phase in ON_DEVICE]
        return min(spans, key=lambda span: span.begin).worker if spans else None

    def before(self) -> list[Span]:
        """What the worker that begins first did until then, in order."""
        first, begins = self.first, self.begins
        spans = [span for span in self.spans if span.worker == first and span.end <= begins]
        return sorted(spans, key=lambda span: span.begin)

    @property
    def busy(self) -> float:
        """Share of the workers' time from the first trial to the last in which their devices are at work."""
        workers = {span.worker for span in self.spans if span.phase in ON_DEVICE}
        whole = len(workers) * (self.ends - self.begins)
        work = sum(covered(self._work(worker), self.begins) for worker in workers)
        return work / whole if whole else 0.0

    def _work(self, worker: str) -> list[Span]:
        return [span for span in self.spans if span.works and span.worker == worker]


def covered(spans: Iterable[Span], since: float) -> float:
    """Seconds after `since` that any of the spans covers."""
    total, reached = 0.0, since
    for span in sorted(spans, key=lambda span: span.begin):
        total += max(0.0, span.end - max(span.begin, reached))
        reached = max(reached, span.end)
    return total


def read_logs(folder: Path, launched: float) -> Found:
    """The phases in the logs of all workers of a results folder."""
    found = Found(launched)
    for path in sorted((folder / "logs").glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found.ended += sum(line["event"] == "done" for line in lines)
        found.spans += list(_spans(path.stem, lines))
        if seconds := [line["seconds"] for line in lines if line["event"] == "loaded"]:
            found.loaded[path.stem] = seconds[-1]
    return found


def _spans(worker: str, lines: Iterable[dict[str, Any]]) -> Iterator[Span]:
    opened: dict[tuple[str, str, str | None], float] = {}
    for line in lines:
        if line["event"] not in ("begin", "end"):
            continue
        now = datetime.fromisoformat(line["time"]).timestamp()
        key = line["trial"], line["phase"], line.get("part")
        if line["event"] == "begin":
            opened[key] = now
        elif key in opened:
            yield Span(worker, line["phase"], line.get("part"), opened.pop(key), now)


@contextmanager
def utilization() -> Iterator[list[tuple[float, float]]]:
    """(second, percent) of each GPU while open, by nvidia-smi; empty where there is none."""
    seen: list[tuple[float, float]] = []
    if shutil.which("nvidia-smi") is None:
        yield seen
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"-lms={SAMPLE_MS}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        for line in process.stdout or ():
            if line.strip().isdigit():
                seen.append((time.time(), float(line)))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        process.terminate()
        process.wait()
        reader.join()


def write_texts(folder: Path, words: int) -> list[Path]:
    """Four JSONL files of so many random words each."""
    paths = []
    for number in range(SOURCES):
        rng = random.Random(number)
        documents = [" ".join(rng.choices(WORDS, k=400)) for _ in range(words // 400 + 1)]
        paths.append(folder / f"text-{number}.jsonl")
        paths[-1].write_text("\n".join(json.dumps({"text": text}) for text in documents))
    return paths


def write_study(folder: Path, shape: str, nsamples: int, seqlen: int) -> str:
    """A study of one model of random weights: GPTQ on four sets of four texts. Returns its file."""
    import torch

    from benchmarks.streaming import Shape, write_checkpoint
    from sweep.models import resolve_model

    model = folder / f"llama-{shape}"
    if not model.is_dir():
        model.mkdir()
        sizes, blocks = (
            (Shape(hidden=4096, heads=32, kv_heads=32, inner=11008), 32)
            if shape == "7b"
            else (Shape(hidden=64, heads=4, kv_heads=2, inner=128, vocabulary=8192), 2)
        )
        write_checkpoint(model, sizes, blocks, "cuda" if torch.cuda.is_available() else "cpu")
        for name in ("tokenizer.json", "tokenizer_config.json"):  # of real words, unlike the checkpoint's own
            shutil.copy(Path(resolve_model("reference-2m", "model").path, name), model / name)
    texts = write_texts(folder, SETS * nsamples * seqlen * 5 // 4)
    study = {
        "study": f"waiting-{shape}",
        "models": [str(model)],
        "methods": [{"method": "gptq", "bits": 4, "group_size": 128 if shape == "7b" else 32}],
        "calibration": {
            "source": [{"source": "file", "path": str(path), "label": path.stem} for path in texts],
            "sets": SETS,
            "nsamples": nsamples,
            "seqlen": seqlen,
        },
        "evaluation": {
            "tasks": ["reference_blimp", "reference_lambada"],
            "limit": 100 if shape == "7b" else 4,
            "heldout": ["books", "code"],
            "heldout_windows": 16 if shape == "7b" else 2,
            "heldout_seqlen": 512 if shape == "7b" else 64,
        },
    }
    path = folder / f"{shape}.yaml"
    path.write_text(yaml.safe_dump(study))
    return str(path)


def launch(study: str, results: Path, arguments: Sequence[str]) -> tuple[Found, int, list[tuple[float, float]]]:
    """Launch a study and read what it left; also its exit code, and the GPUs' utilization meanwhile."""
    launched = time.time()
    with utilization() as seen:
        code = subprocess.run(
            [sys.executable, "-m", "sweep.launch", study, "--results", str(results), *arguments], check=False
        ).returncode
    return read_logs(results, launched), code, seen


def keep_logs(logs: Path, kept: Path) -> None:
    """Copy the logs of this launch in place of those of an earlier one."""
    shutil.rmtree(kept, ignore_errors=True)
    if logs.is_dir():
        shutil.copytree(logs, kept)


def show(found: Found, total: float, seen: Sequence[tuple[float, float]]) -> None:
    print(f"start-up {found.start_up:.1f} s, then {found.ended} trials in {found.ends - found.begins:.1f} s")
    for span in found.before():
        what = f"{span.phase}, {span.part}" if span.part else span.phase
        print(f"  {span.begin - found.launched:5.1f} to {span.end - found.launched:5.1f} s: {what}")
    if parts := found.loaded.get(found.first or ""):
        print("  loading ahead: " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items()))
    print(f"busy from the first trial to the last: {found.busy:.1%}")
    during = [percent for second, percent in seen if found.begins <= second <= found.ends]
    if during:
        print(f"utilization by nvidia-smi meanwhile: {sum(during) / len(during):.0f} %")
    print(f"whole launch {total:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the launch's exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("--shape", choices=("default", "7b", "tiny"), default="default")
    parser.add_argument("--workers", help="as of sweep.launch")
    parser.add_argument("--gpus-per-worker", help="as of sweep.launch")
    parser.add_argument("--folder", type=Path, help="where models, texts and logs are kept [default: nowhere]")
    options = parser.parse_args(argv)
    flags = [("--workers", options.workers), ("--gpus-per-worker", options.gpus_per_worker)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        nsamples, seqlen = (128, 2048) if options.shape == "7b" else (8, 128)
        study = "reference" if options.shape == "default" else write_study(folder, options.shape, nsamples, seqlen)
        began = time.monotonic()
        found, code, seen = launch(
            study, Path(temporary, "results"), [part for flag, value in flags if value for part in (flag, value)]
        )
        show(found, time.monotonic() - began, seen)
        if options.folder:
            keep_logs(Path(temporary, "results", "logs"), folder / "logs")
    return code


if __name__ == "__main__":
    sys.exit(main())

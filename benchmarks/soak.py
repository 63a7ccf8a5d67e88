"""A long study among failures: what is lost, doubled or wrong in the end? All of it must be nothing.

Real `python -m sweep.launch` processes with real Ray run a study of short trials (`benchmarks/soak_hook`: their numbers
come from their ids) again and again. By a seed, each launch meets kills of workers, a full disk, a store that stands
still or a clock that steps, and ends by itself, by SIGKILL, SIGTERM or SIGINT, or by the death of its raylet or head;
between launches the files are packed, and some packings are killed. The last launch is left in peace. Then the tables
are compared with those of an undisturbed run, which goes on beside it, bit by bit. A launch takes half a minute until
its first trial, so the trials are shared out to lanes: soaks in folders of their own, with Rays of their own, at the
same time.

    python -m benchmarks.soak --trials 2000 --launches 20 --lanes 4 --seed 1     # some minutes of 16 cores
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from sweep.results import DETAILS, KEYS, Results

PROJECT = Path(__file__).resolve().parents[1]
TABLES = ("trials", *DETAILS, "calibration")
LEVELS = 40  # settings of a method that sees calibration data: trials of one calibration set
VOLATILE = ("peak_memory", "worker", "started", "attempts", "files", "commit", "versions")  # and seconds
OWN_WORDS = re.compile(r"^(interrupted: |stopped: |error: |\d+ done, \d+ failed, |interrupted; )", re.MULTILINE)
CODES = {0, 1, 2, 130}
ENDS = ("itself", "driver", "SIGTERM", "SIGINT", "raylet", "gcs_server")
FAULTS = ("worker", "worker", "all workers", "full", "still", "clock")
LAUNCH_SECONDS = 900.0  # a launch that takes longer hangs
RAY_SECONDS = 30.0  # Ray's processes end by themselves within so long
AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # these outlive a killed raylet by minutes


@dataclass
class Soak:
    """What happened; `problems` holds what must not."""

    events: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    seconds: Counter[str] = field(default_factory=Counter)  # of all launches, by what they were spent on
    without_our_words: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a soak runs: its folder, and the environment of its processes."""

    folder: Path
    environment: Mapping[str, str]
    mark: str  # in the environment of every process that it starts

    @property
    def faults(self) -> Path:
        return self.folder / "faults"

    @property
    def results(self) -> Results:
        return Results(self.folder / "r")


def make_place(folder: Path) -> Place:
    """An empty folder with its study's environment."""
    (folder / "faults").mkdir(parents=True)
    mark = f"soak-{uuid.uuid4().hex}"
    paths = [Path(__file__).parent / "soak_hook", PROJECT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "SOAK_FAULTS": str(folder / "faults"),
        "SOAK_RESULTS": str(folder),
        "SOAK_MARK": mark,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",  # beside other work they would starve
        "COLUMNS": "200",
    }
    return Place(folder, environment, mark)


def write_study(place: Place, trials: int) -> int:
    """A study of at least so many short trials; returns how many they are."""
    sets = max(1, math.ceil((trials - 1) / LEVELS))
    study = {
        "study": "soak",
        "models": ["reference-2m"],
        "methods": [{"method": "wanda", "sparsity": [(1 + level) / (2 * LEVELS) for level in range(LEVELS)]}],
        "calibration": {"source": "books", "sets": sets, "nsamples": 1, "seqlen": 32},
        "evaluation": {"tasks": ["reference_lambada"], "limit": 1},
    }
    (place.folder / "soak.yaml").write_text(yaml.safe_dump(study))
    return 1 + sets * LEVELS


def start(place: Place, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of this soak, whose output goes to the file `log`."""
    # what a shell runs in the background ignores interrupts, and so would what that starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (place.folder / "log").open("w") as log:
            command = [sys.executable, "-m", *arguments]
            return subprocess.Popen(
                command, cwd=place.folder, env=place.environment, stdout=log, stderr=subprocess.STDOUT, text=True
            )
    finally:
        signal.signal(signal.SIGINT, before)


def processes(place: Place, name: str = "") -> list[int]:
    """Numbers of this soak's processes whose title begins with `name`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = f"SOAK_MARK={place.mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if ours and (folder / "comm").read_text().startswith(name):
                found.append(int(folder.name))
    return found


def kill(numbers: Sequence[int]) -> bool:
    """Kill these processes; whether there was one."""
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return bool(numbers)


def committed(place: Place) -> int:
    return len(place.results.keys("trials"))


def reached(place: Place, goal: int) -> bool:
    """Whether so many trials have a row."""
    return committed(place) >= goal


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = LAUNCH_SECONDS) -> bool:
    """Whether it came true before the process ended."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def fault(place: Place, name: str, content: str = "") -> Iterator[None]:
    (place.faults / name).write_text(content)
    try:
        yield
    finally:
        (place.faults / name).unlink()


def disturb(place: Place, name: str, rng: random.Random) -> bool:
    """One fault that a launch must survive; whether it took place."""
    workers = [number for number in processes(place, "ray::Actor") if number]
    if name == "worker":
        return kill(rng.sample(workers, 1) if workers else [])
    if name == "all workers":
        return kill(workers)
    with fault(place, name, str(rng.choice([-400, -130, 130, 400])) if name == "clock" else ""):
        time.sleep(rng.uniform(0.5, 2.0))
    return True


def end(place: Place, process: subprocess.Popen[str], how: str) -> bool:
    """Bring about the end of a launch; whether it took place."""
    if how in ("SIGTERM", "SIGINT"):
        process.send_signal(getattr(signal, how))
        return True
    if how == "driver":
        return kill([process.pid])
    return kill(processes(place, how))


def disturbed_launch(place: Place, soak: Soak, rng: random.Random, portion: int) -> None:
    """One launch with some faults, each after a few more trials, and an end."""
    process = start(place, "sweep.launch", "soak.yaml", "--results", "r", "--workers", "2", "--retry-failed")
    how = rng.choice(ENDS)
    before = committed(place)
    since = time.monotonic()
    wait_for(partial(reached, place, before + 1), process)
    soak.seconds["until the first trial"] += round(time.monotonic() - since)
    goal = before
    for name in rng.sample(FAULTS, rng.randint(1, 3)):
        goal += rng.randint(1, portion)
        if wait_for(partial(reached, place, goal), process) and disturb(place, name, rng):
            soak.events[name] += 1
    if how != "itself":
        goal += rng.randint(1, portion)
        if wait_for(partial(reached, place, goal), process) and end(place, process, how):
            soak.events[f"end by {how}"] += 1
    finish(place, soak, process, killed=how == "driver")


def finish(place: Place, soak: Soak, process: subprocess.Popen[str], *, killed: bool = False) -> int | None:
    """Wait until a launch ends, and see that it ends in our words; returns its exit code."""
    soak.launches += 1
    since = time.monotonic()
    try:
        code = process.wait(timeout=LAUNCH_SECONDS)
    except subprocess.TimeoutExpired:
        kill([process.pid])
        code = None
    output = (place.folder / "log").read_text()
    of_ours = code in CODES and OWN_WORDS.search(output) is not None and "Traceback" not in output
    if not of_ours and not (killed and code == -signal.SIGKILL):
        soak.without_our_words.append(f"exit code {code}: {output[-1500:]}")
    soak.seconds["until the end"] += round(time.monotonic() - since)
    since = time.monotonic()
    deadline = since + RAY_SECONDS
    while _left(place) and time.monotonic() < deadline:
        time.sleep(0.2)
    kill(processes(place))
    soak.seconds["until Ray's processes end"] += round(time.monotonic() - since)
    return code


def _left(place: Place) -> set[int]:
    """Processes of a launch that has ended which will end as well."""
    return set(processes(place)).difference(*(processes(place, name) for name in AGENTS))


def pack(place: Place, soak: Soak, rng: random.Random) -> None:
    """Pack the files, and kill that in the middle now and then."""
    process = start(place, "sweep.results", "compact", "r")
    if rng.random() < 0.5:
        wait_for(lambda: any((place.folder / "r").glob("*/packed/*.parquet")), process, 60)
        time.sleep(rng.uniform(0, 0.3))
        kill([process.pid])
        soak.events["packing killed"] += 1
    else:
        soak.events["packed"] += 1
    process.wait()


def numbers(root: Path, table: str) -> pl.DataFrame:
    """A table without what depends on how and when it was made."""
    frame = Results(root).read(table)
    return frame.drop([name for name in frame.columns if name in VOLATILE or name.startswith("seconds")])


def raw_twice(place: Place) -> int:
    """Keys that readers would count twice."""
    twice = 0
    for table in TABLES:
        rows = place.results.scan(table).select(KEYS[table]).collect()
        twice += rows.height - rows.unique().height
    return twice


def judge(place: Place, undisturbed: Place, trials: int) -> dict[str, int]:
    """Lost, duplicated and wrong trials, and files that nobody needs."""
    rows = numbers(place.folder / "r", "trials")
    whole = numbers(undisturbed.folder / "r", "trials")
    ok = rows.filter(pl.col("status") == "ok")
    wrong: set[Any] = set()
    for table in TABLES:
        left, right = numbers(place.folder / "r", table), numbers(undisturbed.folder / "r", table)
        unlike = set(map(repr, left.rows())) ^ set(map(repr, right.rows()))  # repr: each bit of a number, and NaN
        wrong |= {text.split(",")[0] for text in unlike}  # the first column is the trial's or the set's id
    leftovers = [
        *place.folder.glob("r/**/.*.tmp"),
        *place.folder.glob("r/lease.json"),
        *place.folder.glob("r/started/*"),
    ]
    assert whole.height == trials, f"the undisturbed run has {whole.height} of {trials} trials"
    return {
        "lost": trials - ok.height,
        "duplicated": raw_twice(place),
        "wrong": len(wrong),
        "leftover files": len(leftovers),
    }


def soak(folder: Path, trials: int, seed: int, launches: int, say: Callable[[str], None] = print) -> dict[str, int]:
    """Run a soak in an empty folder; returns what is lost, duplicated, wrong, left over and ended without our words."""
    rng, record = random.Random(seed), Soak()
    place, undisturbed = make_place(folder / "disturbed"), make_place(folder / "undisturbed")
    count = write_study(place, trials)
    write_study(undisturbed, trials)
    whole = start(undisturbed, "sweep.launch", "soak.yaml", "--results", "r", "--local", "--gpus-per-worker", "0")
    portion = max(1, count // (3 * launches))
    for number in range(launches):
        disturbed_launch(place, record, rng, portion)
        if rng.random() < 0.4:
            pack(place, record, rng)
        say(f"launch {number + 1}: {committed(place)} of {count} trials have a row; {dict(record.events)}")
    for file in place.folder.glob("r/**/.*.tmp"):  # as if minutes had passed: younger ones may be of a living writer
        os.utime(file, (time.time() - 3600,) * 2)
    arguments = ("soak.yaml", "--results", "r", "--workers", "2", "--retry-failed")
    if finish(place, record, start(place, "sweep.launch", *arguments)) != 0:
        record.without_our_words.append(f"the last launch: {(place.folder / 'log').read_text()[-1500:]}")
    if finish(undisturbed, record, whole):
        raise RuntimeError(f"the undisturbed run failed: {(undisturbed.folder / 'log').read_text()[-2000:]}")
    for text in record.without_our_words:
        say(text)
    say(f"{record.launches} launches; {dict(record.events)}; seconds {dict(record.seconds)}")
    return {**judge(place, undisturbed, count), "ended without our words": len(record.without_our_words)}


def lanes(folder: Path, trials: int, seed: int, launches: int, count: int) -> dict[str, int]:
    """So many soaks at the same time, which share trials and launches; returns the sums of what they found."""
    each = math.ceil(trials / count), math.ceil(launches / count)
    # processes, since each of them starts others with handlers of signals, which only a main thread may set
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        runs = [
            pool.submit(soak, folder / f"lane{lane}", each[0], seed * count + lane, each[1]) for lane in range(count)
        ]
        found = [run.result() for run in runs]
    return {name: sum(one[name] for one in found) for name in found[0]}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when nothing was lost, duplicated, wrong, left over or without words."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="trials of the study, about")
    parser.add_argument("--launches", type=int, default=20, help="launches that are disturbed")
    parser.add_argument("--lanes", type=int, default=max(1, (os.cpu_count() or 1) // 4), help="soaks at the same time")
    parser.add_argument("--seed", type=int, default=0, help="seed of all faults")
    parser.add_argument("--keep", type=Path, help="an empty folder that is kept")
    options = parser.parse_args(argv)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    since = time.monotonic()
    found = lanes(folder, options.trials, options.seed, options.launches, options.lanes)
    print(", ".join(f"{name} {count}" for name, count in found.items()), f"in {time.monotonic() - since:.0f} s")
    if options.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())

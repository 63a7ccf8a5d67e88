"""What a results folder says of its study, while it runs or long afterwards: counts, who works at what, hours, errors.

Everything is read from the folder: rows, the number of planned trials (`plan.json`), the lease, and the workers' logs
(`logs/HOST-PROCESS.jsonl`, in local folders). So it is the same from any machine that sees the folder. The hard case is
a launch that was killed: its logs end in the middle of a trial, and its lease is still there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from sweep.storage.lease import holder
from sweep.storage.store import ResultsError
from sweep.storage.tables import Results

PLAN = "plan.json"
TAIL = 4096  # bytes of a log that hold its last line, unless that is a traceback
SHOWN = 3  # errors that are printed


@dataclass(frozen=True)
class Busy:
    """A worker in the middle of a trial."""

    worker: str  # host-process, the name of its log
    trial: str
    phase: str
    seconds: float  # since the phase began
    memory: int | None  # bytes, peak of the trial on a GPU


@dataclass(frozen=True)
class Status:
    """A study by its folder."""

    root: str
    study: str
    planned: int | None  # by the last launch; None where trials are chosen as it goes
    done: int
    failed: int
    writer: str | None  # the launch that holds the folder
    running: tuple[Busy, ...]
    left_seconds: float | None  # until the end, at the speed of this launch
    device_hours: dict[str, float]  # of all trials that ended, by device
    errors: tuple[tuple[str, int], ...]  # what failed and how often, the most frequent first

    def lines(self) -> list[str]:
        """For a person."""
        ended = self.done + self.failed
        of = f" of {self.planned:,}" if self.planned is not None and self.planned >= ended else ""
        lines = [f"{self.study}: {ended:,}{of} trials ended, {self.failed:,} of them failed"]
        if self.writer:
            left = f", about {self.left_seconds / 60:,.0f} min left" if self.left_seconds is not None else ""
            lines.append(f"running: {self.writer}{left}")
        else:
            lines.append("no launch is running")
        for busy in self.running:
            memory = f", {busy.memory / 2**30:.1f} GiB" if busy.memory else ""
            lines.append(f"  {busy.worker}: {busy.trial}, {busy.phase} for {busy.seconds:.0f} s{memory}")
        lines += [f"{hours:,.2f} hours of trials on {device}" for device, hours in self.device_hours.items()]
        lines += [f"failed {count} times: {error}" for error, count in self.errors[:SHOWN]]
        lines.append(f"results in {self.root}; `calibsweep report {shlex.quote(self.root)}` writes the report")
        return lines


def status(root: str) -> Status:
    """What the folder says. Raises ResultsError when there are no results or damaged ones, OSError when it cannot be
    read."""
    results = Results(root)
    rows = _rows(results)
    plan, lease = _json(results, PLAN), holder(results)
    if rows.is_empty() and not plan:
        raise ResultsError(f"{root}: there are no results; give the folder or URI that --results named")
    since = _time(lease.get("since")) if lease else None
    ended = dict(rows.group_by("status").len().iter_rows())
    hours = rows.group_by("device").agg(pl.col("seconds_total").sum() / 3600).sort("device")
    errors = rows.filter(pl.col("status") == "failed").group_by("error").len().sort("len", "error", descending=True)
    planned = plan.get("trials")
    left = None if planned is None else max(0, int(planned) - rows.height)  # rows may be of trials planned before
    return Status(
        root=results.root,
        study=str(rows.item(0, "study")) if rows.height else str(plan.get("study", "?")),
        planned=planned,
        done=ended.get("ok", 0),
        failed=ended.get("failed", 0),
        writer=f"process {lease.get('pid', '?')} on {lease.get('host', '?')}, since {lease.get('since', '?')}"
        if lease
        else None,
        running=tuple(running(results, since)) if lease else (),
        left_seconds=_left_seconds(rows, left, since),
        device_hours={str(device): hour for device, hour in hours.drop_nulls("device").iter_rows()},
        errors=tuple((str(error), count) for error, count in errors.iter_rows()),
    )


def _rows(results: Results) -> pl.DataFrame:
    try:
        return results.read("trials")
    except (pl.exceptions.PolarsError, pa.ArrowException) as error:
        raise ResultsError(
            f"{results.root}/trials: a file there is damaged ({str(error).splitlines()[0]}); a launch with the same "
            "study names it and makes its trial again"
        ) from None


def running(results: Results, since: datetime | None = None) -> Iterator[Busy]:
    """The workers that are in the middle of a trial, by the last lines of their logs; those from before `since` are not
    looked at. Nothing for a bucket, where logs stay on the machines. A worker that died is not there any more once
    another one has ended its trial."""
    if not results.is_local:
        return
    now = datetime.now(timezone.utc)
    packed = _packed(results)
    for path in sorted((Path(results.path) / "logs").glob("*.jsonl")):
        if since and path.stat().st_mtime < since.timestamp():
            continue  # of earlier launches there may be thousands
        last = _last_line(path)
        at = _time(last.get("time"))
        if at is None or (since and at < since) or last.get("event") in (None, "done", "hangs"):
            continue
        if (trial_id := str(last.get("trial"))) in packed or _row_since(results, trial_id, at):
            continue
        phase = str(last.get("phase") or "start")
        name = str(last.get("name") or last.get("trial"))
        yield Busy(path.stem, name, phase, max(0.0, (now - at).total_seconds()), last.get("memory"))


def _packed(results: Results) -> set[str]:
    """Trials that packed files list, but for damaged ones."""
    found: set[str] = set()
    for path in results.packed_files("trials"):
        with suppress(OSError, ValueError):
            found |= results.index(path).keys()
    return found


def _row_since(results: Results, trial_id: str, at: datetime) -> bool:
    """Whether the trial's row was written after this time."""
    try:
        return (Path(results.path) / "trials" / f"{trial_id}.parquet").stat().st_mtime > at.timestamp()
    except OSError:
        return False


def _left_seconds(rows: pl.DataFrame, left: int | None, since: datetime | None) -> float | None:
    """At the speed since the launch began: of its trials until the last one started."""
    if left is None or since is None:
        return None
    started = rows.filter(pl.col("started") >= since).get_column("started")
    if started.len() < 2:
        return None
    elapsed = (datetime.now(timezone.utc) - since).total_seconds()
    return left * elapsed / started.len()


def _last_line(path: Path) -> dict[str, Any]:
    """Of a worker's log, but for lines of what it records beside."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().splitlines()
        found = (json.loads(line) for line in reversed(lines))
        return next((line for line in found if isinstance(line, dict) and not line.get("beside")), {})
    except (OSError, ValueError):  # it is being written
        return {}


def _json(results: Results, name: str) -> dict[str, Any]:
    text = results.read_text(name)
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)

"""Whether the adviser keeps what it promises: writes the tables of docs/adviser.md.

    python -m benchmarks.adviser simulate [--repetitions 200] [--processes 2]
    python -m benchmarks.adviser replay [--repetitions 200] [--data benchmarks/adviser/data/studies.parquet]

Every repetition has its own seed: the same numbers on every run. `python -m benchmarks.adviser.extract` makes the data
of the replay from results folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from benchmarks.adviser.extract import DATA
from benchmarks.adviser.rows import DIVERGENCE, ONE_TEXT, THREE, WORST, Row, questions, replayed_row, simulated
from benchmarks.adviser.worlds import WORLDS

PAGE = Path("docs/adviser.md")
BY_DIVERGENCE, BLOCKS = "replay, screens judged by divergence", "replay, first blocks"
SECTIONS = (  # of the replay: title, kind, whether a screen costs its share of the windows, targets
    ("replay, cheap screens", "resampled", True, (THREE, ONE_TEXT, WORST)),
    ("replay, seconds as measured", "resampled", False, (THREE, ONE_TEXT)),
    (BY_DIVERGENCE, "resampled", True, (THREE, ONE_TEXT, WORST)),
    (BLOCKS, "resampled", False, (THREE, ONE_TEXT, WORST)),
    ("held out", "held out", True, (THREE, ONE_TEXT)),
    ("equal sources", "equal", True, (THREE,)),
)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")

app = typer.Typer(add_completion=False, help=__doc__)


def _table(rows: Sequence[Row]) -> str:
    """Markdown of rows, their columns in the order of the longest, then those that only others have."""
    head = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row.get(name, "–") for name in head) + " |" for row in rows)])


def _write(section: str, text: str) -> None:
    """Put the text between the section's marks in the page. Raises ValueError where the page has no such marks."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {section} -->\n", f"\n<!-- end of {section} -->"
    if begin not in page or end not in page:
        raise ValueError(f"{PAGE}: no section '{section}'")
    head, rest = page.split(begin, 1)
    PAGE.write_text(f"{head}{begin}{text}{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def _rows(jobs: Sequence[Callable[[], Row]], processes: int) -> Iterator[Row]:
    """Rows in order, as they are finished."""
    for name in THREADS:
        os.environ.setdefault(name, "1")
    # spawn: the threads of Polars do not survive a fork
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for future in [pool.submit(job) for job in jobs]:
            row = future.result()
            typer.echo(" | ".join(row.values()))
            yield row


@app.command()
def simulate(
    repetitions: Annotated[int, typer.Option(help="of every row")] = 200,
    processes: Annotated[int, typer.Option(help="processes")] = 2,
) -> None:
    """Simulated sources at a quarter of a full study's time."""
    rows: list[Row] = []
    for row in _rows([partial(simulated, world, repetitions) for world in range(len(WORLDS))], processes):
        rows.append(row)
        _write("simulation", f"{repetitions} repetitions a row.\n\n{_table(rows)}")


@app.command()
def replay(
    repetitions: Annotated[int, typer.Option(help="of every row")] = 200,
    data: Annotated[Path, typer.Option(help="Parquet file of finished studies")] = DATA / "studies.parquet",
    blocks: Annotated[Path, typer.Option(help="Parquet file of the errors of first blocks")] = DATA / "blocks.parquet",
    section: Annotated[str | None, typer.Option(help="one table alone")] = None,
    processes: Annotated[int, typer.Option(help="processes")] = 2,
) -> None:
    """Finished studies at a quarter of their time."""
    cells = list(dict.fromkeys((q.model, q.method) for q in questions(data)))
    known = set(pl.read_parquet(blocks).select("model", "method").iter_rows())
    for title, kind, nominal, names in SECTIONS:
        if section not in (None, title):
            continue
        rows: list[Row] = []
        screens = {BLOCKS: blocks, BY_DIVERGENCE: DIVERGENCE}.get(title)
        keys = [(*cell, name) for name in names for cell in cells if screens != blocks or cell in known]
        jobs = [partial(replayed_row, data, key, kind, nominal, repetitions, screens) for key in keys]
        for row in _rows(jobs, processes):
            rows.append(row)
            _write(title, f"{repetitions} repetitions a row.\n\n{_table(rows)}")


if __name__ == "__main__":
    app()

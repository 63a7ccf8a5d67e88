"""Whether the intervals and probabilities of the analysis hold, design by design: makes docs/coverage.md.

    python -m benchmarks.designs [--studies 300] [--output docs/coverage.md] [--processes 2]

Studies come from `benchmarks.designs.sets` and `benchmarks.designs.others`, which share no code with the estimators.
Every cell has its own seed: the same numbers on every run.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.designs.checks import CHECKS, Row


def cell(check: int, design: int, studies: int) -> Row:
    """One row of one table."""
    found = CHECKS[check]
    return found.row(
        found.designs[design], np.random.default_rng([2026, check, design]), max(studies // found.fewer, 1)
    )


def markdown(rows: list[Row]) -> str:
    """A table of rows that have the same keys."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_text(row[name]) for name in head) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "–" if math.isnan(value) else f"{value:.3f}"


def page(tables: list[list[Row]], studies: int) -> str:
    """The document."""
    error = (0.95 * 0.05 / studies) ** 0.5
    parts = [
        "# Coverage\n",
        f"How often 95 % intervals hold the truth, and how stated probabilities come true, over {studies} simulated "
        f"studies a row (standard error of a coverage of .95: {error:.3f}). Made by `python -m benchmarks.designs`; "
        "the simulator shares no code with the estimators. Sources differ with an SD of one usual draw unless a design "
        "says otherwise. What the estimators are is said in `docs/analysis.md`.\n",
    ]
    for check, rows in zip(CHECKS, tables, strict=True):
        parts += [f"## {check.title}\n", f"{check.text}\n", markdown(rows)]
    return "\n".join(parts)


def main(
    studies: Annotated[int, typer.Option(help="simulated studies per row")] = 300,
    output: Annotated[Path, typer.Option(help="Markdown file to write")] = Path("docs/coverage.md"),
    processes: Annotated[int, typer.Option(help="processes")] = 2,
) -> None:
    """Simulate every design and write the tables."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with ProcessPoolExecutor(processes) as pool:
        jobs = [
            [pool.submit(cell, check, design, studies) for design in range(len(found.designs))]
            for check, found in enumerate(CHECKS)
        ]
        tables = []
        for found, row in zip(CHECKS, jobs, strict=True):
            tables.append([job.result() for job in row])
            typer.echo(f"{found.title}\n\n{markdown(tables[-1])}")
    output.write_text(page(tables, studies), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

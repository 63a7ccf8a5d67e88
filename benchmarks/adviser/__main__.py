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
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from benchmarks.adviser import replay as replayed
from benchmarks.adviser import simulation
from benchmarks.adviser.extract import DATA
from benchmarks.adviser.worlds import WORLDS

PAGE = Path("docs/adviser.md")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ONE_TEXT = "one text"  # all held-out texts, each alone

app = typer.Typer(add_completion=False, help=__doc__)
Row = dict[str, str]


def simulated(world: int, repetitions: int) -> Row:
    """One row of the table of the simulation."""
    found = [simulation.repeat(WORLDS[world], seed) for seed in range(repetitions)]
    return {
        "sources": WORLDS[world].name,
        **_said(found),
        **_regrets(found),
        **_spent(found, simulation.SETS * WORLDS[world].arms),
    }


def replayed_row(data: Path, key: tuple[str, str, str], kind: str, nominal: bool, repetitions: int) -> Row:
    """One row of a table of the replay: all questions of a name in turn share the repetitions."""
    model, method, name = key
    asked = [q for q in _questions(data) if (q.model, q.method) == (model, method)]
    asked = [q for q in asked if (q.own is not None if name == ONE_TEXT else q.name == name)]
    found, shares = [], []
    for seed in range(repetitions):
        question = asked[seed % len(asked)]
        costs = replayed.costs_of(question, nominal)
        found.append(replayed.repeat(question, kind, seed, costs))
        shares.append(found[-1].played.spent / (costs.full * question.high.shape[0] * question.high.shape[1]))
    row = {"model": model, "method": method, "target": name}
    if kind == "equal":
        verdicts = [one.played.verdict for one in found]
        return {
            **row,
            **{kind: f"{verdicts.count(kind) / len(found):.2f}" for kind in ("winner", "tie", "cannot tell")},
        }
    if kind == "held out":
        gains = {
            name: f"{np.mean([one.gain[name] for one in found]):.2f}"
            for name in found[0].gain
            if name != "random source"
        }
        return {**row, "regret (from above)": f"{np.mean([one.regret['adviser'] for one in found]):.2f}", **gains}
    return {**row, **_said(found), **_regrets(found), "share of time": f"{np.mean(shares):.3f}"}


@lru_cache
def _questions(data: Path) -> list[replayed.Question]:
    return replayed.questions(pl.read_parquet(data))


def _said(found: Sequence[simulation.Repetition] | Sequence[replayed.Repetition]) -> Row:
    """The adviser's regret beside what it states."""
    regret = np.array([one.regret["adviser"] for one in found])
    stated = np.array([one.played.regret for one in found])
    below = np.mean([r <= one.played.upper for r, one in zip(regret, found, strict=True)])
    best = np.mean(regret <= 1e-12), np.mean([one.played.p_best for one in found])
    return {
        "regret": f"{regret.mean():.3f} ± {regret.std() / len(regret) ** 0.5:.3f}",
        "stated": f"{stated.mean():.3f}",
        "true / stated": f"{regret.mean() / stated.mean():.2f}" if stated.mean() > 0 else "–",
        "below upper 80 %": f"{below:.2f}",
        "best (stated)": f"{best[0]:.2f} ({best[1]:.2f})",
    }


def _regrets(found: Sequence[simulation.Repetition] | Sequence[replayed.Repetition]) -> Row:
    """Mean regret of the other policies; – where one does not apply."""
    names = [name for name in found[0].regret if name != "adviser"]
    return {name: f"{np.mean([one.regret[name] for one in found]):.3f}" for name in names}


def _spent(found: Sequence[simulation.Repetition], whole: float) -> Row:
    return {
        "share of time": f"{np.mean([one.played.spent for one in found]) / whole:.3f}",
        "rounds": f"{np.mean([one.played.rounds for one in found]):.1f}",
        "settled": f"{np.mean([one.played.stop == 'settled' for one in found]):.2f}",
    }


def _table(rows: Sequence[Row]) -> str:
    """Markdown of rows, their columns in the order of the longest."""
    head = list(max(rows, key=len))
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
    processes: Annotated[int, typer.Option(help="processes")] = 2,
) -> None:
    """Finished studies at a quarter of their time."""
    cells = list(dict.fromkeys((q.model, q.method) for q in _questions(data)))
    names = ("texts", "texts, JS", "tasks", ONE_TEXT, "worst text")
    for section, kind, nominal in (
        ("replay, cheap screens", "resampled", True),
        ("replay, seconds as measured", "resampled", False),
        ("held out", "held out", True),
        ("equal sources", "equal", True),
    ):
        rows: list[Row] = []
        keys = [(*cell, name) for cell in cells for name in (("texts", "tasks") if kind == "equal" else names)]
        for row in _rows([partial(replayed_row, data, key, kind, nominal, repetitions) for key in keys], processes):
            rows.append(row)
            _write(section, f"{repetitions} repetitions a row.\n\n{_table(rows)}")


if __name__ == "__main__":
    app()

"""Rows of the tables of docs/adviser.md: repetitions of one world or one question, in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.adviser import replay as replayed
from benchmarks.adviser import simulation
from benchmarks.adviser.worlds import WORLDS

THREE, ONE_TEXT, WORST = "texts, JS, tasks", "one text", "worst text"  # targets in turn; texts in turn; minimax
DIVERGENCE = "divergence"
LEAST = 10  # repetitions that a mean is told of
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


def replayed_row(
    data: Path, key: tuple[str, str, str], kind: str, nominal: bool, repetitions: int, screens: Path | str | None = None
) -> Row:
    """One row of a table of the replay: all questions of a name in turn share the repetitions. `screens`: what they are
    judged by in place of the target, the divergence (`DIVERGENCE`) or a file of the errors of first blocks."""
    model, method, name = key
    asked = [q for q in questions(data) if (q.model, q.method) == (model, method)]
    of_name = {
        THREE: lambda q: q.name in ("texts", "texts, JS", "tasks"),
        ONE_TEXT: lambda q: q.own is not None,
        WORST: lambda q: q.name == WORST,
    }
    asked = [q for q in asked if of_name[name](q)]
    if screens == DIVERGENCE:
        asked = [replayed.with_divergence(question, pl.read_parquet(data)) for question in asked]
    elif screens is not None:
        asked = [replayed.with_blocks(question, pl.read_parquet(screens)) for question in asked]
    found, shares = [], []
    for seed in range(repetitions):
        question = asked[seed % len(asked)]
        costs = replayed.costs_of(question, nominal)
        bound = name == WORST and screens is None
        found.append(replayed.repeat(question, kind, seed, costs, bound=bound))
        shares.append(found[-1].played.spent / (costs.full * question.high.shape[0] * question.high.shape[1]))
    row = {"model": model, "method": method, "target": name}
    if kind == "equal":
        verdicts = ["use any" if one.played.any_will_do else one.played.verdict for one in found]
        kinds = ("use any", "winner", "tie", "cannot tell")
        return {**row, **{kind: f"{verdicts.count(kind) / len(found):.2f}" for kind in kinds}}
    if kind == "held out":
        gains = {
            name: f"{np.mean([one.gain[name] for one in found]):.2f}"
            for name in found[0].gain
            if name != "random source"
        }
        return {**row, "regret (from above)": f"{np.mean([one.regret['adviser'] for one in found]):.2f}", **gains}
    return {**row, **_said(found), **_regrets(found), "share of time": f"{np.mean(shares):.3f}", **_any(found)}


@lru_cache
def questions(data: Path) -> list[replayed.Question]:
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
        **_any(found),
    }


def _any(found: Sequence[simulation.Repetition] | Sequence[replayed.Repetition]) -> Row:
    """How often any will do, and what a random source costs then, true and stated, and how often that is below the
    stated 80 % upper bound; – where it is said too seldom."""
    said = [one for one in found if one.played.any_will_do]
    row = {"use any": f"{len(said) / len(found):.2f}"}
    if len(said) < LEAST:
        return row
    true, stated = (
        np.mean([cost(one) for one in said])
        for cost in (lambda one: one.regret["random source"], lambda one: one.played.at_random)
    )
    below = np.mean([one.regret["random source"] <= one.played.at_random_upper for one in said])
    return {**row, "random source then (stated)": f"{true:.2f} ({stated:.2f})", "below its upper 80 %": f"{below:.2f}"}

"""Single answers side by side: what compression changed, and which of two methods answers what the other does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import stats

from analysis.estimates.outcomes import Outcomes, answered
from analysis.measures import MEAN

FLIP_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "source": pl.String,
    **dict.fromkeys(["trials", "examples"], pl.Int64),
    **dict.fromkeys(["lost", "gained", "flipped", "flipped_sd"], pl.Float64),
}
METHOD_TEST_SCHEMA = {
    "model": pl.String,
    "a": pl.String,
    "b": pl.String,
    "task": pl.String,
    "variance": pl.Float64,
}
MCNEMAR_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "a": pl.String,
    "b": pl.String,
    **dict.fromkeys(["pairs", "examples"], pl.Int64),
    **dict.fromkeys(["a_only", "b_only", "p_median", "significant", "a_better"], pl.Float64),
}


def answers_of(outcomes: Outcomes) -> tuple[np.ndarray, list[str]]:
    """(right or wrong over the tasks that are, float32 [trials, examples] with NaN for no answer; the other tasks)."""
    tasks = {task: m for task, m in outcomes.matrices["score"].items() if task in outcomes.tasks["score"]}
    graded = sorted(task for task, matrix in tasks.items() if ((matrix != 0) & (matrix != 1) & ~np.isnan(matrix)).any())
    matrices = [matrix for task, matrix in tasks.items() if task not in graded]
    blank = np.zeros((outcomes.trials.height, 0), np.float32)
    return np.concatenate(matrices, axis=1) if matrices else blank, graded


def flips(outcomes: Outcomes, answers: np.ndarray) -> list[dict[str, object]]:
    """Answers that the compressed model changed, per method and source."""
    trials = outcomes.trials.with_row_index("row")
    dense = trials.filter(pl.col("method") == "dense")
    if dense.is_empty() or answers.shape[1] == 0:
        return []
    before = answers[dense.item(0, "row")]
    rows: list[dict[str, object]] = []
    compressed = trials.filter(pl.col("method") != "dense")
    for (label, source), part in compressed.group_by("method_label", "source", maintain_order=True):
        after = answers[part["row"].to_numpy()]
        after = after[(~np.isnan(after) & ~np.isnan(before)).any(axis=1)]  # a trial of held-out text alone has none
        if len(after) == 0:
            continue
        examples = (~np.isnan(after) & ~np.isnan(before)).sum(axis=1)
        lost = 100 * ((before == 1) & (after == 0)).sum(axis=1) / examples
        gained = 100 * ((before == 0) & (after == 1)).sum(axis=1) / examples
        total = lost + gained
        rows.append(
            {
                "model": outcomes.model,
                "parameters": part.item(0, "parameters"),
                "method_label": label,
                "source": source,
                "trials": len(after),
                "examples": int(examples.max()),
                "lost": float(lost.mean()),
                "gained": float(gained.mean()),
                "flipped": float(total.mean()),
                "flipped_sd": float(total.std(ddof=1)) if len(after) > 1 else None,
            }
        )
    return rows


def shared_sets(outcomes: Outcomes, labels: list[str]) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
    """(a, b) -> rows of method a and rows of method b on the calibration sets that both saw, in the same order."""
    trials = outcomes.trials.with_row_index("row").filter(pl.col("source").is_not_null())
    place = {
        label: {(r["source"], r["set"]): r["row"] for r in part.iter_rows(named=True)}
        for (label,), part in trials.group_by("method_label")
    }
    found = {}
    for index, a in enumerate(labels):
        for b in labels[index + 1 :]:
            if shared := sorted(set(place.get(a, {})) & set(place.get(b, {}))):
                found[a, b] = [place[a][key] for key in shared], [place[b][key] for key in shared]
    return found


def mcnemar(
    outcomes: Outcomes, answers: np.ndarray, pairs: dict[tuple[str, str], tuple[list[int], list[int]]]
) -> list[dict[str, object]]:
    """Every pair of methods on the calibration sets that both saw."""
    if answers.shape[1] == 0:
        return []
    rows: list[dict[str, object]] = []
    for (a, b), (rows_a, rows_b) in pairs.items():
        one, two = answers[rows_a], answers[rows_b]
        shared = (~np.isnan(one) & ~np.isnan(two)).any(axis=1)
        if not shared.any():
            continue
        one, two = one[shared], two[shared]
        a_only = ((one == 1) & (two == 0)).sum(axis=1)
        b_only = ((one == 0) & (two == 1)).sum(axis=1)
        p = mcnemar_p(a_only, b_only)
        rows.append(
            {
                "model": outcomes.model,
                "parameters": outcomes.trials.item(0, "parameters"),
                "a": a,
                "b": b,
                "pairs": len(one),
                "examples": int((~np.isnan(one) & ~np.isnan(two)).sum(axis=1).max()),
                "a_only": float(a_only.mean()),
                "b_only": float(b_only.mean()),
                "p_median": float(np.median(p)),
                "significant": float((p < 0.05).mean()),
                "a_better": float((a_only > b_only).mean()),
            }
        )
    return rows


def method_tests(
    outcomes: Outcomes, pairs: dict[tuple[str, str], tuple[list[int], list[int]]]
) -> list[dict[str, object]]:
    """Per pair of methods and task, and for the mean over tasks: how far other test examples move their difference."""
    tasks = {task: m for task, m in outcomes.matrices["score"].items() if task in outcomes.tasks["score"]}
    owner = outcomes.trials["source"].to_list()
    rows: list[dict[str, object]] = []
    for (a, b), (rows_a, rows_b) in pairs.items():
        sources = np.array([owner[row] for row in rows_a])
        found: dict[str, float | None] = {}
        for task, matrix in tasks.items():
            gap = 100.0 * (matrix[rows_a] - matrix[rows_b])
            there = answered(gap)
            found[task] = example_variance(gap[there], sources[there]) if there.any() else None
        known = [value for value in found.values() if value is not None]
        if known and len(known) == len(outcomes.tasks["score"]):  # examples of different tasks are independent
            found[MEAN] = sum(known) / len(tasks) ** 2
        rows += [
            {"model": outcomes.model, "a": a, "b": b, "task": task, "variance": value} for task, value in found.items()
        ]
    return rows


def example_variance(differences: np.ndarray, sources: Sequence[object] | np.ndarray) -> float | None:
    """Variance that the choice of examples gives to the mean of differences [sets, examples]; None for one example.

    The mean is that of the sources' means. The spread of an example's mean over examples, less the part of it that
    other sources and sets would change, which the spread over sources holds already.
    """
    complete = differences[:, ~np.isnan(differences).any(axis=0)].astype(np.float64)
    examples = complete.shape[1]
    if examples < 2:
        return None
    names = np.array([str(source) for source in sources])
    groups = [complete[names == name] for name in sorted(set(names))]
    means = np.stack([group.mean(axis=0) for group in groups])
    noise = 0.0
    if len(groups) > 1:
        noise = float(means.var(axis=0, ddof=1).mean()) / len(groups)
    elif len(complete) > 1:
        noise = float(complete.var(axis=0, ddof=1).mean()) / len(complete)
    return max(float(means.mean(axis=0).var(ddof=1)) - noise, 0.0) / examples


def mcnemar_p(a_only: np.ndarray, b_only: np.ndarray) -> np.ndarray:
    """Exact two-sided p of McNemar's test from the counts of examples that only one of two models answers right."""
    n = a_only + b_only
    return np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(a_only, b_only), n, 0.5))

"""Where the spread of a score comes from: the source, the draw of the set, the test examples, and what is left.

The outcome of example e under calibration set k of source s follows the crossed design

    y_ske = μ + source_s + set_sk + example_e + (source × example)_se + residual_ske,

sets nested in sources, examples crossed with both. The residual is the set-by-example interaction together with the
repeat noise: they part only when the same set is run again (`repeat_table`). Components are estimated by the method of
moments on mean squares, which on balanced data is what REML gives as long as no component is negative; sources count
alike whatever their number of sets. A trial without samples of a task is left out and named; examples that some other
trial lacks are left out and counted.

The hard case is the interval. There are few sources and few sets, and resampling five things does not tell how far a
sixth may lie: a plain bootstrap over six sources covers the source component in 75 of 100 studies instead of 95. So
examples, of which there are many, are resampled, and the mean squares of sources and sets are drawn from their pivot
(mean square × degrees of freedom / χ²), as in generalised intervals (Weerahandi 1993; Burdick and Graybill 1992).
Coverage is checked by simulation in the tests.

A score is a mean over examples, or a mean over tasks of such means; a component's `variance` is what it adds to the
variance of that score, so components of a task with many examples and with few can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from analysis.estimates.outcomes import COLUMN_OF, MEASURE_OF, Outcomes, answered
from analysis.frames import Limitation, Study, listed
from analysis.measures import MEAN

SOURCE, SET, EXAMPLE, SOURCE_EXAMPLE, RESIDUAL = (
    "source",
    "set within source",
    "test examples",
    "source × example",
    "set × example and noise",
)
COMPONENTS = (SOURCE, SET, EXAMPLE, SOURCE_EXAMPLE, RESIDUAL)
DRAWS = 1000
MANY = 1000  # examples from which the bootstrap of a mean is drawn from its normal limit
SCALE = {"score": 100.0, "nll": 1.0, "js": 1.0}


@dataclass(frozen=True)
class Estimate:
    """Variance components of one score. `variance` and `draws` have one entry per component, null as NaN.

    variance: what each component adds to the variance of the score; a negative moment estimate is kept as it is.
    draws:    float64 [draws, components], the distribution behind the intervals.
    sets:     calibration sets in all; `per_source` is the smallest and the largest number of a source.
    """

    variance: np.ndarray
    draws: np.ndarray
    sources: int
    sets: int
    per_source: tuple[int, int]
    examples: int
    dropped: int

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of each variance, not below zero; NaN where the design cannot tell."""
        tail = (1 - level) / 2
        with np.errstate(invalid="ignore"):
            low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        return np.maximum(low, 0), np.maximum(high, 0)


def components(
    matrices: Sequence[np.ndarray], sources: Sequence[object], rng: np.random.Generator, draws: int = DRAWS
) -> Estimate:
    """Components of the mean over tasks of the mean outcome.

    matrices: one per task, [trials, examples], NaN where a trial has no outcome.
    sources:  the source of each trial. With one source the source component is NaN, with one set each the set is, and
              all are NaN when the trials do not share two examples of every task.
    """
    names = np.array([str(source) for source in sources])
    groups = [np.flatnonzero(names == name) for name in sorted(set(names))]
    counts = np.array([len(group) for group in groups])
    complete = [_complete(matrix) for matrix in matrices]
    dropped = sum(m.shape[1] - c.shape[1] for m, c in zip(matrices, complete, strict=True))
    if len(names) == 0 or min(matrix.shape[1] for matrix in complete) < 2:
        unknown = np.full((draws, len(COMPONENTS)), np.nan)
        per_source = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
        return Estimate(unknown[0], unknown, len(groups), len(names), per_source, 0, dropped)
    weight = 1 / len(matrices)
    scores = weight * sum(matrix.mean(axis=1) for matrix in complete)
    freedom = int((counts - 1).sum())
    harmonic = float((1 / counts).mean())  # a source mean carries this share of the variance between its sets
    means = np.array([scores[group].mean() for group in groups])
    within = sum(((scores[g] - scores[g].mean()) ** 2).sum() for g in groups) / freedom if freedom else np.nan
    between = means.var(ddof=1) if len(groups) > 1 else np.nan

    estimate, spread = np.zeros(3), np.zeros((draws, 3))
    for matrix in complete:
        parts = _example_squares(matrix, groups, freedom)
        share = weight**2 / max(matrix.shape[1] - 1, 1)
        mean = parts.mean(axis=1)
        estimate += share * mean
        # Reflected on the log scale, as the pivots are: mean squares are skewed, and a low one looks too certain.
        resampled = _resampled_means(parts, rng, draws)
        spread += share * np.divide(mean**2, resampled, out=np.zeros_like(resampled), where=resampled > 0)
    pivots = np.stack([_pivot(between, len(groups) - 1, rng, draws), _pivot(within, freedom, rng, draws)], axis=1)
    point = _solve(np.array([between, within]), estimate, harmonic, len(groups))
    cloud = _solve(pivots, spread, harmonic, len(groups))
    per_source = int(counts.min()), int(counts.max())
    return Estimate(point, cloud, len(groups), len(scores), per_source, sum(c.shape[1] for c in complete), dropped)


def _complete(matrix: np.ndarray) -> np.ndarray:
    """The examples that every trial has, float64 [trials, examples]."""
    return np.asarray(matrix[:, ~np.isnan(matrix).any(axis=0)], np.float64)


def _example_squares(matrix: np.ndarray, groups: Sequence[np.ndarray], freedom: int) -> np.ndarray:
    """Per example, float64 [3, examples]: squares between sets within sources, between sources, and of the example.

    Times examples / (examples - 1), their means over examples estimate residual, source × example + residual / sets,
    and example + the other two divided by the number of sources.
    """
    count = matrix.shape[1]
    centred = matrix - matrix.mean(axis=1, keepdims=True)
    sources = np.stack([centred[group].mean(axis=0) for group in groups])
    middle = sources.mean(axis=0)
    inner = sum(((centred[g] - m) ** 2).sum(axis=0) for g, m in zip(groups, sources, strict=True))
    residual = inner / freedom if freedom else np.full(count, np.nan)
    crossed = ((sources - middle) ** 2).sum(axis=0) / (len(groups) - 1) if len(groups) > 1 else np.full(count, np.nan)
    return np.stack([residual, crossed, middle**2])


def _resampled_means(parts: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Means over resampled examples, float64 [draws, 3], all three from the same resample."""
    count = parts.shape[1]
    if count > MANY:  # the limit of the bootstrap of a mean
        known = ~np.isnan(parts[:, 0])
        limit = np.full((draws, 3), np.nan)
        covariance = np.atleast_2d(np.cov(parts[known])) / count
        limit[:, known] = rng.multivariate_normal(parts[known].mean(axis=1), covariance, draws, method="svd")
        return limit
    weights = rng.multinomial(count, np.full(count, 1 / count), draws) / count
    return np.asarray(weights @ parts.T)


def _pivot(square: float, freedom: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draws of the expectation of a mean square, given the mean square."""
    if freedom < 1:
        return np.full(draws, np.nan)
    return np.asarray(square * freedom / rng.chisquare(freedom, draws))


def _solve(squares: np.ndarray, parts: np.ndarray, harmonic: float, sources: int) -> np.ndarray:
    """Components [..., 5] from the squares of the scores (between, within) and of the examples."""
    between, within = squares[..., 0], squares[..., 1]
    residual, crossed, single = parts[..., 0], parts[..., 1], parts[..., 2]
    source_example = crossed - harmonic * residual
    example = single - crossed / sources if sources > 1 else single - harmonic * residual
    return np.stack(
        [between - harmonic * within - source_example, within - residual, example, source_example, residual], axis=-1
    )


def component_rows(
    outcomes: Outcomes, column: str, label: str, rng: np.random.Generator, notes: list[Limitation]
) -> list[dict[str, object]]:
    """The components of one method of one model: a row per task and component, and the same for the mean over tasks.

    A trial without samples of a task is left out of that task and of the mean; `notes` gets what was left out. The
    tasks are those of the tables: where one of them has no samples at all, the components of the mean are unknown.
    """
    trials = outcomes.trials.with_row_index("row").filter(pl.col("method_label") == label)
    tasks = {task: matrix[trials["row"].to_numpy()] for task, matrix in outcomes.matrices[column].items()}
    tasks = {task: m for task, m in tasks.items() if task in outcomes.tasks[column] and answered(m).any()}
    if not tasks:
        return []
    bare = sorted(outcomes.tasks[column] - set(tasks))
    first = trials.row(0, named=True)
    data_free = trials["source"].null_count() == trials.height
    there = {task: answered(matrix) for task, matrix in tasks.items()}
    chosen = [(task, [matrix[there[task]]], there[task]) for task, matrix in tasks.items()]
    if len(tasks) > 1 and not bare:
        everywhere = np.logical_and.reduce(list(there.values()))
        chosen.append((MEAN, [matrix[everywhere] for matrix in tasks.values()], everywhere))
    if bare:
        text = f"{label} on {outcomes.model} has no samples of {listed(bare)}, so components of the mean are unknown."
        notes.append(Limitation("incomplete samples", text))
    rows: list[dict[str, object]] = []
    for task, matrices, kept in chosen:
        lacking = [_name(trial) for trial in trials.filter(~pl.Series(kept)).iter_rows(named=True)]
        gap = _gap(task, lacking, matrices)
        if gap:
            text = f"{label} on {outcomes.model}, components of {task} ({MEASURE_OF[column]}): {gap}."
            notes.append(Limitation("incomplete samples", text))
        estimate = components(matrices, trials.filter(pl.Series(kept))["source"].to_list(), rng)
        context = {"model": outcomes.model, "parameters": first["parameters"], "method_label": label, "task": task}
        rows += [{**context, **row} for row in _rows(estimate, SCALE[column], data_free, gap)]
    return rows


def _name(trial: Mapping[str, object]) -> str:
    return "the one trial" if trial["source"] is None else f"{trial['source']} {trial['set']}"


def _gap(task: str, lacking: Sequence[str], matrices: Sequence[np.ndarray]) -> str:
    """What the samples lack for these components, in words; empty when nothing."""
    said = []
    some = "some task" if task == MEAN else task
    if lacking:
        said.append(f"without {listed(lacking)}, which have no samples of {some}")
    if any(_complete(matrix).shape[1] < 2 for matrix in matrices):
        said.append(f"unknown, because its {len(matrices[0])} trials share no two examples of {some}")
    return "; ".join(said)


def _rows(estimate: Estimate, scale: float, data_free: bool, gap: str) -> list[dict[str, object]]:
    low, high = estimate.interval()
    variance = estimate.variance.copy()
    note = [""] * len(COMPONENTS)
    if (
        data_free and estimate.examples > 1
    ):  # one trial whatever the calibration data: no spread over sources and sets, exactly
        low[:2] = high[:2] = variance[:2] = 0.0
        note[0] = note[1] = "zero by construction: the method sees no calibration data"
        note[2] = "with the interactions, which one trial cannot separate"
    levels = [estimate.sources, estimate.sets, estimate.examples, estimate.examples, estimate.examples]
    positive = np.maximum(variance, 0)
    total = np.nansum(positive)
    fewest, most = estimate.per_source
    rows: list[dict[str, object]] = []
    for index, component in enumerate(COMPONENTS):
        known = not np.isnan(variance[index])
        if not known and not note[index]:
            note[index] = gap or "this design cannot tell: it needs two sources and two sets of a source"
        elif gap:
            note[index] = "; ".join(filter(None, [note[index], gap]))
        if known and variance[index] < 0:
            note[index] = "negative estimate, shown as zero"
        if known and index < 2 and fewest < most:
            unbalanced = f"unbalanced: {fewest} to {most} sets per source, every source weighs alike"
            note[index] = "; ".join(filter(None, [note[index], unbalanced]))
        rows.append(
            {
                "component": component,
                "sd": float(np.sqrt(positive[index]) * scale) if known else None,
                "low": float(np.sqrt(low[index]) * scale) if not np.isnan(low[index]) else None,
                "high": float(np.sqrt(high[index]) * scale) if not np.isnan(high[index]) else None,
                "share": float(positive[index] / total) if known and total > 0 else None,
                "variance": float(variance[index] * scale**2) if known else None,
                "levels": levels[index],
                "dropped_examples": estimate.dropped,
                "note": note[index],
            }
        )
    return rows


COMPONENT_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "task": pl.String,
    "component": pl.String,
    **dict.fromkeys(["sd", "low", "high", "share", "variance"], pl.Float64),
    "levels": pl.Int64,
    "dropped_examples": pl.Int64,
    "note": pl.String,
}


def component_table(study: Study, measure: str = "accuracy") -> pl.DataFrame:
    """Variance components per (model, method, task) and for the mean over tasks, with 95 % intervals of the SD.

    `sd` is what the component adds to the score's standard deviation: points for accuracy, nats per token for
    perplexity (its logarithm) and divergence. `share` is of the sum of the components.
    """
    from analysis.estimates.examples import example_tables  # reads samples/ once for every table that needs them

    return example_tables(study).components[COLUMN_OF[measure]]


@lru_cache(maxsize=8)
def repeat_table(study: Study) -> pl.DataFrame:
    """Repeat noise: SD over trials that share every factor, per (model, method, measure), mean over tasks.

    Empty when no cell was run twice. Zero means that a trial run again gave the same numbers.
    """
    from analysis.measures import build_values

    schema = {"model": pl.String, "method_label": pl.String, "measure": pl.String, "cells": pl.UInt32, "sd": pl.Float64}
    if study.repeats.is_empty():
        return pl.DataFrame(schema=schema)
    metrics = study.results.scan("metrics").filter(pl.col("trial_id").is_in(study.repeats["trial_id"].to_list()))
    dense = study.trials.filter(pl.col("method") == "dense")
    trials = pl.concat([study.repeats, dense]).unique("trial_id", maintain_order=True)
    rows = pl.concat([metrics.collect(), study.metrics.join(dense.select("trial_id"), on="trial_id", how="semi")])
    values, _ = build_values(trials, rows.unique(["trial_id", "task", "metric"], maintain_order=True))
    values = values.filter((pl.col("task") == MEAN) & pl.col("trial_id").is_in(study.repeats["trial_id"].to_list()))
    cells = values.group_by("model", "method_label", "measure", "source", "set", "condition").agg(pl.col("value").var())
    pooled = cells.group_by("model", "method_label", "measure").agg(
        pl.len().alias("cells"), pl.col("value").mean().sqrt().alias("sd")
    )
    return pooled.sort("model", "method_label", "measure")

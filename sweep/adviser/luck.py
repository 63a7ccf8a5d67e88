"""The luck of the test's examples: how much of a loss is which examples were asked, and how many are worth asking.

A trial's residual on an example is what is left of its loss there after the trial's mean and the example's mean are
taken off. Residuals between draws of one arm are the noise with which examples choose among its draws; those between
all trials hold as well that examples like some arms better than others. From their variance σ_r² for one example, the
variance σ_δ² of a draw and the seconds c_C of compressing and c_E of asking one example, B = √(c_C/c_E · σ_r²/σ_δ²)
examples tell most about an arm in the same time: with more of them fewer draws can be paid, with fewer each tells less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import polars as pl

from sweep.adviser.targets import ACCURACY, TEXT, Target


def noise(samples: pl.DataFrame, arms: Mapping[str, str], target: Target) -> float | None:
    """Variance that the choice of examples gives the difference of a draw's loss from its arm's mean.

    samples: rows of `samples/`; arms: by trial id. None where no arm has two draws, or a text has a single window.
    """
    groups = [[trial for trial, arm in arms.items() if arm == name] for name in dict.fromkeys(arms.values())]
    return _variance(samples, groups, target)


def spread(samples: pl.DataFrame, trials: Sequence[str], target: Target) -> float | None:
    """The same of a difference between any two of these trials: what examples make of arms counts too."""
    return _variance(samples, [list(trials)], target)


def worth_asking(count: int, compress: float, evaluate: float, among_examples: float, among_draws: float) -> int | None:
    """Examples that tell most for the time, given how many were asked; None where draws or seconds do not say.

    compress, evaluate: seconds of a trial. among_examples: variance of a loss by the choice of `count` examples;
    among_draws: variance of a draw apart from that.
    """
    if not (compress > 0 and evaluate > 0 and among_draws > 0):
        return None
    return max(1, round(count * math.sqrt(compress / evaluate * among_examples / among_draws)))


def _variance(samples: pl.DataFrame, groups: Sequence[Sequence[str]], target: Target) -> float | None:
    parts = _parts(samples, target)
    found = [_of_part(part, groups) for part in parts]
    if not parts or any(value is None for value in found):
        return None
    return sum(value for value in found if value is not None) / len(parts) ** 2


def _of_part(part: pl.DataFrame, groups: Sequence[Sequence[str]]) -> float | None:
    """Of one text or task: the variance of a mean over its examples, pooled over the groups of trials."""
    wide = part.pivot(on="trial_id", index="doc_id", values="loss").drop("doc_id")
    if any(wide.null_count().row(0)):
        return None
    squares, freedom, examples = 0.0, 0, wide.height
    for group in groups:
        table = wide.select([trial for trial in group if trial in wide.columns]).to_numpy()  # [examples, trials]
        if min(table.shape) < 2:
            continue
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        squares += float((rest**2).sum())
        freedom += (table.shape[0] - 1) * (table.shape[1] - 1)
    return squares / freedom / examples if freedom else None


def _parts(samples: pl.DataFrame, target: Target) -> list[pl.DataFrame]:
    """(trial_id, doc_id, loss in the target's unit) of each text or task."""
    if target.measure == TEXT:
        rows = samples.filter(pl.col("task").is_in(list(target.labels)), pl.col("nll").is_not_null())
        loss = 100.0 * pl.col("nll").cast(pl.Float64)
    else:
        rows = samples.filter(pl.col("nll").is_null())
        accurate = target.measure == ACCURACY
        loss = -100.0 * pl.col("score") if accurate else -pl.col("loglikelihood").cast(pl.Float64)
    rows = rows.select("task", "trial_id", "doc_id", loss=loss)
    return [part.drop("task") for part in rows.partition_by("task", maintain_order=True)]

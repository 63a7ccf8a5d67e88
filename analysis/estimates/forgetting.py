"""Which answers a compressed model loses: those that the dense model gave by a hair, or those it was sure of.

How sure the dense model was of an example is the size of its margin: how far the right answer lies before or behind the
best wrong one. The examples of each task are put into thirds by it, because margins of one task are not those of
another, and a third of all tasks together holds a third of each. Flips among close answers are what any small change
does; flips among clear ones are knowledge that is gone (after Hooker et al. 2019, arXiv 1911.05248).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.estimates.outcomes import Outcomes

THIRDS = ("close", "middle", "clear")
FORGETTING_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "dense_margin": pl.String,
    "margin_median": pl.Float64,
    **dict.fromkeys(["trials", "examples"], pl.Int64),
    **dict.fromkeys(["lost", "gained", "flipped", "flipped_sd", "share_of_flips"], pl.Float64),
}


def thirds(sizes: np.ndarray) -> np.ndarray:
    """The third that each of the sizes lies in, int [examples], 0 the smallest; equal sizes keep their order."""
    rank = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    return np.asarray(3 * rank // max(len(sizes), 1))


def forgetting(outcomes: Outcomes) -> list[dict[str, object]]:
    """A row per method and third, over the tasks whose examples are right or wrong and have a margin.

    Examples that the dense model has no answer to count for nothing, and neither do trials without answers.
    """
    trials = outcomes.trials.with_row_index("row")
    dense = trials.filter(pl.col("method") == "dense")
    if dense.is_empty():
        return []
    answers, sizes, third = _examples(outcomes, int(dense.item(0, "row")))
    if answers.shape[1] == 0:
        return []
    before = answers[dense.item(0, "row")]
    rows: list[dict[str, object]] = []
    compressed = trials.filter(pl.col("method") != "dense")
    for (label,), part in compressed.group_by("method_label", maintain_order=True):
        after = answers[part["row"].to_numpy()]
        after = after[~np.isnan(after).all(axis=1)]
        if len(after) == 0:
            continue
        known = ~np.isnan(after)
        lost, gained = (before == 1) & (after == 0), (before == 0) & (after == 1)
        every = max(float((lost | gained).sum()), 1.0)
        for number, name in enumerate(THIRDS):
            here = third == number
            examples = known[:, here].sum(axis=1)
            told = examples > 0
            if not told.any():  # one or two examples have no third of each kind
                continue
            shares = [100 * which[told][:, here].sum(axis=1) / examples[told] for which in (lost, gained)]
            flipped = shares[0] + shares[1]
            rows.append(
                {
                    "model": outcomes.model,
                    "parameters": part.item(0, "parameters"),
                    "method_label": label,
                    "dense_margin": name,
                    "margin_median": float(np.median(sizes[here])),
                    "trials": int(told.sum()),
                    "examples": int(examples.max()),
                    "lost": float(shares[0].mean()),
                    "gained": float(shares[1].mean()),
                    "flipped": float(flipped.mean()),
                    "flipped_sd": float(flipped.std(ddof=1)) if len(flipped) > 1 else None,
                    "share_of_flips": 100 * float((lost | gained)[:, here].sum()) / every,
                }
            )
    return rows


def _examples(outcomes: Outcomes, dense: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(answers [trials, examples], sizes of the dense model's margins [examples], third of each within its task)."""
    blank = np.zeros(0)
    answers, sizes, third = [np.zeros((outcomes.trials.height, 0), np.float32)], [blank], [blank.astype(int)]
    margins = outcomes.matrices.get("margin", {})
    for task, scores in sorted(outcomes.matrices["score"].items()):
        if task not in outcomes.tasks["score"] or task not in margins:
            continue
        size = np.abs(margins[task][dense].astype(np.float64))
        there = ~np.isnan(size) & ~np.isnan(scores[dense])
        if not there.any() or ((scores != 0) & (scores != 1) & ~np.isnan(scores)).any():
            continue
        answers.append(scores[:, there])
        sizes.append(size[there])
        third.append(thirds(size[there]))
    return np.concatenate(answers, axis=1), np.concatenate(sizes), np.concatenate(third)

"""What the choice of held-out windows gives to a contrast of texts: a test is a sample of a text.

With two windows a text the error over windows is two to four times that over calibration sets, and a text is what the
contrast speaks of.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import polars as pl

from analysis.domains import BY_NAME, Domains
from analysis.estimates.outcomes import Outcomes

MATCH_TEST_SCHEMA = {"model": pl.String, "method_label": pl.String, "texts": pl.Int64, "variance": pl.Float64}


def match_tests(outcomes: Outcomes, domains: Domains = BY_NAME) -> list[dict[str, object]]:
    """Per method: variance (points²) that the windows give to the contrast of `analysis.compare.domain_match`.

    None without a dense trial, which perplexity increases are relative to, or with one window of a text.
    """
    texts = outcomes.matrices.get("nll", {})
    trials = outcomes.trials.with_row_index("row")
    dense = trials.filter(pl.col("method") == "dense")
    if dense.is_empty():
        return []
    rows: list[dict[str, object]] = []
    calibrated = trials.filter(pl.col("source").is_not_null())
    for (label,), part in calibrated.group_by("method_label", maintain_order=True):
        sources = part["source"].to_numpy()
        owners = {text: {name for name in set(sources) if domains.same(name, text)} for text in texts}
        own = [text for text in texts if 0 < len(owners[text]) < len(set(sources))]
        found = [
            _of_text(texts[text][part["row"].to_numpy()] - texts[text][dense.item(0, "row")], sources, owners[text])
            for text in own
        ]
        known = [variance for variance in found if variance is not None]
        if known and len(known) == len(found) and len(set(sources)) > 1:
            variance = float(sum(known)) / len(known) ** 2  # windows of different texts are independent
            rows.append({"model": outcomes.model, "method_label": label, "texts": len(known), "variance": variance})
    return rows


def _of_text(increase: np.ndarray, sources: np.ndarray, owners: Set[str]) -> float | None:
    """Variance of the contrast on one text: others minus own, each a mean over sets and then over sources.

    increase: nats per token over dense, [trials, windows]. owners: the sources of the text's own domain. A perplexity
    increase is an exponential of its mean, so that a window counts as much as the increase is large.
    """
    there = ~np.isnan(increase).all(axis=1)
    increase, sources = increase[there], sources[there]
    kept = ~np.isnan(increase).any(axis=0)
    windows = int(kept.sum())
    if windows < 2:
        return None
    increase = increase[:, kept].astype(np.float64)
    scaled = 100 * np.exp(increase.mean(axis=1, keepdims=True)) * increase
    means = {name: scaled[sources == name].mean(axis=0) for name in set(sources)}
    others = [mean for name, mean in means.items() if name not in owners]
    ours = [mean for name, mean in means.items() if name in owners]
    if not others or not ours:
        return None
    contrast = np.mean(others, axis=0) - np.mean(ours, axis=0)
    return float(contrast.var(ddof=1)) / windows

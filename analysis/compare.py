"""Is A better than B, by how much, and how sure is that?"""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy import stats

from analysis.frames import Study
from analysis.measures import MEAN


def domain_match(study: Study, measure: str = "perplexity_increase") -> pl.DataFrame:
    """Per (model, method): the measure on a source's own domain and on the same texts under the other sources.

    `difference` is mismatched minus matched, averaged over the texts that have a source of their own domain; its 95 %
    t-interval is over calibration sets, the texts being fixed. Each trial enters with one contrast over its texts, so
    that the correlation between the texts of a trial is accounted for.
    """
    rows = study.calibrated.filter((pl.col("measure") == measure) & (pl.col("task") != MEAN)).drop_nulls("value")
    rows = rows.filter(pl.col("task").is_in(rows["source"].unique().to_list()))
    parts = []
    for (model, parameters, label), part in rows.group_by("model", "parameters", "method_label", maintain_order=True):
        found = _match_contrast(part)
        if found is not None:
            parts.append({"model": model, "parameters": parameters, "method_label": label, **found})
    schema = {"model": pl.String, "parameters": pl.Int64, "method_label": pl.String, "texts": pl.Int64, "trials": pl.Int64,
              **dict.fromkeys(["matched", "mismatched", "difference", "low", "high"], pl.Float64)}  # fmt: skip
    return pl.DataFrame(parts, schema=schema).sort("parameters", "model", "method_label")


def _match_contrast(part: pl.DataFrame) -> dict[str, float | int | None] | None:
    """The contrast of one model and method; None when fewer than two sources have a text of their own."""
    wide = part.pivot(on="task", index=["source", "set"], values="value", sort_columns=True).sort("source", "set")
    texts = [name for name in wide.columns if name not in ("source", "set")]
    wide = wide.drop_nulls(texts)
    sources = wide["source"].unique().sort().to_list()
    texts = [text for text in texts if text in sources]
    if len(sources) < 2 or not texts:
        return None
    owner, matrix = wide["source"].to_numpy(), wide.select(texts).to_numpy()
    others = np.array([[0.0 if s == t else 1 / (len(sources) - 1) for t in texts] for s in sources])
    own = np.array([[1.0 if s == t else 0.0 for t in texts] for s in sources])
    matched = mismatched = variance = squares = 0.0
    freedom = 0
    counts = []
    for index, source in enumerate(sources):
        values = matrix[owner == source]  # (sets, texts)
        mean = values.mean(axis=0)
        matched += float(own[index] @ mean) / len(texts)
        mismatched += float(others[index] @ mean) / len(texts)
        scores = values @ (others[index] - own[index]) / len(texts)
        squares += float(((scores - scores.mean()) ** 2).sum())
        freedom += len(scores) - 1
        counts.append(len(scores))
    low = high = None
    if freedom:
        variance = squares / freedom * sum(1 / count for count in counts)
        half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
        low, high = mismatched - matched - half, mismatched - matched + half
    return {"texts": len(texts), "trials": len(owner), "matched": matched, "mismatched": mismatched,
            "difference": mismatched - matched, "low": low, "high": high}  # fmt: skip

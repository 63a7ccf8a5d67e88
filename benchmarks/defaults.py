"""`python -m benchmarks.defaults RESULTS...`: which settings of a method should be its defaults?

Reads results folders of the studies in `benchmarks/studies/` and compares every variant of a method's settings with the
reference one on the very same calibration sets. The measure is log perplexity, averaged over held-out texts, so effects
are ratios of perplexities, in percent: below zero is better than the reference. The hard case is the error bar: sets of
one source resemble each other, so intervals are t intervals over the means of sources (95 %), not over sets.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import polars as pl
from scipy import stats

from sweep.results import Results

# The settings that vary, and their values in the published code: the variant that all others are compared with.
REFERENCE: dict[str, dict[str, Any]] = {
    "gptq": {
        "act_order": False,
        "static_groups": False,
        "fresh_group_stats": False,
        "true_sequential": False,
        "mse": False,
        "percdamp": 0.01,
    },
    "awq": {"search_clip": True, "duo_scaling": False},
    "sparsegpt": {"block_size": 128, "percdamp": 0.01},
    "spqr": {"percdamp": 1.0},
}
UNITS = ["model", "method", "cell", "source", "set"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", help="results folders; their trials are put together")
    parser.add_argument("--texts", choices=("all", "own", "foreign"), default="all", help="which held-out texts count")
    arguments = parser.parse_args()
    values = pl.concat([log_perplexities(root, arguments.texts) for root in arguments.results])
    effects = against_reference(values)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, fmt_str_lengths=80, tbl_width_chars=160):
        print(f"{values.height} trials, held-out texts: {arguments.texts}; percent of perplexity against the reference")
        print(summary(effects, ["method", "variant"]))
        print(summary(effects, ["method", "model", "cell", "variant"]))


def log_perplexities(root: str, texts: str = "all") -> pl.DataFrame:
    """One row a trial: its model, method, cell (settings that do not vary), variant, source, set, mean log perplexity.

    `texts`: all held-out texts, only the calibration source's own (`own`), or all others (`foreign`).
    """
    store = Results(root)
    trials = store.read("trials").filter((pl.col("status") == "ok") & pl.col("source").is_not_null())
    columns = ["trial_id", "model", "method", "source", "set"]
    rows = []
    for row in trials.iter_rows(named=True):
        cell, variant = split_settings(row["method"], json.loads(row["settings"]))
        rows.append({**{name: row[name] for name in columns}, "cell": cell, "variant": variant})
    scores = store.read("metrics").filter(pl.col("metric") == "perplexity").rename({"task": "text"})
    joined = pl.DataFrame(rows).join(scores.select("trial_id", "text", "value"), on="trial_id")
    if texts != "all":
        own = pl.col("text") == pl.col("source")
        joined = joined.filter(own if texts == "own" else ~own)
    return joined.group_by([*UNITS, "variant"]).agg(pl.col("value").log().mean())


def split_settings(method: str, settings: dict[str, Any]) -> tuple[str, str]:
    """(what stays the same within a comparison, what differs from the reference) as words."""
    varied = REFERENCE[method]
    shown = {key: settings.get(key) for key in ("bits", "group_size", "sparsity", "pattern", "scale_dtype")}
    if shown["scale_dtype"] == "float32":  # results of versions without the setting stand in the same cell
        del shown["scale_dtype"]
    cell = " ".join(f"{key} {value}" for key, value in shown.items() if value is not None)
    changed = [f"{key}={settings[key]}" for key, usual in varied.items() if settings.get(key, usual) != usual]
    return cell, ", ".join(changed) or "reference"


def against_reference(values: pl.DataFrame) -> pl.DataFrame:
    """Every value less that of the reference variant on the same model, cell and calibration set."""
    reference = values.filter(pl.col("variant") == "reference").select(*UNITS, reference="value")
    return (
        values.filter(pl.col("variant") != "reference")
        .join(reference, on=UNITS)
        .with_columns(effect=(pl.col("value") - pl.col("reference")))
    )


def summary(effects: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Mean effect of each group with its interval over sources, in percent, and how many sets were better."""
    sources = effects.group_by([*by, "source"]).agg(pl.col("effect").mean())
    rows = []
    for key, part in sorted(sources.group_by(by)):
        count, mean = part.height, part["effect"].mean()
        half = stats.t.ppf(0.975, count - 1) * part["effect"].std() / count**0.5 if count > 1 else float("nan")
        found = effects.filter([pl.col(name) == value for name, value in zip(by, key, strict=True)])
        low, middle, high = (100 * math.expm1(value) for value in (mean - half, mean, mean + half))
        better = int((found["effect"] < 0).sum())
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "percent": round(middle, 2),
                "from": round(low, 2),
                "to": round(high, 2),
                "better": f"{better} of {found.height}",
            }
        )
    return pl.DataFrame(rows)


if __name__ == "__main__":
    main()

"""How many test examples are worth their time, from the seconds and the components of the study at hand.

The formula stands in `analysis.estimates.budget`; its variances are those of one example, which is what a component
adds to the score times the number of examples that the score is a mean over.
"""

from __future__ import annotations

import polars as pl

from analysis.estimates.budget import best_examples
from analysis.estimates.components import RESIDUAL, SET, SOURCE_EXAMPLE
from analysis.estimates.examples import ExampleTables
from analysis.estimates.outcomes import COLUMN_OF
from analysis.frames import Study
from analysis.measures import MEAN
from analysis.variance import component_table

BUDGET_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    **dict.fromkeys(["seconds_without_test", "seconds_per_example", "noise_sd", "set_sd"], pl.Float64),
    "examples": pl.Int64,
    "best_examples": pl.Int64,
    "note": pl.String,
}
SECONDS = {
    **dict.fromkeys(COLUMN_OF, "seconds_tasks"),
    **dict.fromkeys(("perplexity", "js_divergence"), "seconds_windows"),
}


def budget_table(study: Study, measure: str = "accuracy", *, examples: ExampleTables | None = None) -> pl.DataFrame:
    """Examples per trial that tell sources apart for the least time, per (model, method): B* and what it is made of.

    noise_sd: SD of one example's luck (residual and source × example); set_sd: of a draw within a source, both in the
    unit of `component_table`. `examples` is what the trials have, `best_examples` is B*; null where the sets do not
    differ beyond the luck of the examples, which only more examples can change. Empty without recorded seconds.
    """
    table = component_table(study, measure, examples=examples).filter(pl.col("task") == MEAN)
    spent = _seconds(study, measure)
    found: list[dict[str, object]] = []
    keys = ["model", "parameters", "method_label"]
    for key, part in table.group_by(keys, maintain_order=True):
        label = (str(key[0]), str(key[2]))
        rows = {row["component"]: row for row in part.iter_rows(named=True)}
        if label not in spent or any(rows[name]["variance"] is None for name in (SET, SOURCE_EXAMPLE, RESIDUAL)):
            continue
        count = rows[RESIDUAL]["levels"]
        noise = count * sum(max(rows[name]["variance"], 0.0) for name in (RESIDUAL, SOURCE_EXAMPLE))
        spread = max(rows[SET]["variance"], 0.0)
        compress, example = spent[label]
        best = best_examples(compress, example / count, noise, spread).examples
        note = "" if spread > 0 else "sets do not differ beyond the luck of the examples: more examples first"
        row = {
            "seconds_without_test": compress,
            "seconds_per_example": example / count,
            "examples": count,
            "note": note,
        }
        row |= {"noise_sd": noise**0.5, "set_sd": spread**0.5}
        row["best_examples"] = None if spread <= 0 else round(best)
        found.append({**dict(zip(keys, key, strict=True)), **row})
    return pl.DataFrame(found, BUDGET_SCHEMA).sort("parameters", "model", "method_label")


def _seconds(study: Study, measure: str) -> dict[tuple[str, str], tuple[float, float]]:
    """(model, method) -> mean seconds of a calibrated trial without this test, and of the test."""
    column = SECONDS[measure]
    rows = study.trials.filter(study.in_main(), pl.col("source").is_not_null()).drop_nulls(["seconds_total", column])
    rows = rows.filter((pl.col(column) > 0) & (pl.col("seconds_total") > pl.col(column)))
    means = rows.group_by("model", "method_label").agg(
        (pl.col("seconds_total") - pl.col(column)).mean(), pl.col(column).mean()
    )
    return {(model, label): (compress, test) for model, label, compress, test in means.iter_rows()}

"""The tables of a study, each one function of what `load` found: a Polars frame, sorted, with n in every row.

`source_table`, `range_table`, `task_table`, `size_table` and `relation_table` are those of the published studies: mean
and SD over calibration sets, range over all sets, per-task values, number of windows, perplexity against accuracy. SD
is the sample SD over sets (n - 1); intervals are 95 % t-intervals of the mean over sets, and empty where there is one
set only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import polars as pl
from scipy import stats

from analysis.checks import listed
from analysis.estimates.spreads import far_words, typical
from analysis.frames import Study
from analysis.measures import HEADLINE, MEAN, MEASURES, TASK_MEASURES
from analysis.page.marks import inside

CELL = ["model", "parameters", "method", "method_label", "source"]


def over_sets(values: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """n, mean, SD, 95 % t-interval of the mean, smallest and largest value over the rows of each group.

    There is no interval where the rows do not differ: that they did not is no proof that the next one will not.
    """
    value = pl.col("value").drop_nulls()
    grouped = values.group_by(list(by)).agg(
        value.len().alias("n"),
        value.mean().alias("mean"),
        value.std().alias("sd"),
        value.min().alias("min"),
        value.max().alias("max"),
    )
    half = pl.col("n").map_elements(t_quantile, return_dtype=pl.Float64) * pl.col("sd") / pl.col("n").sqrt()
    half = pl.when(pl.col("sd") > 0).then(half)
    low, high = (pl.col("mean") - half).alias("low"), (pl.col("mean") + half).alias("high")
    return grouped.with_columns(low, high).sort(list(by), nulls_last=True)


@lru_cache(maxsize=4096)
def t_quantile(n: int, level: float = 0.95) -> float | None:
    """The t quantile of a two-sided interval for a mean of n values; None for n < 2."""
    return float(stats.t.ppf(0.5 + level / 2, n - 1)) if n > 1 else None


def source_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """Mean and SD over sets per (model, method, source), the dense and data-free rows beside them (source null).

    Beside them what one set that is far off does not move: `median` and `sd_typical`, the SD of the other sets. `note`
    says where the two disagree: `one of 10 sets of books is far off`.
    """
    cells = _source_cells(study, measure, task)
    rows = study.main.filter(pl.col("measure") == measure, pl.col("task") == task, pl.col("source").is_not_null())
    robust = []
    for keys, part in rows.drop_nulls("value").group_by(CELL[:-1], maintain_order=True):
        names = part["source"].unique().sort().to_list()
        groups = [part.filter(pl.col("source") == name)["value"].to_numpy() for name in names]
        kept, far = typical(groups)
        for name, group, rest, count in zip(names, groups, kept, far, strict=True):
            spread = float(rest.std(ddof=1)) if len(rest) > 1 else None
            cell = {**dict(zip(CELL, (*keys, name), strict=True)), "median": float(np.median(group))}
            robust.append({**cell, "sd_typical": spread, "note": far_words([name], [group], [count])})
    schema = {name: cells.schema[name] for name in CELL}
    schema |= {"median": pl.Float64(), "sd_typical": pl.Float64(), "note": pl.String()}
    return cells.join(pl.DataFrame(robust, schema), on=CELL, how="left", nulls_equal=True, maintain_order="left")


def _source_cells(study: Study, measure: str, task: str) -> pl.DataFrame:
    """What `over_sets` says of each source, dense first."""
    return over_sets(study.main.filter(pl.col("measure") == measure, pl.col("task") == task), CELL).sort(
        "parameters", "model", pl.col("method") != "dense", "method_label", "source", nulls_last=True
    )


def range_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """Over all sets of all sources per (model, method): smallest, largest, range, and the two spreads behind them.

    `sd_within` is the SD over the sets of one source, its square averaged over sources; `sd_sources` is the SD of the
    source means.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task)
    cells = over_sets(rows, CELL)
    pooled = (pl.col("sd") ** 2).mean().sqrt()
    spreads = cells.group_by("model", "method_label").agg(
        pl.col("source").n_unique().alias("sources"),
        pooled.alias("sd_within"),
        pl.col("mean").std().alias("sd_sources"),
    )
    total = over_sets(rows, [c for c in CELL if c != "source"]).drop("low", "high")
    return (
        total.with_columns((pl.col("max") - pl.col("min")).alias("range"))
        .join(spreads, on=["model", "method_label"])
        .sort("parameters", "model", "method_label")
    )


def task_table(study: Study, measure: str = "accuracy") -> pl.DataFrame:
    """Mean and SD over sets per (model, method, source, task or held-out text)."""
    rows = study.main.filter(pl.col("measure") == measure, pl.col("task") != MEAN)
    return over_sets(rows, [*CELL, "task"]).sort(
        "parameters", "model", "method_label", "task", "source", nulls_last=True
    )


def task_spread_table(study: Study, measure: str = "accuracy") -> pl.DataFrame:
    """Range over all sets per (model, method, task), and the pooled SD within a source: which task feels the draw."""
    tasks = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") != MEAN)["task"].unique().sort()
    parts = [range_table(study, measure, task).with_columns(pl.lit(task).alias("task")) for task in tasks]
    if not parts:
        return range_table(study, measure, MEAN).clear().with_columns(pl.lit("").alias("task"))
    return pl.concat(parts).sort("parameters", "model", "method_label", "task")


def size_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """Mean and SD over sets per (model, method, source) and size, length of the calibration set."""
    chosen = pl.col("measure") == measure, pl.col("task") == task, pl.col("condition").is_not_null()
    return over_sets(study.values.filter(*chosen), [*CELL, "nsamples", "seqlen", "condition"]).sort(
        "parameters", "model", "method_label", "source", "seqlen", "nsamples", "condition"
    )


def domain_table(study: Study, measure: str = "perplexity_increase") -> pl.DataFrame:
    """Calibration source by held-out text: mean and SD over sets, and how each source compares with the average source.

    `advantage` is the mean over sources minus this source's mean on the same text, in the measure's unit: positive
    where the source is better than the average source. `matched` marks a source whose own domain the text is.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") != MEAN)
    cells = over_sets(rows, [*CELL, "task"]).rename({"task": "text"})
    sign = -1 if MEASURES[measure].higher_is_better else 1
    average = pl.col("mean").mean().over("model", "method_label", "text")
    return cells.with_columns(
        (sign * (average - pl.col("mean"))).alias("advantage"),
        (_named("source", study.domains.sources) == _named("text", study.domains.texts)).alias("matched"),
    ).sort("parameters", "model", "method_label", "source", "text")


def _named(column: str, domains: Mapping[str, str]) -> pl.Expr:
    """The domains of the sources or texts in a column."""
    return pl.col(column).replace(dict(domains)) if domains else pl.col(column)


def baseline_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """The dense models and the data-free methods: one trial per model, hence no spread over sets."""
    chosen = pl.col("measure") == measure, pl.col("task") == task, pl.col("source").is_null()
    columns = ["model", "parameters", "method", "method_label", "value", "stderr", "n"]
    return study.values.filter(*chosen).select(columns).sort("parameters", "model", "method_label")


def baselines(study: Study) -> dict[str, str]:
    """The data-free method with the same bits, sparsity and pattern for each calibrated method that has one."""
    key = ["bits", "sparsity", "pattern"]
    kinds = study.trials.filter(pl.col("method") != "dense").select("method_label", *key, "source").unique()
    plain = kinds.filter(pl.col("source").is_null()).select(*key, pl.col("method_label").alias("control"))
    calibrated = kinds.filter(pl.col("source").is_not_null()).select("method_label", *key).unique()
    joined = calibrated.join(plain, on=key, nulls_equal=True).sort("method_label", "control")
    return dict(
        joined.unique("method_label", keep="first", maintain_order=True).select("method_label", "control").iter_rows()
    )


def relation_table(study: Study) -> pl.DataFrame:
    """One row per trial: its mean accuracy beside the metrics that are cheaper to get."""
    means = study.main.filter(pl.col("task") == MEAN, pl.col("method") != "dense")
    wide = means.pivot(on="measure", index=["trial_id", *CELL, "set"], values="value", sort_columns=True)
    return wide.sort("parameters", "model", "method_label", "source", "set", nulls_last=True)


def worth_table(study: Study, task: str = MEAN) -> pl.DataFrame:
    """What answers are worth per (model, method): a measure of tasks a column, `mean ± SD` over all sets.

    Values of the measures themselves, the dense model's in a row of its own, so that every row can be held against it.
    """
    names = [name for name in TASK_MEASURES if name in set(study.values["measure"])]
    rows = study.main.filter(pl.col("measure").is_in(names), pl.col("task") == task)
    keys = ["parameters", "model", "method_label"]
    cells = over_sets(rows, [*keys, "measure"])
    text = pl.struct("measure", "mean", "sd").map_elements(
        lambda cell: plus_minus(cell["mean"], cell["sd"], MEASURES[cell["measure"]].decimals), pl.String
    )
    wide = cells.with_columns(text.alias("text")).pivot(on="measure", on_columns=names, index=keys, values="text")
    counts = cells.group_by(keys).agg(pl.col("n").max().alias("trials"))
    table = wide.join(counts, on=keys).sort(*keys).with_columns(pl.col(names).fill_null(""))
    return table.select("model", "method_label", "trials", *names)


def layer_table(study: Study) -> pl.DataFrame:
    """Relative output error per (model, method, block): mean and SD over trials of the trial's mean over its linears.

    No interval: trials of one source are not independent.
    """
    keys = ["model", "parameters", "method_label", "source", "set"]
    trials = study.trials.filter(study.in_main()).select("trial_id", *keys)
    per_trial = (
        study.results.scan("layers")
        .join(trials.lazy(), on="trial_id")
        .group_by(*keys, "trial_id", "block")
        .agg(pl.col("relative_error").mean().alias("value"))
        .collect(engine="in-memory")
        .sort(*keys, "trial_id", "block")
    )
    blocks = over_sets(per_trial, ["model", "parameters", "method_label", "block"]).drop("low", "high")
    return blocks.sort("parameters", "model", "method_label", "block")


def wide_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """The published form: a row per (model, method), a column per source, `mean ± SD` over sets in each.

    A method that sees no calibration data has its one value under `no data`.
    """
    table = _source_cells(study, measure, task)
    digits = MEASURES[measure].decimals
    text = pl.struct("mean", "sd").map_elements(lambda cell: plus_minus(cell["mean"], cell["sd"], digits), pl.String)
    source = pl.col("source").fill_null("no data")
    wide = table.with_columns(text.alias("text"), source.alias("source"))
    order = sorted(set(wide["source"]) - {"no data"}) + ["no data"] * ("no data" in set(wide["source"]))
    rows = wide.pivot(
        on="source", on_columns=order, index=["model", "method_label"], values="text", maintain_order=True
    )
    return rows.rename({"method_label": "method"}).with_columns(pl.col(order).fill_null(""))


def summary_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """A row per (model, method): best and worst source by mean ± SD, range over all sets, pooled SD over draws.

    A row without sources (dense, data-free) has its one value under `no data`.
    """
    table = _source_cells(study, measure, task)
    info = MEASURES[measure]
    ranges = {(r["model"], r["method_label"]): r for r in range_table(study, measure, task).iter_rows(named=True)}
    rows = []
    for (model, label), part in table.group_by("model", "method_label", maintain_order=True):
        known = part.drop_nulls("mean").sort("mean", "source", descending=[info.higher_is_better, False])
        row = {
            "model": model,
            "method": label,
            "no data": "",
            "best source": "",
            "worst source": "",
            "range": "",
            "SD of draws": "",
        }
        plain = known.filter(pl.col("source").is_null())
        known = known.filter(pl.col("source").is_not_null())
        if plain.height:
            row["no data"] = plus_minus(plain.item(0, "mean"), None, info.decimals)
        if known.height:
            for key, index in (("best source", 0), ("worst source", -1))[: known.height]:
                cell = known.row(index, named=True)
                row[key] = f"{cell['source']} {plus_minus(cell['mean'], cell['sd'], info.decimals)}"
            spread = ranges[(model, label)]
            row["range"] = plus_minus(spread["range"], None, info.decimals) if spread["n"] > 1 else ""
            row["SD of draws"] = plus_minus(spread["sd_within"], None, info.decimals + 1)
        rows.append(row)
    columns = ["model", "method", "no data", "best source", "worst source", "range", "SD of draws"]
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String))


def plus_minus(mean: float | None, sd: float | None, digits: int) -> str:
    """`63.2 ± 0.3`; no SD where there is one set only, nothing where there is no value."""
    if mean is None:
        return ""
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def measures_of(study: Study, wanted: Sequence[str] = HEADLINE) -> list[str]:
    """The wanted measures that calibrated trials of the study have a mean for.

    Perplexity is among them only where it cannot be relative to a dense model.
    """
    rows = study.calibrated.filter((pl.col("task") == MEAN) & pl.col("value").is_not_null())
    present = [name for name in wanted if name in set(rows["measure"])]
    return [name for name in present if name != "perplexity" or "perplexity_increase" not in present]


def tasks_without(study: Study, measure: str) -> list[str]:
    """The tasks of calibrated trials that this measure of tasks has no value for and another one has: generated answers
    have no log-likelihood. Empty for a measure of texts."""
    plain = pl.col("measure").str.strip_suffix("_change")
    rows = study.calibrated.filter(plain.is_in(TASK_MEASURES), pl.col("task") != MEAN).drop_nulls("value")
    own = set(rows.filter(pl.col("measure") == measure)["task"])
    return sorted(set(rows["task"]) - own) if own else []


def everything(study: Study, measure: str) -> str:
    """`all tasks`, `all tasks but gsm8k, which has none`, `all held-out texts`: what a mean of the measure is over."""
    if measure.removesuffix("_change") not in TASK_MEASURES:
        return "all layers" if measure == "layer_error" else "all held-out texts"
    without = tasks_without(study, measure)
    has = "has" if len(without) == 1 else "have"
    title = inside(MEASURES[measure.removesuffix("_change")].title)
    return f"all tasks but {listed(without)}, which {has} no {title}" if without else "all tasks"


def trial_counts(study: Study) -> pl.DataFrame:
    """Trials, sources, sets, seconds and peak memory per (model, method)."""
    return (
        study.trials.group_by("parameters", "model", "method_label")
        .agg(
            pl.len().alias("trials"),
            pl.col("source").drop_nulls().n_unique().alias("sources"),
            pl.col("condition").drop_nulls().n_unique().alias("sizes"),
            pl.col("bits").first(),
            pl.col("sparsity").first(),
            pl.col("average_bits").mean(),
            pl.col("achieved_sparsity").mean(),
            pl.col("fallbacks").sum(),
            pl.col("seconds_total").mean().alias("mean_seconds"),
            (pl.col("peak_memory").max() / 2**30).alias("peak_gib"),
        )
        .sort("parameters", "model", "method_label")
    )


def provenance(study: Study) -> pl.DataFrame:
    """(what, value, trials): versions, commits, devices, dtypes, models, dates and calibration sets."""
    rows: list[tuple[str, str, int]] = []
    said = ("model_id", "dtype", "device", "scorer", "commit", "seed")
    for column in (*said, "sampling", "separator", "add_bos", "calibration_seed"):
        counts = study.trials.drop_nulls(column).group_by(column).len().sort(column)
        rows += [(column, str(value), count) for value, count in counts.iter_rows()]
    for text, count in study.trials.drop_nulls("versions").group_by("versions").len().sort("versions").iter_rows():
        rows += [(f"version of {name}", str(version), count) for name, version in sorted(json.loads(text).items())]
    sets = study.trials["calibration_hash"].drop_nulls().n_unique()
    rows.append(("distinct calibration sets", str(sets), study.trials["calibration_hash"].drop_nulls().len()))
    started = study.trials["started"].drop_nulls()
    if len(started):
        rows.append(("first trial started", str(started.min()), 1))
        rows.append(("last trial started", str(started.max()), 1))
    frame = pl.DataFrame(rows, schema={"what": pl.String, "value": pl.String, "trials": pl.Int64}, orient="row")
    return frame.group_by("what", "value", maintain_order=True).agg(pl.col("trials").sum())

"""Which calibration data should I use? Three sentences and one table.

    python -m analysis.recommend RESULTS --model M [--method gptq] [--tasks lambada,piqa] [--measure accuracy]

Names the best source for a model, for one method or averaged over all, on the tasks that matter to the reader; says how
sure that is (probability of being best, expected regret, and what is left of it on new test examples), and how many
more sets would settle it. The hard case is a difference that no number of sets can settle, because it is smaller than
the luck of the test questions; then it says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import polars as pl
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from analysis.estimates.comparisons import welch
from analysis.estimates.component_rows import SCALE
from analysis.estimates.components import COMPONENTS, SOURCE_EXAMPLE, components
from analysis.estimates.outcomes import COLUMN_OF, answered, read_outcomes, tabled
from analysis.estimates.power import ALPHA, POWER, sets_needed
from analysis.estimates.ranks import rank
from analysis.frames import Study, load
from analysis.measures import MEAN, MEASURES
from analysis.page.render import number, percent
from analysis.tables import over_sets
from calib.settings import SettingsError, suggestion
from sweep.results import ResultsError


@dataclass(frozen=True)
class Recommendation:
    """`sentences` (three) and `table`, one row per source, best first."""

    sentences: tuple[str, str, str]
    table: pl.DataFrame
    best: str


def recommend(
    study: Study,
    model: str,
    method: str | None = None,
    tasks: Sequence[str] = (),
    measure: str | None = None,
) -> Recommendation:
    """The source to calibrate on.

    Raises SettingsError for an unknown model, method, task or measure, or too few sources.
    """
    rows, measure, what = _chosen(study, model, method, tasks, measure)
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    cells = {str(s): sign * p["value"].to_numpy() for (s,), p in rows.group_by("source", maintain_order=True)}
    if len(cells) < 2:
        raise SettingsError(f"{what}: {len(cells)} source with results; a recommendation needs two")
    ranked = rank(cells, np.random.default_rng(0))
    summary = over_sets(rows.with_columns(pl.col("value") * sign), ["source"])
    columns = ["p_best", "p_best_single_set", "regret"]
    extra = pl.DataFrame(
        [{"source": s, **{c: ranked[s].get(c) for c in columns}} for s in cells],
        schema={"source": pl.String, **dict.fromkeys(columns, pl.Float64)},
    )
    table = summary.join(extra, on="source").sort("mean", "source", descending=[True, False])
    best, second, worst = (table.row(i, named=True) for i in (0, 1, -1))
    test_variance = _test_variance(study, rows, model, measure)
    gap = welch(cells[best["source"]], cells[second["source"]], test_variance)
    sentences = (
        _what_to_use(best, second, worst, gap, measure, what, sign),
        _how_sure(best, second, gap, len(cells), measure),
        _what_would_settle(cells, best["source"], second["source"], test_variance),
    )
    if sign < 0:
        table = table.with_columns(-pl.col("mean"), -pl.col("high").alias("low"), -pl.col("low").alias("high"))
    shown = table.select("source", "n", "mean", "sd", "low", "high", *columns)
    return Recommendation(sentences, shown, best["source"])


def _chosen(
    study: Study, model: str, method: str | None, tasks: Sequence[str], measure: str | None
) -> tuple[pl.DataFrame, str, str]:
    """(one row per set: source, set, value, ids of its trials; the measure; what it is about, in words)."""
    models = study.calibrated["model"].unique().sort().to_list()
    if model not in models:
        raise SettingsError(f"--model: the study has no calibrated trials of '{model}'{suggestion(model, models)}")
    rows = study.calibrated.filter(pl.col("model") == model)
    if method is not None:
        names = sorted({*rows["method"], *rows["method_label"]})
        if method not in names:
            raise SettingsError(f"--method: no '{method}' on {model}{suggestion(method, names)}")
        rows = rows.filter((pl.col("method") == method) | (pl.col("method_label") == method))
    present = rows.drop_nulls("value").select("measure", "task").unique()
    measure = measure or _default_measure(present, tasks)
    if measure not in set(present["measure"]):
        raise SettingsError(f"--measure: no '{measure}' on {model}{suggestion(measure, set(present['measure']))}")
    known = present.filter(pl.col("measure") == measure)["task"].to_list()
    for task in tasks:
        if task not in known:
            raise SettingsError(f"--tasks: no '{task}' with {measure} on {model}{suggestion(task, known)}")
    wanted = list(tasks) or [MEAN]
    rows = rows.filter((pl.col("measure") == measure) & pl.col("task").is_in(wanted)).drop_nulls("value")
    labels = rows["method_label"].unique().sort().to_list()
    expected = len(labels) * len(wanted)
    sets = rows.group_by("source", "set").agg(
        pl.col("value").mean(), pl.len().alias("cells"), pl.col("trial_id").unique()
    )
    sets = sets.filter(pl.col("cells") == expected).sort("source", "set")
    over = "all tasks" if not tasks else ", ".join(tasks)
    by = labels[0] if len(labels) == 1 else f"{len(labels)} methods ({', '.join(labels)})"
    tagged = sets.with_columns(pl.lit(list(tasks), dtype=pl.List(pl.String)).alias("tasks"))
    return tagged, measure, f"{model} with {by} on {over}"


def _default_measure(present: pl.DataFrame, tasks: Sequence[str]) -> str:
    """Accuracy if the wanted tasks have one, else perplexity."""
    for measure in ("accuracy", "perplexity_increase", "perplexity"):
        known = set(present.filter(pl.col("measure") == measure)["task"])
        if known and (not tasks or set(tasks) & known):
            return measure
    raise SettingsError(f"--tasks: no result for {', '.join(tasks) or 'any task'}")


def _test_variance(study: Study, rows: pl.DataFrame, model: str, measure: str) -> float | None:
    """Variance that the choice of test examples adds to one source's mean; None where samples/ cannot tell."""
    column = COLUMN_OF.get(measure)
    if column is None or measure == "perplexity":
        return None
    ids = rows.explode("trial_id").select("source", "set", "trial_id")
    matrices = read_outcomes(study, ids, [column])[column]
    asked = set(rows.item(0, "tasks").to_list()) or tabled(study, model, column)
    if not asked <= set(matrices):
        return None
    wanted = [matrices[task] for task in sorted(asked)]
    cell = np.array([f"{s}\0{k}" for s, k in ids.select("source", "set").iter_rows()])
    lacking = {
        str(name) for matrix in wanted for name in cell[~answered(matrix)]
    }  # `load` names trials without samples
    names = sorted(set(cell) - lacking)
    # mean over methods of each set's outcome, so that one matrix stands for the score that is compared
    averaged = [np.stack([matrix[cell == name].mean(axis=0) for name in names]) for matrix in wanted] if names else []
    if not averaged:
        return None
    sources = [name.partition("\0")[0] for name in names]
    variance = components(averaged, sources, np.random.default_rng(0), draws=2).variance
    value = float(variance[COMPONENTS.index(SOURCE_EXAMPLE)])
    return None if np.isnan(value) else max(value, 0.0) * SCALE[column] ** 2


def _unit(measure: str) -> str:
    return {"%": " points", "": ""}.get(MEASURES[measure].unit, f" {MEASURES[measure].unit}")


def _what_to_use(
    best: dict[str, float],
    second: dict[str, float],
    worst: dict[str, float],
    gap: dict[str, float],
    measure: str,
    what: str,
    sign: float,
) -> str:
    info, unit = MEASURES[measure], _unit(measure)
    interval = ""
    if "low" in gap:
        interval = f" (95 % interval {number(gap['low'], 2)} to {number(gap['high'], 2)})"
    return (
        f"For {what}, calibrate on {best['source']}: {info.title[0].lower() + info.title[1:]} "
        f"{sign * best['mean']:.{info.decimals}f}{' %' if info.unit == '%' else unit}, "
        f"{number(best['mean'] - second['mean'], 2)}{unit} better than {second['source']}{interval} and "
        f"{number(best['mean'] - worst['mean'], 2)}{unit} better than {worst['source']}, the worst."
    )


def _how_sure(
    best: dict[str, float], second: dict[str, float], gap: dict[str, float], sources: int, measure: str
) -> str:
    if best["p_best"] is None:
        return "How sure: that cannot be said, because no source has two sets; run at least three sets per source."
    text = (
        f"How sure: with {best['n']} sets it is the best of {sources} sources with probability "
        f"{percent(best['p_best'])} and costs {number(best['regret'], 2)}{_unit(measure)} on average against "
        f"the truly best one ({second['source']}: {percent(second['p_best'])}, "
        f"{number(second['regret'], 2)}{_unit(measure)})"
    )
    if "a_wins_new_test" in gap:
        chance = percent(gap["a_wins_new_test"])
        text += f"; one new set of it beats one of {second['source']} on new test questions with probability {chance}"
    return text + "."


def _what_would_settle(cells: dict[str, np.ndarray], best: str, second: str, test_variance: float | None) -> str:
    """How many sets give the difference between the best two a fair chance of being seen."""
    freedom = sum(len(values) - 1 for values in cells.values())
    if freedom == 0:
        return "What would settle it: a spread is needed first, so at least two more sets per source."
    spread = (sum(float(((v - v.mean()) ** 2).sum()) for v in cells.values()) / freedom) ** 0.5
    gap = float(cells[best].mean() - cells[second].mean())
    have = min(len(cells[best]), len(cells[second]))
    if spread == 0:
        return "What would settle it: nothing more; the sets of a source do not differ."
    needed = sets_needed(gap / spread)
    noise = test_variance is not None and gap < 1.96 * (2 * test_variance) ** 0.5
    limit = (
        " For other questions than these it takes a larger test as well: the gap is within the luck of the questions."
        if noise
        else ""
    )
    if needed is None:
        return (
            f"What would settle it: no affordable number of sets; {best} and {second} differ by "
            f"{gap / spread:.2f} SD of a draw, so take either.{limit}"
        )
    if needed <= have:
        enough = f"{have} sets are enough for a gap of {gap / spread:.1f} SD of a draw."
        return f"What would settle it: nothing more; {enough}{limit}"
    return (
        f"What would settle it: {needed - have} more sets of {best} and of {second} ({needed} in all) would show a gap "
        f"of this size ({gap / spread:.2f} SD of a draw) with a power of {100 * POWER:.0f} % at the "
        f"{100 * ALPHA:.0f} % level.{limit}"
    )


def _rich(table: pl.DataFrame) -> RichTable:
    """The table for a terminal, probabilities in percent."""
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    titles = {"p_best": "P best", "p_best_single_set": "P best, one set", "low": "95 % low", "high": "95 % high"}
    for column in table.columns:
        shown.add_column(
            titles.get(column, column), justify="left" if column == "source" else "right", no_wrap=column == "source"
        )
    for row in table.iter_rows(named=True):
        shown.add_row(*(_cell(name, value) for name, value in row.items()))
    return shown


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        return percent(value).replace("under ", "<") if name.startswith("p_") else number(value, 3)
    return "" if value is None else str(value)


def main(
    results: Annotated[str, typer.Argument(help="results folder or URI of a study")],
    model: Annotated[str, typer.Option(help="a model of the study")],
    method: Annotated[str | None, typer.Option(help="a method's name or label; default: the mean over all")] = None,
    tasks: Annotated[str, typer.Option(help="tasks or held-out texts that matter, separated by commas")] = "",
    measure: Annotated[str | None, typer.Option(help="accuracy, perplexity_increase, js_divergence, ...")] = None,
) -> None:
    """Say which calibration data to use, how sure that is, and what would settle it."""
    console = Console()
    try:
        answer = recommend(load(results), model, method, [t for t in re.split(r"[,\s]+", tasks) if t], measure)
    except (ResultsError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    for sentence in answer.sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(_rich(answer.table))


if __name__ == "__main__":
    typer.run(main)

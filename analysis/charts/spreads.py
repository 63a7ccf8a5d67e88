"""Every calibration set as a mark: around the mean of its source, and around the mean of each task."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from analysis.measures import MEASURES
from analysis.page.chart import BLUE, GREY, ORANGE, ROWS_AXIS, WIDTH, Chart, Spec
from analysis.page.marks import axis_title, category, inside, interval, panel, records, span, tip
from analysis.page.render import number

REACH = 1.0  # a reference is drawn where it lies within so many times the panel's own span; else it is told
FILLED = 1 / 3  # of a shared axis that every panel has to fill


def spread_figure(
    values: pl.DataFrame, summary: pl.DataFrame, measure: str, where: str, references: pl.DataFrame | None = None
) -> Chart:
    """Every set as a dot, the mean over sets of each source with its 95 % interval; one panel per method.

    values:     trials of one model, measure and task, with a column `row`, the source.
    summary:    their `over_sets` by (method_label, row).
    references: (method_label, name, value): the dense model and the data-free control. The panel's title tells them;
                a line across the panel shows each that does not lie so far off that it would squeeze the sources.
    """
    info = MEASURES[measure]
    if references is None:
        references = pl.DataFrame(schema={"method_label": pl.String, "name": pl.String, "value": pl.Float64})
    order = summary.group_by("row").agg(pl.col("mean").mean())
    rows = order.sort("mean", "row", descending=[info.higher_is_better, False])["row"].to_list()
    labels = summary["method_label"].unique().sort().to_list()
    spans = {label: _span(values, summary, label) for label in labels}
    shared = len(labels) > 1 and _share(list(spans.values()))
    x = {
        "type": "quantitative",
        "title": axis_title(measure),
        "scale": {"zero": False, "nice": True, "padding": 12},
    }
    panels = []
    for label in labels:
        dots, means, lines = (frame.filter(pl.col("method_label") == label) for frame in (values, summary, references))
        silent = {"axis": {"title": None}} if shared and label != labels[-1] else {}
        panels.append(_spread_panel(label, dots, means, {**x, **silent}, rows, _near(lines, spans[label])))
    n = span(summary["n"])
    drawn = " Lines: dense (solid), without data (dashed)." if references.height else ""
    axes = " All panels share one axis." if shared else ""
    return Chart(
        f"{info.title}, {where}",
        f"Dots: {n} calibration sets per source. Diamond and bar: mean and 95 % interval ({info.better}).{drawn}{axes}",
        {"vconcat": panels, "spacing": 16, **({"resolve": {"scale": {"x": "shared"}}} if shared else {})},
    )


def _span(values: pl.DataFrame, summary: pl.DataFrame, label: str) -> tuple[float, float]:
    """The smallest and largest number that a panel has to show."""
    here = pl.col("method_label") == label
    parts = [values.filter(here)["value"], *(summary.filter(here)[name] for name in ("mean", "low", "high"))]
    known = pl.concat([part.cast(pl.Float64) for part in parts]).drop_nulls().drop_nans()
    return float(known.to_numpy().min()), float(known.to_numpy().max())


def _share(spans: Sequence[tuple[float, float]]) -> bool:
    """Whether every panel would still fill enough of one axis for all."""
    whole = max(high for _, high in spans) - min(low for low, _ in spans)
    return whole > 0 and all(high - low >= FILLED * whole for low, high in spans)


def _near(lines: pl.DataFrame, own: tuple[float, float]) -> pl.DataFrame:
    """The references with a column `near`: whether they are drawn."""
    slack = REACH * (own[1] - own[0])
    return lines.with_columns(pl.col("value").is_between(own[0] - slack, own[1] + slack).alias("near"))


def _spread_panel(
    label: str, dots: pl.DataFrame, means: pl.DataFrame, x: Spec, rows: list[str], lines: pl.DataFrame
) -> Spec:
    """One method: the lines, a dot per set, then interval and mean of each row, in the order of `rows`."""
    part = means.select("row", "n", "mean", "sd", "low", "high")
    present = [row for row in rows if row in set(part["row"])]
    y = {"field": "row", "type": "nominal", "sort": present, "title": None, "axis": ROWS_AXIS}
    title = x["title"]
    of_set = [tip("row", "source"), tip("set"), tip("value", title, ".4~f")]
    of_mean = [
        tip("row", "source"),
        tip("mean", "mean", ".4~f"),
        tip("sd", "SD over sets", ".3~f"),
        tip("n", "sets"),
    ]
    every_set: Spec = {
        "data": {"values": dots.select("row", "set", "value").pipe(records)},
        "mark": {"type": "circle", "size": 46, "opacity": 0.5, "color": BLUE},
        "encoding": {"x": {"field": "value", **x}, "y": y, "tooltip": of_set},
    }
    mean: Spec = {
        "mark": {"type": "point", "filled": True, "shape": "diamond", "size": 75, "color": ORANGE, "opacity": 1},
        "encoding": {"x": {"field": "mean", **x}, "y": y, "tooltip": of_mean},
    }
    layers = [*_rules(lines, x), every_set, *interval(part, x, y, ORANGE), mean]
    heading = ", ".join(
        [label, *(f"{name} {number(value)}" for name, value in lines.select("name", "value").iter_rows())]
    )
    return panel(heading, {"data": {"values": part.pipe(records)}, "height": {"step": 20}, "layer": layers})


def _rules(lines: pl.DataFrame, x: Spec) -> list[Spec]:
    """A line across the panel for each reference that is near; data of its own, or there would be one a row."""
    found = []
    for name, value in lines.filter("near").select("name", "value").iter_rows():
        dash: Spec = {} if name == "dense" else {"strokeDash": [5, 3]}
        found.append(
            {
                "data": {"values": [{"name": name, "value": value}]},
                "mark": {"type": "rule", "color": GREY, "strokeWidth": 1.5, **dash},
                "encoding": {"x": {"field": "value", **x}, "tooltip": [tip("name"), tip("value", None, ".4~f")]},
            }
        )
    return found


def task_spread_figure(values: pl.DataFrame, measure: str, where: str) -> Chart:
    """Per task, how far every set of every source lies from the task's mean; one panel per method."""
    value = pl.col("value")
    frame = values.with_columns((value - value.mean().over("method_label", "task")).alias("deviation"))
    order = (
        frame.group_by("task").agg(pl.col("deviation").std().alias("sd")).sort("sd", "task", descending=[True, False])
    )
    counts = frame.group_by("method_label", "task").len()["len"]
    sources = frame["source"].unique().sort().to_list()
    unit = "points" if MEASURES[measure].unit == "%" else MEASURES[measure].unit
    x = {
        "field": "deviation",
        "type": "quantitative",
        "title": f"{inside(MEASURES[measure].title)}: difference from the task's mean, {unit}",
    }
    y = {"field": "task", "type": "nominal", "sort": order["task"].to_list(), "title": None, "axis": ROWS_AXIS}
    tips = [
        tip("task"),
        tip("source"),
        tip("set"),
        tip("value", measure, ".3f"),
        tip("deviation", "difference", "+.3f"),
    ]
    ticks = {
        "mark": {"type": "tick", "thickness": 1.6, "size": 12, "opacity": 0.75},
        "encoding": {"x": x, "y": y, "color": category("source", sources, {"title": "source"}), "tooltip": tips},
    }
    zero = {  # data of its own: one line a panel, not one a mark
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": GREY, "strokeDash": [3, 3]},
        "encoding": {"x": {"datum": 0}},
    }
    columns = ["method_label", "task", "source", "set", "value", "deviation"]
    body = {
        "data": {"values": frame.select(columns).pipe(records)},
        "facet": {"row": {"field": "method_label", "type": "nominal", "header": {"orient": "top", "title": None}}},
        "spacing": 14,
        "spec": {"width": WIDTH, "height": {"step": 18}, "layer": [zero, ticks]},
    }
    return Chart(
        f"Per-task spread over calibration sets, {where}",
        f"One mark per calibration set, {span(counts)} sets per task over all sources. Tasks with most spread first.",
        body,
    )

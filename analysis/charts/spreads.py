"""Every calibration set as a mark: around the mean of its source, and around the mean of each task."""

from __future__ import annotations

import polars as pl

from analysis.measures import MEASURES
from analysis.page.chart import BLUE, GREY, ORANGE, ROWS_AXIS, WIDTH, Chart, Spec
from analysis.page.marks import axis_title, category, inside, interval, panel, records, span, tip


def spread_figure(values: pl.DataFrame, summary: pl.DataFrame, measure: str, where: str) -> Chart:
    """Every set as a dot, the mean over sets of each source with its 95 % interval; one panel per method.

    values:  trials of one model, measure and task, with a column `row` (the source, or `no data: RTN 3-bit`).
    summary: their `over_sets` by (method_label, row).
    """
    info = MEASURES[measure]
    order = summary.group_by("row").agg(pl.col("mean").mean())
    order = order.sort("mean", "row", descending=[info.higher_is_better, False])
    rows = sorted(order["row"].to_list(), key=lambda row: row.startswith("no data"))
    x = {
        "type": "quantitative",
        "title": axis_title(measure),
        "scale": {"zero": False, "nice": True, "padding": 12},
    }
    panels = []
    for label in summary["method_label"].unique().sort():
        dots, means = (frame.filter(pl.col("method_label") == label) for frame in (values, summary))
        panels.append(_spread_panel(label, dots, means, x, rows))
    n = span(summary.filter(~pl.col("row").str.starts_with("no data"))["n"])
    return Chart(
        f"{info.title}, {where}",
        f"Dots: {n} calibration sets per source. Diamond and bar: mean and 95 % interval ({info.better}).",
        {"vconcat": panels, "spacing": 16},
    )


def _spread_panel(label: str, dots: pl.DataFrame, means: pl.DataFrame, x: Spec, rows: list[str]) -> Spec:
    """One method: a dot per set, then interval and mean of each row, in the order of `rows`."""
    part = means.select("row", "n", "mean", "sd", "low", "high")
    present = [row for row in rows if row in set(part["row"])]
    y = {"field": "row", "type": "nominal", "sort": present, "title": None, "axis": ROWS_AXIS}
    of_set = [tip("row", "source"), tip("set"), tip("value", x["title"], ".4~f")]
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
    layers = [every_set, *interval(part, x, y, ORANGE), mean]
    return panel(label, {"data": {"values": part.pipe(records)}, "height": {"step": 20}, "layer": layers})


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

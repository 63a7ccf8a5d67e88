"""Figures, each a function of a frame from `analysis.tables` or its neighbours; each states n and shows the spread.

A figure is a Vega-Lite specification in a `Chart`, which draws itself in a notebook and is saved as PNG and SVG through
vl-convert, without a browser. One style for all: the Okabe-Ito colours, which people with any colour vision can tell
apart, shapes beside colours where categories meet, no decoration. The title tells what is drawn and the subtitle what a
mark stands for, so that a figure can travel without its page.

Specifications are plain dictionaries: a report holds a hundred of them, and building them takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from analysis.measures import MEASURES
from analysis.page import vega

OKABE_ITO = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C8C8C", "#B8A800"]
WORSE_TO_BETTER = ["#B34700", "#E8995C", "#F6E3D3", "#F4F4F2", "#D3E4F0", "#6FAFD8", "#00568A"]
LIGHT_TO_DARK = ["#F4F4F2", "#D3E4F0", "#9CC7E3", "#4E97C6", "#00568A"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
INK, GREY = "#222222", "#767676"
BLUE, ORANGE = OKABE_ITO[0], OKABE_ITO[1]
WIDTH = 560  # px of the plot itself: with its labels the width of a text column
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name; nothing is fetched

Spec = dict[str, Any]

CONFIG: Spec = {
    "background": "#ffffff",
    "padding": 12,
    "font": "Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "fontSize": 15,
        "fontWeight": 600,
        "subtitleFontSize": 12,
        "subtitleColor": GREY,
        "offset": 14,
        "subtitlePadding": 5,
        "color": INK,
    },
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": "#e6e6e6",
        "domainColor": "#b5b5b5",
        "tickColor": "#b5b5b5",
        "labelLimit": 230,
        "titlePadding": 8,
    },
    "header": {
        "labelFontSize": 12,
        "labelFontWeight": 600,
        "labelAnchor": "start",
        "labelColor": INK,
        "title": None,
        "labelPadding": 4,
    },
    "legend": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "labelLimit": 260,
        "symbolSize": 80,
        "labelColor": INK,
        "titleColor": INK,
    },
    "range": {"category": OKABE_ITO, "symbol": SHAPES},
}
ROWS_AXIS: Spec = {"grid": True, "domain": False, "ticks": False}
BELOW: Spec = {"title": None, "orient": "bottom", "columns": 3}


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification with its title apart, so that a page can set the title in its own type."""

    title: str
    subtitle: str
    body: Mapping[str, Any]

    @property
    def spec(self) -> Spec:
        """The whole specification: title, style, data."""
        return {
            "$schema": SCHEMA,
            "config": CONFIG,
            "title": {"text": self.title, "subtitle": _wrap(self.subtitle)},
            **self.body,
        }

    def svg(self) -> str:
        return vega.svg(self.spec)

    def _repr_svg_(self) -> str:
        return self.svg()


def save(chart: Chart, path: Path) -> list[Path]:
    """Write `path` as .png (two pixels per point) and .svg; gives the two paths."""
    return vega.write(chart.spec, path)


def domain_figure(domains: pl.DataFrame, baseline: pl.DataFrame, where: str) -> Chart:
    """Calibration source by held-out text for one (model, method): perplexity increase, coloured by who does better.

    domains:  rows of `domain_table` of one model and method.
    baseline: (label, text, mean) of the data-free method with the same bits and sparsity; may be empty.
    """
    sources = domains["source"].unique().sort().to_list()
    labels = baseline["label"].unique().sort().to_list()
    texts = sorted(domains["text"].unique().to_list(), key=lambda text: (text not in sources, text))
    rows = sorted(sources, key=lambda source: (source not in texts, source)) + labels
    columns = ["source", "text", "mean", "sd", "n", "advantage", "matched"]
    frame = domains.select(columns)
    if baseline.height:
        average = domains.group_by("text").agg(pl.col("mean").mean().alias("average"))
        extra = baseline.join(average, on="text").with_columns(
            pl.col("label").alias("source"),
            pl.lit(None, pl.Float64).alias("sd"),
            pl.lit(1, frame["n"].dtype).alias("n"),
            (pl.col("average") - pl.col("mean")).alias("advantage"),
            pl.lit(False).alias("matched"),
        )
        frame = pl.concat([frame, extra.select(columns)])
    limit = max(_largest(domains["advantage"].abs()), 1e-9)
    frame = frame.with_columns((pl.col("advantage").abs() > 0.72 * limit).alias("strong"))
    tips = [
        _tip("source", "calibrated on"),
        _tip("text", "held-out text"),
        _tip("mean", "perplexity increase, %", "+.2f"),
        _tip("sd", "SD over sets", ".2f"),
        _tip("n", "sets"),
        _tip("advantage", "points better than the average source", "+.2f"),
    ]
    body = _heatmap(frame, ("text", "held-out text", texts), ("source", "calibrated on", rows), tips)
    body["layer"][0]["encoding"]["color"] = {
        "field": "advantage",
        "type": "quantitative",
        "title": ["better than the", "average source,", "points"],
        "scale": {"domain": [-limit, limit], "range": WORSE_TO_BETTER, "clamp": True, "interpolate": "rgb"},
        "legend": {"format": "+.1f", "gradientLength": 120},
    }
    body["layer"][-1]["encoding"]["text"] = {"field": "mean", "type": "quantitative", "format": "+.1f"}
    outline = {"type": "rect", "filled": False, "stroke": "#111111", "strokeWidth": 2}
    body["layer"].insert(1, {"transform": [{"filter": "datum.matched"}], "mark": outline})
    control = f" {labels[0]} sees no calibration data." if labels else ""
    return Chart(
        f"Perplexity increase over dense, %, {where}",
        f"Mean of {span(domains['n'])} sets per source. Black frame: calibrated on the text's own domain.{control}",
        body,
    )


def best_figure(ranking: pl.DataFrame, where: str, n: str) -> Chart:
    """Probability that a source is the best one, source by method; the expected regret when pointing at a cell."""
    order = ranking.group_by("source").agg(pl.col("p_best").mean()).sort("p_best", "source", descending=[True, False])
    methods = ranking["method_label"].unique().sort().to_list()
    frame = ranking.select("method_label", "source", "p_best", "regret", "n").with_columns(
        (pl.col("p_best") > 0.62).alias("strong")
    )
    tips = [
        _tip("method_label", "method"),
        _tip("source"),
        _tip("p_best", "probability of being best", ".1%"),
        _tip("regret", "expected regret", ".3~f"),
        _tip("n", "sets"),
    ]
    body = _heatmap(frame, ("method_label", None, methods), ("source", None, order["source"].to_list()), tips, step=78)
    body["layer"][0]["encoding"]["color"] = {
        "field": "p_best",
        "type": "quantitative",
        "title": ["probability", "of being best"],
        "scale": {"domain": [0, 1], "range": LIGHT_TO_DARK, "interpolate": "rgb"},
        "legend": {"format": ".0%", "gradientLength": 120},
    }
    body["layer"][-1]["encoding"]["text"] = {"field": "p_best", "type": "quantitative", "format": ".0%"}
    subtitle = (
        f"Probability that the mean over all draws from this source is the best of all sources; {n} sets per source."
    )
    return Chart(f"Which source is best? {where}", subtitle, body)


def _heatmap(
    frame: pl.DataFrame,
    x: tuple[str, str | None, list[str]],
    y: tuple[str, str | None, list[str]],
    tips: list[Spec],
    step: int = 60,
) -> Spec:
    """Cells with a number in each: layer 0 takes the colour, the last layer the text; `strong` cells have white "
    "text."""
    bare: Spec = {"grid": False, "domain": False, "ticks": False}
    return {
        "data": {"values": frame.pipe(_records)},
        "width": {"step": step},
        "height": {"step": 30},
        "usermeta": {"minWidth": step * len(x[2]) + 190},
        "encoding": {
            "x": {"field": x[0], "type": "nominal", "sort": x[2], "title": x[1], "axis": {**bare, "labelAngle": -35}},
            "y": {"field": y[0], "type": "nominal", "sort": y[2], "title": y[1], "axis": bare},
            "tooltip": tips,
        },
        "layer": [
            {"mark": {"type": "rect", "cornerRadius": 2}, "encoding": {}},
            {
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {"color": {"condition": {"test": "datum.strong", "value": "#ffffff"}, "value": "#1a1a1a"}},
            },
        ],
    }


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
        "title": _axis_title(measure),
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
    of_set = [_tip("row", "source"), _tip("set"), _tip("value", x["title"], ".4~f")]
    of_mean = [
        _tip("row", "source"),
        _tip("mean", "mean", ".4~f"),
        _tip("sd", "SD over sets", ".3~f"),
        _tip("n", "sets"),
    ]
    every_set: Spec = {
        "data": {"values": dots.select("row", "set", "value").pipe(_records)},
        "mark": {"type": "circle", "size": 46, "opacity": 0.5, "color": BLUE},
        "encoding": {"x": {"field": "value", **x}, "y": y, "tooltip": of_set},
    }
    mean: Spec = {
        "mark": {"type": "point", "filled": True, "shape": "diamond", "size": 75, "color": ORANGE, "opacity": 1},
        "encoding": {"x": {"field": "mean", **x}, "y": y, "tooltip": of_mean},
    }
    layers = [every_set, *_interval(part, x, y, ORANGE), mean]
    return _panel(label, {"data": {"values": part.pipe(_records)}, "height": {"step": 20}, "layer": layers})


def _interval(frame: pl.DataFrame, x: Spec, y: Spec, colour: str) -> list[Spec]:
    """The layer of the intervals from `low` to `high`; none where no row has one, as an axis needs an extent."""
    if frame["low"].null_count() == frame.height:
        return []
    return [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 2, "color": colour},
            "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "y": y},
        }
    ]


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
        "title": f"{MEASURES[measure].title.lower()}: difference from the task's mean, {unit}",
    }
    y = {"field": "task", "type": "nominal", "sort": order["task"].to_list(), "title": None, "axis": ROWS_AXIS}
    tips = [
        _tip("task"),
        _tip("source"),
        _tip("set"),
        _tip("value", measure, ".3f"),
        _tip("deviation", "difference", "+.3f"),
    ]
    ticks = {
        "mark": {"type": "tick", "thickness": 1.6, "size": 12, "opacity": 0.75},
        "encoding": {"x": x, "y": y, "color": _category("source", sources, {"title": "source"}), "tooltip": tips},
    }
    zero = {  # data of its own: one line a panel, not one a mark
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": GREY, "strokeDash": [3, 3]},
        "encoding": {"x": {"datum": 0}},
    }
    columns = ["method_label", "task", "source", "set", "value", "deviation"]
    body = {
        "data": {"values": frame.select(columns).pipe(_records)},
        "facet": {"row": {"field": "method_label", "type": "nominal", "header": {"orient": "top", "title": None}}},
        "spacing": 14,
        "spec": {"width": WIDTH, "height": {"step": 18}, "layer": [zero, ticks]},
    }
    return Chart(
        f"Per-task spread over calibration sets, {where}",
        f"One mark per calibration set, {span(counts)} sets per task over all sources. Tasks with most spread first.",
        body,
    )


def size_figure(sizes: pl.DataFrame, measure: str, where: str) -> Chart:
    """Mean over sets against the number of calibration windows, with mean ± SD as a band; one panel per method."""
    sources = sizes["source"].unique().sort().to_list()
    labels = sizes["method_label"].unique().sort().to_list()
    title = _axis_title(measure).split(", ")
    ticks = sizes["nsamples"].unique().sort().to_list()
    x = {
        "field": "nsamples",
        "type": "quantitative",
        "title": "calibration windows",
        "scale": {"type": "log", "base": 2, "nice": False},
        "axis": {"values": ticks, "grid": False},
    }
    panels = []
    for label in labels:
        part = sizes.filter(pl.col("method_label") == label)
        key = {"title": "source"} if label == labels[0] else None
        tips = [
            _tip("source"),
            _tip("nsamples", "windows"),
            _tip("mean", "mean", ".3f"),
            _tip("sd", "SD over sets", ".3f"),
            _tip("n", "sets"),
        ]
        body = _curves(part, x, title, ("source", sources, key), tips, zero=False)
        panels.append(_panel(label, {**body, "height": 190}))
    return Chart(
        f"{MEASURES[measure].title} against calibration size, {where}",
        f"Mean over {span(sizes['n'])} sets; the band is ± one SD over sets ({MEASURES[measure].better}).",
        {"vconcat": panels, "spacing": 18, "resolve": {"scale": {"color": "independent", "shape": "independent"}}},
    )


def layer_figure(layers: pl.DataFrame, where: str) -> Chart:
    """Relative output error by decoder block, mean over trials with ± SD as a band."""
    methods = layers["method_label"].unique().sort().to_list()
    blocks = int(_largest(layers["block"]))
    x = {
        "field": "block",
        "type": "quantitative",
        "title": "decoder block",
        "axis": {"values": list(range(0, blocks + 1, blocks // 12 + 1)), "format": "d", "grid": False},
    }
    tips = [
        _tip("method_label", "method"),
        _tip("block"),
        _tip("mean", "mean", ".4f"),
        _tip("sd", "SD over trials", ".4f"),
        _tip("n", "trials"),
    ]
    body = _curves(layers, x, ["relative output error"], ("method_label", methods, BELOW), tips, zero=True)
    return Chart(
        f"Layer error profile, {where}",
        f"Mean over the linears of a block and over {span(layers['n'])} trials; the band is ± one SD over trials.",
        {**body, "width": WIDTH, "height": 280},
    )


def _curves(
    frame: pl.DataFrame,
    x: Spec,
    title: list[str],
    group: tuple[str, list[str], Spec | None],
    tips: list[Spec],
    zero: bool,
) -> Spec:
    """Lines with bands (mean ± SD) and marks, one per level of the group; the marks carry the legend."""
    column, names, legend = group
    columns = [column, x["field"], "mean", "sd", "n"]
    rows = frame.select(columns).with_columns(
        (pl.col("mean") - pl.col("sd")).alias("lower"), (pl.col("mean") + pl.col("sd")).alias("upper")
    )
    y = {"type": "quantitative", "title": title, "scale": {"zero": zero}}
    plain = _category(column, names, None)
    band = {
        "transform": [{"filter": "isValid(datum.lower)"}],
        "mark": {"type": "area", "opacity": 0.15},
        "encoding": {"x": x, "y": {"field": "lower", **y}, "y2": {"field": "upper"}, "color": plain},
    }
    return {
        "data": {"values": rows.pipe(_records)},
        "resolve": {"scale": {"color": "independent", "shape": "independent"}},
        "layer": [
            *([] if rows["lower"].null_count() == rows.height else [band]),
            {
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {"x": x, "y": {"field": "mean", **y}, "color": plain},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {"field": "mean", **y},
                    "tooltip": tips,
                    "color": _category(column, names, legend),
                    "shape": {"field": column, "type": "nominal", "scale": {"domain": names}, "legend": legend},
                },
            },
        ],
    }


def relation_figure(relation: pl.DataFrame, metric: str, where: str, note: str = "") -> Chart:
    """Accuracy against a cheaper metric, one mark per trial; `note` tells how well they agree."""
    frame = relation.drop_nulls([metric, "accuracy"]).select("method_label", "source", "set", metric, "accuracy")
    methods = frame["method_label"].unique().sort().to_list()
    scale = {"zero": False, "padding": 10}
    tips = [
        _tip("method_label", "method"),
        _tip("source"),
        _tip("set"),
        _tip(metric, metric.replace("_", " "), ".4~f"),
        _tip("accuracy", "accuracy, %", ".2f"),
    ]
    body = {
        "data": {"values": frame.pipe(_records)},
        "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.65},
        "width": WIDTH,
        "height": 320,
        "encoding": {
            "x": {"field": metric, "type": "quantitative", "title": _axis_title(metric), "scale": scale},
            "y": {"field": "accuracy", "type": "quantitative", "title": "mean accuracy, %", "scale": scale},
            "color": _category("method_label", methods, BELOW),
            "shape": {"field": "method_label", "type": "nominal", "scale": {"domain": methods}, "legend": BELOW},
            "tooltip": tips,
        },
    }
    subtitle = f"{frame.height} trials, one mark each." + (f" {note}" if note else "")
    return Chart(f"Accuracy against {_axis_title(metric).partition(', ')[0]}, {where}", subtitle, body)


def component_figure(components: pl.DataFrame, where: str, unit: str) -> Chart:
    """Standard deviation that each component adds to a trial's score, with its 95 % interval; one panel per method.

    components: (method_label, component, sd, low, high, ...) of one model and task, in the order to be drawn.
    """
    names = components["component"].unique(maintain_order=True).to_list()
    panels = []
    x: Spec = {
        "type": "quantitative",
        "title": f"SD of the score due to this component, {unit}",
        "scale": {"zero": True},
    }
    for label in components["method_label"].unique().sort(descending=True):  # the last panel carries the axis title
        part = components.filter(pl.col("method_label") == label).select("component", "sd", "low", "high", "levels")
        y = {"field": "component", "type": "nominal", "sort": names, "title": None, "axis": ROWS_AXIS}
        tips = [
            _tip("component"),
            _tip("sd", "SD", ".3~f"),
            _tip("low", "low", ".3~f"),
            _tip("high", "high", ".3~f"),
            _tip("levels", "levels"),
        ]
        layers = [
            {
                "mark": {"type": "bar", "height": 9, "color": BLUE, "opacity": 0.35},
                "encoding": {"x": {"field": "sd", **x}, "y": y, "tooltip": tips},
            },
            *_interval(part, x, y, BLUE),
            {
                "mark": {"type": "point", "filled": True, "size": 55, "color": BLUE, "opacity": 1},
                "encoding": {"x": {"field": "sd", **x}, "y": y, "tooltip": tips},
            },
        ]
        panels.append(_panel(label, {"data": {"values": part.pipe(_records)}, "height": {"step": 20}, "layer": layers}))
        x = {**x, "title": None}
    return Chart(
        f"Where the spread comes from, {where}",
        f"Point and bar: SD of the score due to each component; line: 95 % interval. Levels: {_levels(components)}.",
        {"vconcat": panels[::-1], "spacing": 16, "resolve": {"scale": {"x": "shared"}}},
    )


def _levels(components: pl.DataFrame) -> str:
    """`6 sources, 30 sets, 950 test examples`."""
    seen = components.filter(pl.col("levels") > 1)  # a data-free method has one source, none, and one trial
    counts = {name: part["levels"] for (name,), part in seen.group_by("component")}
    named = (("source", "sources"), ("set within source", "sets"), ("test examples", "test examples"))
    return (
        ", ".join(f"{span(counts[key])} {word}" for key, word in named if key in counts and len(counts[key])) or "none"
    )


def sensitivity_figure(spreads: pl.DataFrame, title: str, unit: str) -> Chart:
    """SD over the sets of one source against model size, one line per method, with the 95 % interval of the SD."""
    methods = spreads["method_label"].unique().sort().to_list()
    x = {
        "field": "parameters",
        "type": "quantitative",
        "title": "parameters",
        "scale": {"type": "log", "nice": False, "padding": 14},
        "axis": {"format": ".2~s", "values": spreads["parameters"].unique().sort().to_list(), "grid": False},
    }
    y = {"type": "quantitative", "title": f"SD over draws, {unit}", "scale": {"zero": True}}
    tips = [_tip("method_label", "method"), _tip("model"), _tip("sd_within", "SD", ".3~f"), _tip("n", "sets")]
    plain = _category("method_label", methods, None)
    columns = ["method_label", "model", "parameters", "sd_within", "low", "high", "n"]
    body = {
        "data": {"values": spreads.select(columns).pipe(_records)},
        "width": WIDTH,
        "height": 240,
        "resolve": {"scale": {"color": "independent", "shape": "independent"}},
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {"x": x, "y": {"field": "sd_within", **y}, "color": plain},
            },
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "opacity": 0.4, "strokeWidth": 2},
                "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": plain},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {"field": "sd_within", **y},
                    "tooltip": tips,
                    "color": _category("method_label", methods, BELOW),
                    "shape": {
                        "field": "method_label",
                        "type": "nominal",
                        "scale": {"domain": methods},
                        "legend": BELOW,
                    },
                },
            },
        ],
    }
    return Chart(
        title,
        f"SD over the sets of one source, pooled over sources; {span(spreads['n'])} sets; line: 95 % interval.",
        body,
    )


def _records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows for a specification, which is JSON and knows no NaN and no infinity."""
    numbers = pl.selectors.float()
    return frame.with_columns(pl.when(numbers.is_finite()).then(numbers)).to_dicts()


def span(counts: pl.Series) -> str:
    """`5`, or `3 to 5` where cells differ."""
    if counts.is_empty():
        return "0"
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _panel(label: str, body: Spec) -> Spec:
    return {"title": {"text": label, "fontSize": 12.5, "offset": 6, "frame": "group"}, "width": WIDTH, **body}


def _tip(name: str, title: str | None = None, form: str | None = None) -> Spec:
    """A line of a tooltip."""
    kind = {"type": "quantitative", "format": form} if form else {"type": "nominal"}
    return {"field": name, "title": title or name.replace("_", " "), **kind}


def _category(column: str, names: Sequence[str], legend: Spec | None) -> Spec:
    """A colour per name, the same in every layer; only one layer carries the legend, together with its shapes."""
    colours = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(names))]
    return {"field": column, "type": "nominal", "scale": {"domain": list(names), "range": colours}, "legend": legend}


def _axis_title(measure: str) -> str:
    info = MEASURES[measure]
    title = info.title if info.title.startswith(("Jensen", "KL")) else info.title[0].lower() + info.title[1:]
    return f"{title}, {info.unit}" if info.unit else title


def _largest(column: pl.Series) -> float:
    return max((float(value) for value in column.drop_nulls()), default=0.0)


def _wrap(text: str, width: int = 96) -> list[str]:
    """Lines of at most `width` characters: Vega does not break them itself."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines

"""Lines with bands of one SD: a measure against the number of windows, and the error of layers by block."""

from __future__ import annotations

import polars as pl

from analysis.measures import MEASURES
from analysis.page.chart import BELOW, WIDTH, Chart, Spec
from analysis.page.marks import axis_title, category, largest, panel, records, span, tip


def size_figure(sizes: pl.DataFrame, measure: str, where: str) -> Chart:
    """Mean over sets against the number of calibration windows, with mean ± SD as a band; one panel per method."""
    sources = sizes["source"].unique().sort().to_list()
    labels = sizes["method_label"].unique().sort().to_list()
    title = axis_title(measure).split(", ")
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
            tip("source"),
            tip("nsamples", "windows"),
            tip("mean", "mean", ".3f"),
            tip("sd", "SD over sets", ".3f"),
            tip("n", "sets"),
        ]
        body = _curves(part, x, title, ("source", sources, key), tips, zero=False)
        panels.append(panel(label, {**body, "height": 190}))
    return Chart(
        f"{MEASURES[measure].title} against calibration size, {where}",
        f"Mean over {span(sizes['n'])} sets; the band is ± one SD over sets ({MEASURES[measure].better}).",
        {"vconcat": panels, "spacing": 18, "resolve": {"scale": {"color": "independent", "shape": "independent"}}},
    )


def layer_figure(layers: pl.DataFrame, where: str) -> Chart:
    """Relative output error by decoder block, mean over trials with ± SD as a band."""
    methods = layers["method_label"].unique().sort().to_list()
    blocks = int(largest(layers["block"]))
    x = {
        "field": "block",
        "type": "quantitative",
        "title": "decoder block",
        "axis": {"values": list(range(0, blocks + 1, blocks // 12 + 1)), "format": "d", "grid": False},
    }
    tips = [
        tip("method_label", "method"),
        tip("block"),
        tip("mean", "mean", ".4f"),
        tip("sd", "SD over trials", ".4f"),
        tip("n", "trials"),
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
    *,
    zero: bool,
) -> Spec:
    """Lines with bands (mean ± SD) and marks, one per level of the group; the marks carry the legend."""
    column, names, legend = group
    columns = [column, x["field"], "mean", "sd", "n"]
    rows = frame.select(columns).with_columns(
        (pl.col("mean") - pl.col("sd")).alias("lower"), (pl.col("mean") + pl.col("sd")).alias("upper")
    )
    y = {"type": "quantitative", "title": title, "scale": {"zero": zero}}
    plain = category(column, names, None)
    band = {
        "transform": [{"filter": "isValid(datum.lower)"}],
        "mark": {"type": "area", "opacity": 0.15},
        "encoding": {"x": x, "y": {"field": "lower", **y}, "y2": {"field": "upper"}, "color": plain},
    }
    return {
        "data": {"values": rows.pipe(records)},
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
                    "color": category(column, names, legend),
                    "shape": {"field": column, "type": "nominal", "scale": {"domain": names}, "legend": legend},
                },
            },
        ],
    }

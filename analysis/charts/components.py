"""Variance components as standard deviations, with their intervals.

Words of this room: a chart is a function of a frame from `analysis.cells` or its neighbours; it states n and shows the
spread. *Where* is what of the study it is about, for its title (`a model, a method`); a *panel* is the part of a chart
that one method has.
"""

from __future__ import annotations

import polars as pl

from analysis.estimates.components import SET, SOURCE
from analysis.page.chart import BLUE, ROWS_AXIS, Chart, Spec
from analysis.page.marks import interval, panel, records, span, tip


def component_figure(components: pl.DataFrame, where: str, unit: str) -> Chart:
    """Standard deviation that each component adds to a trial's score, with its 95 % interval; one panel per method.

    components: (method_label, component, sd, low, high, ...) of one model and task, in the order to be drawn.
    """
    names = components["component"].unique(maintain_order=True).to_list()
    free = _data_free(components)
    if len(free) < components["method_label"].n_unique():
        components = components.filter(~pl.col("method_label").is_in(free))
    else:
        free = []  # nothing but controls: they are what is drawn
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
            tip("component"),
            tip("sd", "SD", ".3~f"),
            tip("low", "low", ".3~f"),
            tip("high", "high", ".3~f"),
            tip("levels", "levels"),
        ]
        layers = [
            {
                "mark": {"type": "bar", "height": 9, "color": BLUE, "opacity": 0.35},
                "encoding": {"x": {"field": "sd", **x}, "y": y, "tooltip": tips},
            },
            *interval(part, x, y, BLUE),
            {
                "mark": {"type": "point", "filled": True, "size": 55, "color": BLUE, "opacity": 1},
                "encoding": {"x": {"field": "sd", **x}, "y": y, "tooltip": tips},
            },
        ]
        panels.append(panel(label, {"data": {"values": part.pipe(records)}, "height": {"step": 20}, "layer": layers}))
        x = {**x, "title": None}
    return Chart(
        f"Where the spread comes from, {where}",
        f"Point and bar: SD of the score due to each component; line: 95 % interval. Levels: {_levels(components)}."
        + (f" Without data, source and set are exactly zero: {', '.join(free)}." if free else ""),
        {"vconcat": panels[::-1], "spacing": 16, "resolve": {"scale": {"x": "shared"}}},
    )


def _data_free(components: pl.DataFrame) -> list[str]:
    """Methods that see no data: one level of sources and of sets, and no spread over them."""
    own = pl.col("component").is_in([SOURCE, SET])
    nothing = (pl.col("sd") == 0) & (pl.col("levels") <= 1)
    rows = components.filter(own).group_by("method_label").agg(nothing.all().alias("free"))
    return rows.filter("free")["method_label"].sort().to_list()


def _levels(components: pl.DataFrame) -> str:
    """`6 sources, 30 sets, 950 test examples`."""
    seen = components.filter(pl.col("levels") > 1)  # a data-free method has one source, none, and one trial
    counts = {name: part["levels"] for (name,), part in seen.group_by("component")}
    named = (("source", "sources"), ("set within source", "sets"), ("test examples", "test examples"))
    return (
        ", ".join(f"{span(counts[key])} {word}" for key, word in named if key in counts and len(counts[key])) or "none"
    )

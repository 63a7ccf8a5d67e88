"""How many answers a method flips, by how sure the dense model was of them."""

from __future__ import annotations

import polars as pl

from analysis.estimates.forgetting import THIRDS
from analysis.page.chart import BELOW, WIDTH, Chart
from analysis.page.marks import category, records, span, tip


def forgetting_figure(table: pl.DataFrame, where: str) -> Chart:
    """Flipped answers in % of each third of the examples, one line per method, with one SD over trials."""
    methods = table["method_label"].unique().sort().to_list()
    rows = table.with_columns(
        (pl.col("flipped") - pl.col("flipped_sd")).clip(lower_bound=0).alias("low"),
        (pl.col("flipped") + pl.col("flipped_sd")).alias("high"),
    )
    x = {
        "field": "dense_margin",
        "type": "ordinal",
        "sort": list(THIRDS),
        "title": "the dense model's answer was",
        "axis": {"labelAngle": 0, "grid": False},
    }
    y = {"type": "quantitative", "title": "answers flipped, %", "scale": {"zero": True}}
    dodge = {"xOffset": {"field": "method_label", "sort": methods}}
    tips = [
        tip("method_label", "method"),
        tip("dense_margin", "dense margin"),
        tip("margin_median", "median margin, nats", ".2f"),
        tip("flipped", "flipped, %", ".1f"),
        tip("lost", "lost, %", ".1f"),
        tip("gained", "gained, %", ".1f"),
        tip("examples"),
        tip("trials"),
    ]
    colour = category("method_label", methods, None)
    legend = category("method_label", methods, BELOW)
    shape = {"field": "method_label", "type": "nominal", "scale": {"domain": methods}, "legend": BELOW}
    bar = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.5},
        "encoding": {"x": x, **dodge, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": colour},
    }
    dot = {
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
        "encoding": {
            "x": x,
            **dodge,
            "y": {"field": "flipped", **y},
            "tooltip": tips,
            "color": legend,
            "shape": shape,
        },
    }
    return Chart(
        f"Flipped answers by the dense model's margin, {where}",
        f"Mean over {span(rows['trials'])} trials of {span(rows['examples'])} examples a third; line: ± one SD.",
        {
            "data": {"values": rows.pipe(records)},
            "width": WIDTH,
            "height": 240,
            "resolve": {"scale": {"color": "independent", "shape": "independent"}},
            "layer": [*([] if rows["flipped_sd"].null_count() == rows.height else [bar]), dot],
        },
    )

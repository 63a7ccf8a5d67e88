"""How well each measure of tasks orders the sources, one mark per model and method."""

from __future__ import annotations

import polars as pl

from analysis.measures import MEASURES, TASK_MEASURES
from analysis.page.chart import BELOW, GREY, ROWS_AXIS, WIDTH, Chart
from analysis.page.marks import category, records, span, tip


def reliability_figure(reliability: pl.DataFrame, wanted: float) -> Chart:
    """Split-half reliability of the order of sources, a row per measure; `wanted` is drawn as a line.

    reliability: rows of `reliability_table` of one task, those that are known.
    """
    title = {name: MEASURES[name].title for name in TASK_MEASURES}
    frame = reliability.filter(pl.col("measure").is_in(TASK_MEASURES)).select(
        pl.col("measure").replace_strict(title, return_dtype=pl.String),
        (pl.col("model") + ", " + pl.col("method_label")).alias("pair"),
        "reliability",
        "examples",
        "examples_needed",
    )
    medians = frame.group_by("measure").agg(pl.col("reliability").median())
    order = medians.sort("reliability", "measure", descending=[True, False])
    pairs = frame["pair"].unique().sort().to_list()
    x = {"field": "reliability", "type": "quantitative", "title": "split-half reliability of the order of sources"}
    y = {"field": "measure", "type": "nominal", "sort": order["measure"].to_list(), "title": None, "axis": ROWS_AXIS}
    tips = [
        tip("measure"),
        tip("pair", "model, method"),
        tip("reliability", "reliability", ".2f"),
        tip("examples", "examples", ",d"),
        tip("examples_needed", f"examples for {wanted:g}", ",d"),
    ]
    body = {
        "width": WIDTH,
        "height": {"step": 34},
        "layer": [
            {
                "data": {"values": [{"wanted": wanted}]},
                "mark": {"type": "rule", "color": GREY, "strokeDash": [4, 3]},
                "encoding": {"x": {"field": "wanted", "type": "quantitative"}},
            },
            {
                "data": {"values": frame.pipe(records)},
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.8},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": category("pair", pairs, BELOW),
                    "shape": {"field": "pair", "type": "nominal", "scale": {"domain": pairs}, "legend": BELOW},
                    "tooltip": tips,
                },
            },
        ],
    }
    subtitle = (
        f"One mark per model and method; {span(frame['examples'])} examples in two halves. 1: other examples would "
        f"order the sources alike; dashed: {wanted:g}."
    )
    return Chart("Which measure can tell the sources apart", subtitle, body)

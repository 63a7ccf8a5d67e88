"""How much a method feels the draw, against model size."""

from __future__ import annotations

import polars as pl

from analysis.page.chart import BELOW, WIDTH, Chart
from analysis.page.marks import category, records, span, tip


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
    tips = [tip("method_label", "method"), tip("model"), tip("sd_within", "SD", ".3~f"), tip("n", "sets")]
    plain = category("method_label", methods, None)
    columns = ["method_label", "model", "parameters", "sd_within", "low", "high", "n"]
    body = {
        "data": {"values": spreads.select(columns).pipe(records)},
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
                    "color": category("method_label", methods, BELOW),
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

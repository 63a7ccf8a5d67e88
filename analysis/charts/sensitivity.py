"""How much a method feels the draw, against model size."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from analysis.page.chart import BELOW, WIDTH, Chart
from analysis.page.marks import category, records, span, tip

COLUMNS = ["method_label", "model", "parameters", "sd_within", "low", "high", "n"]
DODGE = 0.03  # of the size, from one method to the next: an eye still takes them for one size


def _dodged(spreads: pl.DataFrame, methods: Sequence[str]) -> pl.DataFrame:
    """With `drawn`, the size at which a method stands, so that the bars of methods do not hide one another."""
    middle = (len(methods) - 1) / 2
    places = {name: (1 + DODGE) ** (index - middle) for index, name in enumerate(methods)}
    factor = pl.col("method_label").replace_strict(places, return_dtype=pl.Float64)
    return spreads.with_columns((pl.col("parameters") * factor).alias("drawn"))


def sensitivity_figure(spreads: pl.DataFrame, title: str, unit: str) -> Chart:
    """SD over the sets of one source against model size, one line per method, with the 95 % interval of the SD."""
    methods = spreads["method_label"].unique().sort().to_list()
    frame = _dodged(spreads.select(COLUMNS), methods)
    x = {
        "field": "drawn",
        "type": "quantitative",
        "title": "parameters",
        "scale": {"type": "log", "nice": False, "padding": 14},
        "axis": {"format": ".2~s", "values": spreads["parameters"].unique().sort().to_list(), "grid": False},
    }
    y = {"type": "quantitative", "title": f"SD over draws, {unit}", "scale": {"zero": True}}
    tips = [tip("method_label", "method"), tip("model"), tip("sd_within", "SD", ".3~f"), tip("n", "sets")]
    plain = category("method_label", methods, None)
    body = {
        "data": {"values": frame.pipe(records)},
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
        f"SD over the sets of one source, mean over sources; {span(spreads['n'])} sets; line: 95 % interval.",
        body,
    )

"""Accuracy against a metric that is cheaper to get."""

from __future__ import annotations

import polars as pl

from analysis.page.chart import BELOW, WIDTH, Chart
from analysis.page.marks import axis_title, category, records, tip


def relation_figure(relation: pl.DataFrame, metric: str, where: str, note: str = "") -> Chart:
    """Accuracy against a cheaper metric, one mark per trial; `note` tells how well they agree."""
    frame = relation.drop_nulls([metric, "accuracy"]).select("method_label", "source", "set", metric, "accuracy")
    methods = frame["method_label"].unique().sort().to_list()
    scale = {"zero": False, "padding": 10}
    tips = [
        tip("method_label", "method"),
        tip("source"),
        tip("set"),
        tip(metric, metric.replace("_", " "), ".4~f"),
        tip("accuracy", "accuracy, %", ".2f"),
    ]
    body = {
        "data": {"values": frame.pipe(records)},
        "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.65},
        "width": WIDTH,
        "height": 320,
        "encoding": {
            "x": {"field": metric, "type": "quantitative", "title": axis_title(metric), "scale": scale},
            "y": {"field": "accuracy", "type": "quantitative", "title": "mean accuracy, %", "scale": scale},
            "color": category("method_label", methods, BELOW),
            "shape": {"field": "method_label", "type": "nominal", "scale": {"domain": methods}, "legend": BELOW},
            "tooltip": tips,
        },
    }
    subtitle = f"{frame.height} trials, one mark each." + (f" {note}" if note else "")
    return Chart(f"Accuracy against {axis_title(metric).partition(', ')[0]}, {where}", subtitle, body)

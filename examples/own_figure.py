"""A figure of one's own from the results: Vega-Lite over a Polars frame, saved as PNG and SVG.

python examples/own_figure.py results/reference figure
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from analysis.figures import Chart, save
from analysis.frames import load

study = load(sys.argv[1])
measure = "perplexity_increase" if "perplexity_increase" in set(study.values["measure"]) else "accuracy"
frame = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == "mean").drop_nulls("value")

body = {
    "data": {"values": frame.select("model", "method_label", "source", "value").to_dicts()},
    "mark": {"type": "boxplot", "extent": "min-max"},
    "width": 420,
    "encoding": {
        "x": {"field": "value", "type": "quantitative", "title": measure.replace("_", " "), "scale": {"zero": False}},
        "y": {"field": "method_label", "type": "nominal", "title": None},
        "row": {"field": "model", "type": "nominal", "title": None},
    },
}
chart = Chart(f"{measure.replace('_', ' ')} over calibration sets", f"{frame.height} trials; whiskers: extremes", body)
for path in save(chart, Path(sys.argv[2])):
    print(path)

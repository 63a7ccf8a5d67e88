"""Draw where the time of a GPTQ block and of a scoring batch goes: one stacked bar each, from the benchmark's numbers.

python -m benchmarks.picture compression.json time.png     # what `python -m benchmarks.compression --json` wrote
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vl_convert

# Okabe & Ito's colours for colour-blind readers, in the order of the work; what is not work is grey
COLOURS = {
    "matrix products of the blocks": "#0072B2",
    "attention": "#56B4E9",
    "norms, rotation, activation": "#009E73",
    "sums over inputs": "#E69F00",
    "factor": "#D55E00",
    "column loops": "#CC79A7",
    "later columns' updates": "#7A5195",
    "grids, stacking": "#F0E442",
    "telemetry": "#B34700",
    "vocabulary projection": "#882255",
    "log-softmax": "#B8A800",
    "masks": "#117733",
    "copies and fills": "#999999",
    "idle": "#DDDDDD",
}

DARK = ("matrix products of the blocks", "later columns' updates", "telemetry", "vocabulary projection", "masks")


def draw(tables: dict[str, Any], target: Path) -> None:
    """Write a PNG with a bar for every slice in the benchmark's tables. Raises ValueError when there is none."""
    rows = [row for bar in bars(tables) for row in rows_of(bar)]
    if not rows:
        raise ValueError("nothing to draw: run the parts profile or trial")
    target.write_bytes(vl_convert.vegalite_to_png(figure(rows), scale=2))


def bars(tables: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every slice: a mapping with `label`, `wall_s` and `parts`; the trial's take the place of the profile's."""
    trial = tables.get("trial", {})
    found = [trial.get("compression", {}), trial.get("scoring", {})]
    if "parts" not in found[0]:
        found[0] = tables.get("profile", {})
    yield from (bar for bar in found if "parts" in bar)


def rows_of(bar: dict[str, Any]) -> Iterator[dict[str, Any]]:
    total = sum(part["ms"] for part in bar["parts"])
    title = [bar["label"], f"{total:,.0f} ms, busy {bar['busy_share']:.0%}"]
    order = list(COLOURS)
    for part in bar["parts"]:
        name = part["part"]
        place = order.index(name) if name in order else len(order)
        yield {"bar": "\n".join(title), "part": name, "share": part["ms"] / total, "ms": part["ms"], "place": place}


def figure(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The Vega-Lite specification; every part of at least 4 % says its share."""
    shown = [name for name in COLOURS if any(row["part"] == name for row in rows)]
    bar = {"field": "bar", "type": "nominal", "title": None, "sort": None}
    encoding = {
        "y": {**bar, "axis": {"labelExpr": "split(datum.value, '\\n')", "labelLimit": 260}},
        "x": {"field": "share", "type": "quantitative", "stack": "zero", "title": "share of the wall time",
              "axis": {"format": "%"}, "scale": {"domain": [0, 1]}},
        "order": {"field": "place", "type": "quantitative"},
    }  # fmt: skip
    colour = {"field": "part", "type": "nominal", "title": None, "sort": shown,
              "scale": {"domain": shown, "range": [COLOURS[name] for name in shown]},
              "legend": {"orient": "bottom", "columns": 4, "labelLimit": 240}}  # fmt: skip
    label = {
        "transform": [
            {"stack": "share", "groupby": ["bar"], "sort": [{"field": "place"}], "as": ["left", "right"]},
            {"calculate": "(datum.left + datum.right) / 2", "as": "middle"},
            {"filter": "datum.share >= 0.04"},
        ],
        "mark": {"type": "text", "fontSize": 11, "strokeWidth": 0},
        "encoding": {"y": encoding["y"], "x": {"field": "middle", "type": "quantitative"},
                     "text": {"field": "share", "type": "quantitative", "format": ".0%"},
                     "color": {"condition": {"test": {"field": "part", "oneOf": list(DARK)}, "value": "#ffffff"},
                               "value": "#222222"}},
    }  # fmt: skip
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": rows},
        "width": 760,
        "height": {"step": 70},
        "background": "#ffffff",
        "config": {"view": {"stroke": None}, "axis": {"labelFontSize": 12, "titleFontSize": 12, "grid": False}},
        "layer": [{"mark": {"type": "bar", "stroke": "#ffffff"}, "encoding": {**encoding, "color": colour}}, label],
    }


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))

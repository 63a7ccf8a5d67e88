"""What choosing each source costs, beside the difference that matters: the figure of the answer."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from analysis.measures import MEASURES
from analysis.page.chart import BLUE, GREY, ROWS_AXIS, WIDTH, Chart, Spec
from analysis.page.marks import inside, largest, panel, records, span, tip

FAINT = "#b9bec6"


def answer_figure(
    ranks: pl.DataFrame, measure: str, matters: Mapping[str, float], named: Mapping[str, set[str]], where: str
) -> Chart:
    """Expected cost of every source against the best one, a panel per method, all on one axis.

    ranks:   rows of `rank_table` of one model, those whose regret is known.
    matters: method label -> the difference that matters, in the measure's unit; the band of the panel.
    named:   method label -> the sources that the answer names, which are drawn in blue.
    """
    info = MEASURES[measure]
    unit = "points" if info.unit == "%" else info.unit
    reach = max(largest(ranks["regret_high"]), largest(ranks["regret"]), max(matters.values(), default=0.0))
    x: Spec = {
        "type": "quantitative",
        "title": f"{inside(info.title)}: cost against the best source" + (f", {unit}" if unit else ""),
        "scale": {"domain": [0, 1.04 * reach or 1.0], "nice": False},
    }
    labels = ranks["method_label"].unique().sort().to_list()
    panels = []
    for label in labels:
        part = ranks.filter(pl.col("method_label") == label).sort("regret", "source")
        frame = part.select("source", "n", "mean", "p_best", "regret", "regret_high").with_columns(
            pl.col("source").is_in(named.get(label, set())).alias("named")
        )
        axis: Spec = {} if label == labels[-1] else {"axis": {"title": None, "labels": False, "ticks": False}}
        panels.append(panel(label, _panel(frame, {**x, **axis}, matters.get(label, 0.0), unit)))
    subtitle = (
        f"{span(ranks['n'])} sets per source. Dot: expected cost of choosing this source; line: up to its 95 % "
        "quantile; grey band: differences that do not matter; blue: sources that the answer names."
    )
    return Chart(f"What choosing a source costs, {where}", subtitle, {"vconcat": panels, "spacing": 14})


def _panel(frame: pl.DataFrame, x: Spec, matters: float, unit: str) -> Spec:
    """One method: the band, then a line and a dot per source, the cheapest first."""
    y = {"field": "source", "type": "nominal", "sort": frame["source"].to_list(), "title": None, "axis": ROWS_AXIS}
    colour = {"condition": {"test": "datum.named", "value": BLUE}, "value": GREY}
    tips = [
        tip("source"),
        tip("regret", f"expected cost, {unit}" if unit else "expected cost", ".3~f"),
        tip("regret_high", "95 % quantile", ".3~f"),
        tip("p_best", "probability of being best", ".1%"),
        tip("mean", "mean over sets", ".4~f"),
        tip("n", "sets"),
    ]
    band: Spec = {
        "data": {"values": [{"from": 0, "to": matters}]},
        "mark": {"type": "rect", "color": FAINT, "opacity": 0.35},
        "encoding": {"x": {"field": "from", **x}, "x2": {"field": "to"}},
    }
    line: Spec = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {"x": {"field": "regret", **x}, "x2": {"field": "regret_high"}, "y": y, "color": colour},
    }
    dot: Spec = {
        "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
        "encoding": {"x": {"field": "regret", **x}, "y": y, "color": colour, "tooltip": tips},
    }
    body: Spec = {"data": {"values": frame.pipe(records)}, "height": {"step": 19}, "layer": [band, line, dot]}
    return {**body, "width": WIDTH}

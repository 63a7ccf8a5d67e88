"""The race of an adviser: what was believed of each candidate, and how the probability to be best moved.

Words of this room: an *arm* is a candidate text or a mixture, a *draw* one calibration set of it.
"""

from __future__ import annotations

import polars as pl

from analysis.page.chart import BELOW, BLUE, GREY, INK, ROWS_AXIS, WIDTH, Chart, Spec
from analysis.page.marks import category, records, tip

LINES = 8  # arms that have a line of their own


def race_figure(beliefs: pl.DataFrame, draws: pl.DataFrame, where: str, loss: str) -> Chart:
    """Above: each arm's loss as it was believed first and last, with its full draws. Below: P(best) by time.

    beliefs: as `analysis.advice.belief_table`; draws: full draws on the one target, or none where there are several.
    """
    last = beliefs.filter(pl.col("round") == beliefs["round"].max()).sort("loss", nulls_last=True)
    # screens alone tell no level, nor does the one trial that says what trials cost, where others follow
    arms = beliefs.group_by("round").agg((pl.col("fulls") > 0).sum().alias("arms"))
    after_full = arms.filter(pl.col("arms") >= min(2, max(1, last.filter(pl.col("fulls") > 0).height)))
    first = beliefs.filter(pl.col("round").is_in(after_full["round"].sort().head(1).to_list()))
    first = first.filter(pl.col("round") < beliefs["round"].max())
    order = last["arm"].to_list()
    return Chart(
        f"The race, {where}",
        f"Blue: mean and 80 % interval in the end, grey: after the first full draws, dots: full draws; {loss}, lower "
        "is better. Below: probability to be best after each round.",
        {"vconcat": [_losses(first, last, draws, order, loss), _chances(beliefs, order)], "spacing": 20},
    )


def _losses(first: pl.DataFrame, last: pl.DataFrame, draws: pl.DataFrame, order: list[str], loss: str) -> Spec:
    x: Spec = {"type": "quantitative", "title": loss, "scale": {"zero": False, "nice": True, "padding": 12}}
    y: Spec = {"field": "arm", "type": "nominal", "sort": order, "title": None, "axis": ROWS_AXIS}
    tips = [
        tip("arm"),
        tip("loss", "mean loss", ".3~f"),
        tip("low", "80 % low", ".3~f"),
        tip("high", "80 % high", ".3~f"),
        tip("p_best", "P(best)", ".0%"),
        tip("screens"),
        tip("fulls", "full draws"),
        tip("failures", "failed"),
    ]
    layers = [_interval(last, x, y, BLUE, 4, 0.8)]
    if first.height:
        layers.insert(0, _interval(first, x, y, GREY, 9, 0.3))
    layers.append(
        {
            "data": {"values": last.pipe(records)},
            "mark": {"type": "point", "shape": "diamond", "filled": True, "size": 70, "color": BLUE, "opacity": 1},
            "encoding": {"x": {"field": "loss", **x}, "y": y, "tooltip": tips},
        }
    )
    if draws.height:
        seen = [tip("arm"), tip("draw"), tip("round"), tip("loss", "loss", ".3~f")]
        layers.append(
            {
                "data": {"values": draws.select("arm", "draw", "round", "loss").pipe(records)},
                "mark": {"type": "point", "size": 26, "color": INK, "strokeWidth": 1, "opacity": 0.9},
                "encoding": {"x": {"field": "loss", **x}, "y": y, "tooltip": seen},
            }
        )
    return {"width": WIDTH, "height": {"step": 24}, "layer": layers}


def _interval(frame: pl.DataFrame, x: Spec, y: Spec, colour: str, width: int, opacity: float) -> Spec:
    known = frame.drop_nulls(["low", "high"]).select("arm", "low", "high")
    return {
        "data": {"values": known.pipe(records)},
        "mark": {"type": "rule", "strokeWidth": width, "color": colour, "opacity": opacity},
        "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "y": y},
    }


def _chances(beliefs: pl.DataFrame, order: list[str]) -> Spec:
    shown = order[:LINES]
    part = beliefs.filter(pl.col("arm").is_in(shown)).select("round", "minutes", "arm", "p_best")
    tips = [tip("arm"), tip("round"), tip("minutes", "minutes of a worker", ".1f"), tip("p_best", "P(best)", ".0%")]
    return {
        "width": WIDTH,
        "height": 170,
        "data": {"values": part.pipe(records)},
        "mark": {"type": "line", "point": {"filled": True, "size": 45}, "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "minutes",
                "type": "quantitative",
                "title": "minutes of one worker",
                "scale": {"zero": False},
            },
            "y": {
                "field": "p_best",
                "type": "quantitative",
                "title": "P(best)",
                "scale": {"domain": [0, 1]},
                "axis": {"format": ".0%"},
            },
            "color": category("arm", shown, BELOW),
            "tooltip": tips,
        },
    }

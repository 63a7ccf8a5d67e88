"""Cells with a number in each: calibration source by held-out text, and the probability of being the best source."""

from __future__ import annotations

import polars as pl

from analysis.page.chart import LIGHT_TO_DARK, WORSE_TO_BETTER, Chart, Spec
from analysis.page.marks import largest, records, span, tip


def domain_figure(domains: pl.DataFrame, baseline: pl.DataFrame, where: str) -> Chart:
    """Calibration source by held-out text for one (model, method): perplexity increase, coloured by who does better.

    domains:  rows of `domain_table` of one model and method.
    baseline: (label, text, mean) of the data-free method with the same bits and sparsity; may be empty.
    """
    sources = domains["source"].unique().sort().to_list()
    labels = baseline["label"].unique().sort().to_list()
    texts = sorted(domains["text"].unique().to_list(), key=lambda text: (text not in sources, text))
    rows = sorted(sources, key=lambda source: (source not in texts, source)) + labels
    columns = ["source", "text", "mean", "sd", "n", "advantage", "matched"]
    frame = domains.select(columns)
    if baseline.height:
        average = domains.group_by("text").agg(pl.col("mean").mean().alias("average"))
        extra = baseline.join(average, on="text", maintain_order="left").with_columns(
            pl.col("label").alias("source"),
            pl.lit(None, pl.Float64).alias("sd"),
            pl.lit(1, frame["n"].dtype).alias("n"),
            (pl.col("average") - pl.col("mean")).alias("advantage"),
            pl.lit(False).alias("matched"),
        )
        frame = pl.concat([frame, extra.select(columns)])
    limit = max(largest(domains["advantage"].abs()), 1e-9)
    frame = frame.with_columns((pl.col("advantage").abs() > 0.72 * limit).alias("strong"))
    tips = [
        tip("source", "calibrated on"),
        tip("text", "held-out text"),
        tip("mean", "perplexity increase, %", "+.2f"),
        tip("sd", "SD over sets", ".2f"),
        tip("n", "sets"),
        tip("advantage", "points better than the average source", "+.2f"),
    ]
    body = _heatmap(frame, ("text", "held-out text", texts), ("source", "calibrated on", rows), tips)
    body["layer"][0]["encoding"]["color"] = {
        "field": "advantage",
        "type": "quantitative",
        "title": ["better than the", "average source,", "points"],
        "scale": {"domain": [-limit, limit], "range": WORSE_TO_BETTER, "clamp": True, "interpolate": "rgb"},
        "legend": {"format": "+.1f", "gradientLength": 120},
    }
    body["layer"][-1]["encoding"]["text"] = {"field": "mean", "type": "quantitative", "format": "+.1f"}
    for stroke, wide in (("#ffffff", 5), ("#111111", 2)):  # a white rim, so that it is seen on dark ground as well
        outline = {"type": "rect", "filled": False, "stroke": stroke, "strokeWidth": wide}
        body["layer"].insert(-1, {"transform": [{"filter": "datum.matched"}], "mark": outline})
    control = f" {labels[0]} sees no calibration data." if labels else ""
    return Chart(
        f"Perplexity increase over dense, %, {where}",
        f"Mean of {span(domains['n'])} sets per source. Black frame: calibrated on the text's own domain.{control}",
        body,
    )


def best_figure(ranking: pl.DataFrame, where: str, n: str) -> Chart:
    """Probability that a source is the best one, source by method; the expected regret when pointing at a cell."""
    order = ranking.group_by("source").agg(pl.col("p_best").mean()).sort("p_best", "source", descending=[True, False])
    methods = ranking["method_label"].unique().sort().to_list()
    frame = ranking.select("method_label", "source", "p_best", "regret", "n").with_columns(
        (pl.col("p_best") > 0.62).alias("strong")
    )
    tips = [
        tip("method_label", "method"),
        tip("source"),
        tip("p_best", "probability of being best", ".1%"),
        tip("regret", "expected regret", ".3~f"),
        tip("n", "sets"),
    ]
    body = _heatmap(frame, ("method_label", None, methods), ("source", None, order["source"].to_list()), tips, step=78)
    body["layer"][0]["encoding"]["color"] = {
        "field": "p_best",
        "type": "quantitative",
        "title": ["probability", "of being best"],
        "scale": {"domain": [0, 1], "range": LIGHT_TO_DARK, "interpolate": "rgb"},
        "legend": {"format": ".0%", "gradientLength": 120},
    }
    body["layer"][-1]["encoding"]["text"] = {"field": "p_best", "type": "quantitative", "format": ".0%"}
    subtitle = (
        f"Probability that the mean over all draws from this source is the best of all sources; {n} sets per source."
    )
    return Chart(f"Which source is best? {where}", subtitle, body)


def _heatmap(
    frame: pl.DataFrame,
    x: tuple[str, str | None, list[str]],
    y: tuple[str, str | None, list[str]],
    tips: list[Spec],
    step: int = 60,
) -> Spec:
    """Cells with a number in each; layer 0 takes the colour, the last layer the text, which is white where `strong`."""
    bare: Spec = {"grid": False, "domain": False, "ticks": False}
    return {
        "data": {"values": frame.pipe(records)},
        "width": {"step": step},
        "height": {"step": 30},
        "usermeta": {"minWidth": step * len(x[2]) + 190},
        "encoding": {
            "x": {"field": x[0], "type": "nominal", "sort": x[2], "title": x[1], "axis": {**bare, "labelAngle": -35}},
            "y": {"field": y[0], "type": "nominal", "sort": y[2], "title": y[1], "axis": bare},
            "tooltip": tips,
        },
        "layer": [
            {"mark": {"type": "rect", "cornerRadius": 2}, "encoding": {}},
            {
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {"color": {"condition": {"test": "datum.strong", "value": "#ffffff"}, "value": "#1a1a1a"}},
            },
        ],
    }

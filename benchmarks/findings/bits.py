"""At which bits and sparsities does the source matter, and does calibration pay at all?"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import polars as pl

from analysis.compare import holm
from analysis.estimates.welch import Interval, contrast
from analysis.page.chart import Chart
from benchmarks.findings.arms import DOMAINS, LEVEL, Arms, origin, read
from benchmarks.findings.evidence import DATA, in_percent, percent, sure
from benchmarks.findings.page import Page

STUDY = "bits_reference_17m"
ABOUT = (
    "reference-17m, eight bundled English sources, five sets of 16 windows of 256 tokens each, held-out texts of 8 windows, "
    "on two H200, 2026-11-28."
)
NEAR = 1.25  # ratio of two spreads whose names would meet
# The data-free methods that store the same number of bits, or prune the same share, as a calibrated method.
OPPONENTS = {
    "2-bit": ("RTN 2-bit g32", "RTN 2-bit g32 mse", "RTN 2-bit g32 sym"),
    "3-bit": ("RTN 3-bit g32", "RTN 3-bit g32 mse", "RTN 3-bit g32 sym"),
    "4-bit": ("RTN 4-bit g32", "RTN 4-bit g32 mse", "RTN 4-bit g32 sym"),
    "50 %": ("Magnitude 50 %",),
    "60 %": ("Magnitude 60 %",),
    "70 %": ("Magnitude 70 %",),
    "2:4": ("Magnitude 2:4",),
}


def page() -> Page:
    cells = sorted(read(STUDY), key=lambda cell: (cell.method.split()[0], cell.method))
    free = data_free()
    rows = []
    points = []
    spread = {}
    for cell in cells:
        singles = _singles(cell)
        gap = contrast([singles[-1][1], singles[0][1]], [1, -1])
        spread[cell.method] = gap
        damage = float(np.mean([losses.mean() for _, losses in singles])) - free["dense"]
        name, loss = min(((o, free[o]) for o in _opponents(cell.method)), key=lambda pair: pair[1])
        ahead = _against(singles, loss)
        rows.append(
            [
                cell.method,
                f"{percent(damage):.1f}",
                f"{singles[0][0]}, {singles[-1][0]}",
                in_percent(gap),
                name,
                in_percent(ahead),
                f"{_worse(singles, loss)}, {_worse_texts(cell, name)}",
            ]
        )
        points.append(
            {
                "method": cell.method,
                "kind": "quantization" if "bit" in cell.method else "pruning",
                "damage": percent(damage),
                "spread": percent(gap.value),
                "low": percent(gap.low),
                "high": percent(gap.high),
            }
        )
    least, most = min(spread, key=lambda m: spread[m].value), max(spread, key=lambda m: spread[m].value)
    return Page(
        name="bits",
        question="At which bits and sparsities does the source matter, and what do data-free methods reach?",
        title=(
            f"From {percent(spread[least].value):.1f} % ({least}) to {percent(spread[most].value):.0f} % ({most}): the "
            "further the compression, the more the source matters"
            if _rank(points) > 0.7
            else f"The worst source costs {percent(spread[least].value):.1f} % ({least}) to {percent(spread[most].value):.0f} % ({most}) of perplexity"
        ),
        answer=(
            f"Mean over eight texts. Over {len(points)} methods and strengths, what the worst source costs against the best "
            f"and what compression costs against dense have Spearman's ρ {_rank(points):.2f}. The last columns ask whether "
            "calibration pays: the best data-free method of the same bits or sparsity (rounding to nearest with the usual "
            "range, the range of least squared error, and a symmetric grid; pruning by magnitude), and how many of the eight "
            "sources are clearly worse than it on the mean over texts, and in how many pairs of a source and a single text "
            "(Holm's correction over the 64). The data-free method was picked by the texts that judge it, which favours it."
        ),
        chart=_chart(points),
        table=(
            [
                "method",
                "mean of sources over dense, %",
                "best and worst source",
                "worst against best",
                "best data-free method",
                "mean of sources against it",
                "worse than it: of 8 sources, of 64 pairs",
            ],
            rows,
        ),
        published=(
            "arXiv 2405.20835, by its abstract, finds that Llama 2 and 3, Command-R and Mistral are robust to the "
            "calibration text where OPT is not; Beware of Calibration Data (arXiv 2410.17711), by its abstract, that it is crucial to pruning, especially at high sparsity."
        ),
        limits=(
            "One model of 17 million parameters. The best and the worst source were picked by the draws that judge them, which "
            "overstates their distance where sources hardly differ; with five sets the more so. Groups of 32 weights make 2 bits milder than usual groups of 128."
        ),
        origin=origin(STUDY, ABOUT),
    )


@lru_cache(maxsize=1)
def texts_of_data_free() -> dict[str, dict[str, float]]:
    """Log perplexity of each text under the dense model and every data-free method."""
    frame = pl.read_parquet(DATA / f"{STUDY}.parquet")
    rows = frame.filter(pl.col("source").is_null(), pl.col("measure") == "perplexity", pl.col("task").is_in(DOMAINS))
    return {
        str(method): {task: math.log(value) for task, value in part.select("task", "value").iter_rows()}
        for (method,), part in rows.group_by("method_label", maintain_order=True)
    }


def data_free() -> dict[str, float]:
    """The means over the eight texts."""
    return {method: float(np.mean(list(losses.values()))) for method, losses in texts_of_data_free().items()}


def _worse_texts(cell: Arms, opponent: str) -> int:
    """In how many pairs of a source and a text the data-free method is clearly better."""
    free = texts_of_data_free()[opponent]
    gaps = [
        contrast([losses[:, cell.texts.index(text)] - free[text]], [1.0])
        for losses in cell.losses.values()
        for text in DOMAINS
    ]
    corrected = holm([1.0 if gap.p is None else gap.p for gap in gaps])
    return sum(p < LEVEL and gap.value > 0 for gap, p in zip(gaps, corrected, strict=True))


def _worse(singles: list[tuple[str, np.ndarray]], loss: float) -> int:
    """Sources that are clearly worse than the data-free method on the mean over texts."""
    return sum(sure(contrast([losses - loss], [1.0])) == 1 for _, losses in singles)


def _opponents(method: str) -> tuple[str, ...]:
    return next(names for kind, names in OPPONENTS.items() if kind in method)


def _singles(cell: Arms) -> list[tuple[str, np.ndarray]]:
    """(source, loss of each set), best mean first."""
    return sorted(
        ((arm.source, cell.mean(arm, DOMAINS)) for arm in cell.losses), key=lambda pair: float(pair[1].mean())
    )


def _against(singles: list[tuple[str, np.ndarray]], loss: float) -> Interval:
    return contrast([losses - loss for _, losses in singles], [1 / len(singles)] * len(singles))


def _rank(points: list[dict[str, float | str]]) -> float:
    ranks = [np.argsort(np.argsort([float(p[key]) for p in points])) for key in ("damage", "spread")]
    return float(np.corrcoef(*ranks)[0, 1])


def _placed(points: list[dict[str, float | str]]) -> list[dict[str, float | str]]:
    """With `side`: where a name stands, so that those of neighbours do not meet."""
    ordered = sorted(points, key=lambda point: float(point["spread"]))
    sides = ["beside"] * len(ordered)
    for index, (low, high) in enumerate(pairwise(ordered)):
        if float(high["spread"]) < NEAR * float(low["spread"]):
            sides[index], sides[index + 1] = "below", "above"
    return [{**point, "side": side} for point, side in zip(ordered, sides, strict=True)]


def _chart(points: list[dict[str, float | str]]) -> Chart:
    scale = {"type": "log", "nice": False, "padding": 20}
    axis = {"grid": False, "values": [0.3, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500]}
    x = {
        "field": "damage",
        "type": "quantitative",
        "title": "mean of sources over dense, %",
        "scale": scale,
        "axis": axis,
    }
    y = {"type": "quantitative", "title": "worst source over best, %", "scale": scale, "axis": axis}
    at = {"x": x, "y": {**y, "field": "spread"}}
    names = [
        {
            "transform": [{"filter": f"datum.side == '{side}'"}],
            "mark": {"type": "text", "align": align, "dx": dx, "dy": dy, "fontSize": 11},
            "encoding": {**at, "text": {"field": "method"}},
        }
        for side, align, dx, dy in (("beside", "left", 8, 0), ("above", "right", -8, -8), ("below", "left", 8, 9))
    ]
    return Chart(
        "What the source is worth, against what compression costs",
        "A point a method, mean perplexity over eight held-out texts, 95 % intervals.",
        {
            "data": {"values": _placed(points)},
            "width": 520,
            "height": 330,
            "layer": [
                {"mark": "rule", "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
                {
                    "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                    "encoding": {
                        **at,
                        "color": {"field": "kind", "type": "nominal", "title": None, "legend": {"orient": "bottom"}},
                    },
                },
                *names,
            ],
        },
    )

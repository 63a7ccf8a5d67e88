"""How many windows does a set need, and do eight already tell which source is best?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from analysis.estimates.welch import Interval, contrast
from analysis.page.chart import Chart
from benchmarks.findings.evidence import FULL, SMALL, UNIFORM, Cell, cells, in_percent, percent
from benchmarks.findings.page import Page


def page() -> Page:
    found = cells()
    costs = [_cost(cell) for cell in found]
    least, most = min(costs, key=lambda c: c.value), max(costs, key=lambda c: c.value)
    rows = []
    wrong = {}
    for cell, cost in zip(found, costs, strict=True):
        small = sorted((s for s in cell.small if s != UNIFORM), key=lambda s: float(cell.small[s].mean()))
        rank = stats.spearmanr(
            [cell.small[s].mean() for s in cell.singles], [cell.losses[s].mean() for s in cell.singles]
        ).statistic
        wrong[cell.name] = percent(float(cell.losses[small[0]].mean() - cell.losses[cell.singles[0]].mean()))
        rows.append(
            [
                cell.name,
                in_percent(cost),
                f"{100 * _draw(cell.small):.2f}",
                f"{100 * _draw(cell.losses):.2f}",
                f"{rank:.2f}",
                f"{small[0]}, {cell.singles[0]}",
                f"{wrong[cell.name]:.1f}",
            ]
        )
    return Page(
        name="windows",
        question=f"What do {SMALL} windows instead of {FULL} cost, and do they already tell which source is best?",
        title=(
            f"Eight windows instead of 32 cost {percent(least.value):.1f} to {percent(most.value):.0f} % of perplexity, but choosing the source with eight costs at most {max(wrong.values()):.1f} %"
        ),
        answer=(
            f"The cost follows the method: {found[costs.index(least)].name} loses {in_percent(least)}, "
            f"{found[costs.index(most)].name} {in_percent(most)}. The order of sources survives, so a cheap first look with "
            "few windows is a good screen (the adviser uses it), and a bad final set."
        ),
        chart=_chart(found),
        table=(
            [
                "method and model",
                f"{SMALL} against {FULL} windows, perplexity",
                f"SD of a draw at {SMALL}, %",
                f"at {FULL}, %",
                "Spearman's ρ of the eight sources' means",
                f"best single source at {SMALL}, at {FULL}",
                "cost of the former, %",
            ],
            rows,
        ),
        published=(
            "Williams & Aletras, LLaMA-7B on C4, by notes on the paper: from 1 to 128 sets of 2,048 tokens perplexity falls "
            "from 6.13 to 5.90 for GPTQ at 4 bits, 55 to 11 for SparseGPT 2:4, and stays flat above 128."
        ),
        limits=(
            "Windows of 512 tokens (SmolLM2) and 256 (reference models): 32 of them are 16,384 and 8,192 tokens, far fewer "
            "than the 262,144 of published studies. An interval of ρ over eight sources would be so wide that none is given."
        ),
    )


def _cost(cell: Cell) -> Interval:
    """Mean over single sources of the loss of the small sets minus that of the large, paired by set."""
    pairs = [(cell.small[s] - cell.losses[s]).mean(axis=1) for s in cell.singles]
    return contrast(pairs, [1 / len(pairs)] * len(pairs))


def _draw(losses: Mapping[str, np.ndarray]) -> float:
    return math.sqrt(float(np.mean([m.mean(axis=1).var(ddof=1) for s, m in losses.items() if s != UNIFORM])))


def _chart(found: list[Cell]) -> Chart:
    rows = [
        {
            "cell": cell.name,
            "source": source,
            "small": round(percent(float(cell.small[source].mean()) - centre), 2),
            "full": round(percent(float(cell.losses[source].mean()) - centre), 2),
        }
        for cell in found
        for centre in [float(np.mean([cell.losses[s].mean() for s in cell.singles]))]
        for source in cell.losses
    ]
    return Chart(
        f"Sources at {SMALL} windows and at {FULL}, perplexity against the mean at {FULL}, %",
        "A line a source, the mean of twelve sets; the small sets are the first windows of the large.",
        {
            "data": {"values": rows},
            "transform": [
                {"fold": ["small", "full"], "as": ["size", "value"]},
                {"calculate": f"datum.size == 'small' ? '{SMALL}' : '{FULL}'", "as": "windows"},
            ],
            "facet": {
                "field": "cell",
                "type": "nominal",
                "sort": [cell.name for cell in found],
                "title": None,
                "header": {"labelLimit": 220, "labelFontSize": 10},
            },
            "columns": 4,
            "spec": {
                "width": 130,
                "height": 150,
                "mark": {"type": "line", "point": True, "strokeWidth": 1.2},
                "encoding": {
                    "x": {"field": "windows", "type": "ordinal", "sort": [str(SMALL), str(FULL)], "title": "windows"},
                    "y": {"field": "value", "type": "quantitative", "title": "%"},
                    "color": {"field": "source", "type": "nominal", "title": None, "legend": {"orient": "bottom"}},
                },
            },
            "resolve": {"scale": {"y": "independent"}},
        },
    )

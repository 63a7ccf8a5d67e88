"""Does the order of sources carry over from one model, or one method, to another?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import stats

from analysis.page.chart import Chart
from benchmarks.findings.evidence import NAMES, UNIFORM, Cell, cells, percent
from benchmarks.findings.page import Page


def page() -> Page:
    found = cells()
    models, methods = [], []
    for a, b in combinations(found, 2):
        if _kind(a) == _kind(b):
            models.append((a, b, *_agreement(a, b)))
        elif a.model == b.model:
            methods.append((a, b, *_agreement(a, b)))
    rows = [
        [
            f"{_kind(a)}: {NAMES[a.model]}, {NAMES[b.model]}",
            _two(rho),
            "< 0.001" if p < 0.001 else f"{p:.3f}",
            f"{loss:.1f}",
        ]
        for a, b, rho, p, loss in models
    ]
    others = [
        [f"{NAMES[a.model]}: {_kind(a)}, {_kind(b)}", _two(rho), "< 0.001" if p < 0.001 else f"{p:.3f}", f"{loss:.1f}"]
        for a, b, rho, p, loss in methods
    ]
    strong = [rho for _, _, rho, _, _ in models]
    weak = [rho for _, _, rho, _, _ in methods]
    head = ["", "Spearman's ρ, eight sources", "p of no agreement", "cost of the other's choice, %"]
    return Page(
        name="carry_over",
        question="Can I find the best source on a small model or with a fast method, and use it for another?",
        title=(
            f"The single source that is best on another model costs at most {max(loss for *_, loss in models):.1f} % of perplexity, the best with another method at most {max(loss for *_, loss in methods):.1f} %"
        ),
        answer=(
            f"On the mean over eight texts. Orders agree between models of the same method (Spearman's ρ {min(strong):.2f} to {max(strong):.2f}) and mostly between methods ({_two(min(weak))} to {max(weak):.2f}); the exceptions are AWQ's, whose sources hardly differ ([how much](how_much.md)). The last column says what it costs to take the single source that is best in one for the other (the larger of the two directions). The uniform mixture leaves less to carry over ([mixtures](mixtures.md))."
        ),
        chart=_chart(found),
        table=([*head[:0], "same method, two models", *head[1:]], rows),
        more={"Same model, two methods": (["same model, two methods", *head[1:]], others)},
        published=(
            "Williams & Aletras find for SparseGPT on nine models of 6.7 B to 33 B, by notes on the paper, that RefinedWeb is "
            "best on eight and Wikipedia worst on eight: the order carries over between models there, too."
        ),
        limits=(
            "Three models of one shape, two of them trained on the same data. p is over 20,000 random orders of eight sources, "
            "one-sided, and not corrected for the number of pairs."
        ),
    )


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _kind(cell: Cell) -> str:
    return cell.method.split(" g")[0]


def _agreement(a: Cell, b: Cell) -> tuple[float, float, float]:
    """(Spearman's ρ of the single sources' means, its one-sided p, the per cent that one's best costs in the other)."""
    names = sorted(s for s in a.losses if s != UNIFORM)
    x, y = (np.array([cell.losses[s].mean() for s in names]) for cell in (a, b))
    rho = float(stats.spearmanr(x, y).statistic)
    p = float(_p_of_order(x, y))
    loss = max(y[x.argmin()] - y.min(), x[y.argmin()] - x.min())
    return rho, p, percent(float(loss))


def _p_of_order(x: np.ndarray, y: np.ndarray, draws: int = 20_000) -> float:
    """One-sided p of ρ: the share of random orders that agree at least as well."""
    rng = np.random.default_rng(0)
    a, b = stats.rankdata(x), stats.rankdata(y)
    found = a @ b
    orders = rng.permuted(np.tile(b, (draws, 1)), axis=1)
    return float((1 + (orders @ a >= found - 1e-9).sum()) / (draws + 1))


def _chart(found: list[Cell]) -> Chart:
    rows = [
        {"cell": cell.name, "source": source, "rank": rank + 1}
        for cell in found
        for rank, source in enumerate(cell.singles)
    ]
    mean = {s: np.mean([cell.singles.index(s) for cell in found]) for s in found[0].singles}
    place = {
        "x": {
            "field": "cell",
            "type": "nominal",
            "sort": [c.name for c in found],
            "title": None,
            "axis": {"labelAngle": -35},
        },
        "y": {"field": "source", "type": "nominal", "sort": sorted(mean, key=lambda s: mean[s]), "title": None},
    }
    return Chart(
        "Rank of each single source by mean perplexity, 1 is best",
        "Means of twelve sets of 32 windows over eight held-out texts.",
        {
            "data": {"values": rows},
            "width": 480,
            "height": 260,
            "layer": [
                {
                    "mark": "rect",
                    "encoding": {
                        **place,
                        "color": {
                            "field": "rank",
                            "type": "quantitative",
                            "legend": None,
                            "scale": {"domain": [1, 8], "range": ["#00568A", "#F4F4F2"]},
                        },
                    },
                },
                {
                    "mark": {"type": "text", "fontSize": 12},
                    "encoding": {
                        **place,
                        "text": {"field": "rank"},
                        "color": {"condition": {"test": "datum.rank < 3", "value": "#ffffff"}, "value": "#222222"},
                    },
                },
            ],
        },
    )

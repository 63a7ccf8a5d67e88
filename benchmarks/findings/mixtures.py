"""Is a uniform mixture of the sources better than the best single one?"""

from __future__ import annotations

import numpy as np

from analysis.page.chart import Chart
from benchmarks.findings.evidence import UNIFORM, Cell, cells, in_percent, percent, sure
from benchmarks.findings.page import Page


def page() -> Page:
    found = cells()
    gaps = [cell.gap(UNIFORM, cell.singles[0]) for cell in found]
    better, worse = (sum(sure(gap) == sign for gap in gaps) for sign in (-1, 1))
    worst = {cell.name: _worst(cell) for cell in found}
    safest = sum(min(worst[cell.name], key=lambda s: worst[cell.name][s][0]) == UNIFORM for cell in found)
    rows, regrets = [], []
    for cell, gap in zip(found, gaps, strict=True):
        runner = min((s for s in worst[cell.name] if s != UNIFORM), key=lambda s: worst[cell.name][s][0])
        mine, other = worst[cell.name][UNIFORM], worst[cell.name][runner]
        rows.append([cell.name, cell.singles[0], in_percent(gap)])
        regrets.append([cell.name, f"+{mine[0]:.0f} % ({mine[1]})", f"{runner}: +{other[0]:.0f} % ({other[1]})"])
    return Page(
        name="mixtures",
        question="Is a uniform mixture of all sources better than the best single source?",
        title=(
            f"A uniform mixture of eight sources beats the best single one in {better} of {len(found)} models and methods "
            f"and loses in {worse}"
        ),
        answer=(
            "At the same number of windows, four of each source instead of 32 of one. The best single source was picked by "
            "the very draws that it is judged by, which favours it; the mixture was not picked. On the text that it serves "
            f"worst the mixture is the safest choice in {safest} of {len(found)}: nobody who does not know which text the "
            "model will meet does better with a single source."
        ),
        chart=_chart(found),
        table=(["method and model", "best single source", "uniform mixture against it, perplexity"], rows),
        more={
            "The text that a set serves worst": (
                [
                    "method and model",
                    "uniform mixture, against the best source of that text",
                    "the single source whose worst text is least bad",
                ],
                regrets,
            )
        },
        published=(
            "The published studies compare single corpora; which mixture to use is named as an open question. Corpora such as "
            "C4 or RedPajama are mixtures themselves, which may be why they do well."
        ),
        limits=(
            "One mixture, with equal weights; searched weights were not tried. A user with one known text does better with "
            "text of its own domain ([own domain](own_domain.md))."
        ),
    )


def _worst(cell: Cell) -> dict[str, tuple[float, str]]:
    """source -> (per cent above the best source of the text that it serves worst, that text)."""
    means = {source: losses.mean(axis=0) for source, losses in cell.losses.items()}
    best = np.min(list(means.values()), axis=0)
    found = {}
    for source, mean in means.items():
        regret = mean - best
        found[source] = percent(float(regret.max())), cell.texts[int(regret.argmax())]
    return found


def _chart(found: list[Cell]) -> Chart:
    rows = [
        {
            "cell": cell.name,
            "source": source,
            "regret": round(regret, 2),
            "text": text,
            "kind": "uniform mixture" if source == UNIFORM else "single source",
        }
        for cell in found
        for source, (regret, text) in _worst(cell).items()
    ]
    return Chart(
        "Perplexity on the text that a source serves worst, % above the best source of that text",
        "A mark a source, the mean of twelve sets. Left is safe.",
        {
            "data": {"values": rows},
            "width": 520,
            "height": 260,
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.8},
            "encoding": {
                "x": {
                    "field": "regret",
                    "type": "quantitative",
                    "title": "% above the best source, log scale",
                    "scale": {"type": "symlog", "constant": 5},
                    "axis": {"values": [0, 5, 10, 20, 50, 100, 200, 500]},
                },
                "y": {"field": "cell", "type": "nominal", "sort": [cell.name for cell in found], "title": None},
                "color": {
                    "field": "kind",
                    "type": "nominal",
                    "title": None,
                    "scale": {"domain": ["single source", "uniform mixture"], "range": ["#0072B2", "#D55E00"]},
                    "legend": {"orient": "bottom"},
                },
                "shape": {"field": "kind", "type": "nominal", "title": None},
                "tooltip": [{"field": "source"}, {"field": "text"}, {"field": "regret"}],
            },
        },
    )

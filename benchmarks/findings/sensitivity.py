"""Which measure tells sources apart from the luck of the draw?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from analysis.compare import holm
from analysis.estimates.welch import contrast
from analysis.page.chart import Chart
from benchmarks.findings.evidence import Cell, cells
from benchmarks.findings.page import Page

MEASURES: Mapping[str, Callable[[Cell, str], np.ndarray]] = {
    "log perplexity": lambda cell, source: cell.mean(source),
    "divergence": lambda cell, source: cell.divergence[source],
    "log-likelihood of answers": lambda cell, source: cell.tasks[source],
    "accuracy": lambda cell, source: cell.accuracy[source],
}
LEVEL = 0.05


def share_of_sources(groups: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """(share, low, high) of the variance of one draw that is the source's: the intraclass correlation of one-way groups
    of equal sizes with its exact 95 % interval for normal draws of one variance (Searle 1971, section 9.9)."""
    count, size = len(groups), len(groups[0])
    between = size * float(np.var([group.mean() for group in groups], ddof=1))
    within = float(np.mean([group.var(ddof=1) for group in groups]))
    freedom = (count - 1, count * (size - 1))
    low, high = (stats.f.ppf(q, *freedom) for q in (0.975, 0.025))
    ratios = [between / within / divisor for divisor in (1.0, low, high)]
    found = [max(0.0, (ratio - 1) / (ratio + size - 1)) for ratio in ratios]
    return found[0], found[1], found[2]


def told_apart(groups: Sequence[np.ndarray]) -> int:
    """Pairs of groups whose means differ: Welch's test, Holm's correction over the pairs."""
    found = [contrast([a, b], [1, -1]).p for a, b in combinations(groups, 2)]
    return sum(p < LEVEL for p in holm([1.0 if p is None else p for p in found]))


def page() -> Page:
    found = cells()
    rows, shares, pairs = [], {name: [] for name in MEASURES}, dict.fromkeys(MEASURES, 0)  # type: ignore[var-annotated]
    points = []
    for cell in found:
        line = [cell.name]
        for name, draws in MEASURES.items():
            groups = [draws(cell, source) for source in cell.singles]
            share, low, high = share_of_sources(groups)
            told = told_apart(groups)
            shares[name].append(share)
            pairs[name] += told
            line.append(f"{share:.2f} ({low:.2f} to {high:.2f}), {told}")
            points.append({"cell": cell.name, "measure": name, "share": share, "low": low, "high": high})
        rows.append(line)
    of_each = sum(1 for _ in combinations(found[0].singles, 2))
    total = of_each * len(found)
    first = max(pairs, key=lambda name: pairs[name])
    last = min(pairs, key=lambda name: pairs[name])
    medians = {name: float(np.median(values)) for name, values in shares.items()}
    counts = ", ".join(f"{name} {pairs[name]} (median share {medians[name]:.2f})" for name in MEASURES)
    return Page(
        name="sensitivity",
        question="Which measure tells sources of calibration text apart?",
        title=(
            f"{first[0].upper()}{first[1:]} tells {pairs[first]} of {total} pairs of sources apart, {last} {pairs[last]}, "
            "from the same trials"
        ),
        answer=(
            f"Of all pairs of single sources in {len(found)} models and methods, with twelve sets of each: {counts}. The "
            "share is that part of the variance of one draw's result which is the source's; the rest is luck of the draw. "
            "A study that judges by accuracy of a few hundred questions needs many more sets, or questions, for the same "
            "answer; the log-likelihood of the right answer asks the same questions and tells more. Telling sources apart "
            "is not yet telling the right thing: where perplexity and tasks disagree stands in [its own page](disagreement.md)."
        ),
        chart=_chart(points, found),
        table=(
            [
                "method and model",
                *(f"{name}: share (95 % interval), pairs of {of_each}" for name in MEASURES),
            ],
            rows,
        ),
        published=(
            "Khanal & Capone (arXiv 2409.11233) argue for Jensen-Shannon divergence beside perplexity as a measure of "
            "compression, by their abstract; Williams & Aletras (arXiv 2311.09755) report accuracies of tasks. We know of "
            "no published comparison of measures by how well they tell calibration sources apart."
        ),
        limits=(
            "Perplexity and divergence are of eight held-out texts of 8 windows, accuracy and log-likelihood of 460 "
            "questions: more text or questions raise each share. The texts are of the sources' domains, which is where "
            "sources differ most. The interval of a share takes the variance of all sources as one; Welch's test of the "
            "pairs does not."
        ),
    )


def _chart(points: list[dict[str, object]], found: list[Cell]) -> Chart:
    x = {"field": "share", "type": "quantitative", "title": "share of a draw's variance that is the source's"}
    y = {"field": "measure", "type": "nominal", "sort": list(MEASURES), "title": None}
    return Chart(
        "How much of one draw's result is the source's",
        "Intraclass correlation of eight sources, twelve sets each, with 95 % intervals.",
        {
            "data": {"values": points},
            "facet": {
                "field": "cell",
                "type": "nominal",
                "sort": [cell.name for cell in found],
                "title": None,
                "header": {"labelLimit": 220, "labelFontSize": 10},
            },
            "columns": 2,
            "spec": {
                "width": 230,
                "height": 80,
                "layer": [
                    {
                        "mark": {"type": "rule"},
                        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
                    },
                    {
                        "mark": {"type": "point", "filled": True, "size": 45},
                        "encoding": {"y": y, "x": {**x, "scale": {"domain": [0, 1]}}},
                    },
                ],
            },
        },
    )

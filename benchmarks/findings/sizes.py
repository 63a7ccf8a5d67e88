"""How many windows are enough?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from analysis.page.chart import Chart
from benchmarks.findings.arms import (
    DOMAINS,
    SMOLLM2,
    Arm,
    Arms,
    Contrast,
    contrasts,
    origin,
    read,
    table,
)
from benchmarks.findings.evidence import in_percent, listed, percent
from benchmarks.findings.page import Page

STUDY = "chosen_smollm2"
SOURCES = ("uniform", "web_docs")
ENOUGH = 1.0  # per cent of perplexity that the next larger size may still gain


def page() -> Page:
    cells = read(STUDY)
    found: list[Contrast] = []
    told, points = [], []
    for cell in cells:
        for source in SOURCES:
            arms = _nested(cell, source)
            steps = {
                f"{source}, {b.nsamples} against {a.nsamples}": cell.gap(b, a, DOMAINS, paired=True)
                for a, b in pairwise(arms)
            }
            found += contrasts(cell.method, steps)
            last = list(steps.values())[-1]
            told.append(f"{cell.method} on {source} {in_percent(last)} from {arms[-2].nsamples} to {arms[-1].nsamples}")
            points += _points(cell, arms)
    worst = max(percent(-c.gap.value) for c in found if c.arm.startswith("uniform, 256") or "256 against" in c.arm)
    return Page(
        name="sizes",
        question="How many windows are enough?",
        title=(
            f"Doubling a mixture from 128 to 256 windows of 512 tokens changes perplexity by {worst:.1f} % at most"
            if worst < ENOUGH
            else f"A mixture still gains up to {worst:.1f} % of perplexity from 128 to 256 windows of 512 tokens"
        ),
        answer=(
            "Nested sets: set k of a size begins with set k of every smaller one, so steps are compared set by set. The last "
            f"steps: {listed(told)}."
        ),
        chart=_chart(points, [cell.method for cell in cells]),
        table=table(found, "step"),
        published=(
            "Williams & Aletras (arXiv 2311.09755), LLaMA-7B on C4, by notes on the paper: from 1 to 128 sets of 2,048 tokens "
            "perplexity falls from 6.13 to 5.90 for GPTQ at 4 bits, 55 to 11 for SparseGPT 2:4, and stays flat above 128."
        ),
        limits=(
            "One small model whose widest layer has 1,536 inputs: what counts is tokens against inputs of a layer, and a "
            "larger model needs more windows. 256 windows of 512 tokens are 131,072, half of the published 262,144. "
            "Six sets a size; sizes above 256 were not run."
        ),
        origin=origin(STUDY, SMOLLM2),
    )


def _nested(cell: Arms, source: str) -> list[Arm]:
    return sorted((arm for arm in cell.losses if arm.source == source), key=lambda arm: arm.nsamples)


def _points(cell: Arms, arms: Sequence[Arm]) -> list[dict[str, object]]:
    return [
        {
            "method": cell.method,
            "source": arm.source,
            "windows": arm.nsamples,
            "perplexity": percent(cell.gap(arm, arms[-1], DOMAINS).value),
            "set": number,
            "of_set": percent(float(loss) - float(cell.mean(arms[-1], DOMAINS).mean())),
        }
        for arm in arms
        for number, loss in enumerate(cell.mean(arm, DOMAINS))
    ]


def _chart(points: list[dict[str, object]], methods: Sequence[str]) -> Chart:
    x = {"field": "windows", "type": "quantitative", "title": "windows", "scale": {"type": "log", "base": 2}}
    color = {"field": "source", "type": "nominal", "title": None, "legend": {"orient": "bottom"}}
    return Chart(
        "Perplexity against the source's largest size, %",
        "Mean over eight held-out texts; a line through the means of six sets, a point a set.",
        {
            "data": {"values": points},
            "facet": {"field": "method", "type": "nominal", "sort": list(methods), "title": None},
            "columns": 2,
            "spec": {
                "width": 240,
                "height": 200,
                "layer": [
                    {
                        "mark": {"type": "point", "filled": True, "size": 18, "opacity": 0.5},
                        "encoding": {
                            "x": x,
                            "y": {"field": "of_set", "type": "quantitative", "title": "%"},
                            "color": color,
                        },
                    },
                    {
                        "mark": {"type": "line"},
                        "encoding": {"x": x, "y": {"field": "perplexity", "type": "quantitative"}, "color": color},
                    },
                ],
            },
            "resolve": {"scale": {"y": "independent"}},
        },
    )

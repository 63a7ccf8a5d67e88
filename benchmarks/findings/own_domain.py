"""Is text of the target's own domain the best calibration text for it?"""

from __future__ import annotations

import numpy as np

from analysis.estimates.welch import Interval, contrast
from analysis.page.chart import Chart
from benchmarks.findings.evidence import UNIFORM, Cell, cells, in_percent, percent, sure
from benchmarks.findings.page import Page


def page() -> Page:
    found = cells()
    others = [_own_against(cell, list(cell.singles)) for cell in found]
    mixture = [_own_against(cell, [UNIFORM]) for cell in found]
    first = [_firsts(cell) for cell in found]
    better = sum(sure(gap) == -1 for gap in others)
    beaten = sum(sure(gap) == -1 for gap in mixture)
    rows = [
        [cell.name, in_percent(a), in_percent(b), f"{count} of {len(cell.texts)}"]
        for cell, a, b, count in zip(found, others, mixture, first, strict=True)
    ]
    return Page(
        name="own_domain",
        question="If I know the text that my model will meet, should I calibrate on text of that domain?",
        title=(
            f"Text of the target's own domain is better than the other sources in {better} of {len(found)} models and "
            f"methods, and better than the mixture in {beaten}"
        ),
        answer=(
            f"The own domain is the best of all nine arms for {sum(first)} of {sum(len(c.texts) for c in found)} texts. What "
            "it gains follows what the method does to the weights: much for 2:4 sparsity, little for AWQ, which looks at "
            "the size of activations alone."
        ),
        chart=_chart(found),
        table=(
            [
                "method and model",
                "own domain against the mean of the other seven sources",
                "own domain against the uniform mixture",
                "texts whose own domain is best of nine",
            ],
            rows,
        ),
        published=(
            "Williams & Aletras name matched and mismatched domains as untested. Khanal & Capone (arXiv 2409.11233, abstract) "
            "find task-specific calibration better than general text for pruned LLaMA-2-7B on downstream tasks; that is the "
            "same direction, measured on tasks instead of text."
        ),
        limits=(
            "Perplexity of held-out text from the same collections as the calibration text (disjoint documents); the own "
            "text of a *task* is asked on [another page](own_task.md)."
        ),
    )


def _own_against(cell: Cell, arms: list[str]) -> Interval:
    """Mean over texts of (own source minus the mean of `arms` without it), log perplexity."""
    texts = [text for text in cell.texts if text in cell.losses]
    sums: dict[str, np.ndarray] = {source: np.zeros(losses.shape[0]) for source, losses in cell.losses.items()}
    for text in texts:
        column = cell.texts.index(text)
        rest = [arm for arm in arms if arm != text]
        sums[text] = sums[text] + cell.losses[text][:, column] / len(texts)
        for arm in rest:
            sums[arm] = sums[arm] - cell.losses[arm][:, column] / len(rest) / len(texts)
    return contrast(list(sums.values()), [1.0] * len(sums))


def _firsts(cell: Cell) -> int:
    means = {source: losses.mean(axis=0) for source, losses in cell.losses.items()}
    return sum(min(means, key=lambda s: means[s][i]) == text for i, text in enumerate(cell.texts))


def _chart(found: list[Cell]) -> Chart:
    rows = []
    for cell in found:
        means = {source: losses.mean(axis=0) for source, losses in cell.losses.items()}
        for index, text in enumerate(cell.texts):
            others = np.mean([mean[index] for s, mean in means.items() if s not in (text, UNIFORM)])
            gain = percent(float(means[text][index] - others))
            rows.append({"cell": cell.name, "text": text, "gain": round(gain, 2)})
    return Chart(
        "Perplexity after calibration on the own domain, % of the mean of the other seven sources",
        "A mark a held-out text, the mean of twelve sets. Left of zero the own domain is better.",
        {
            "data": {"values": rows},
            "width": 520,
            "height": 260,
            "encoding": {
                "y": {"field": "cell", "type": "nominal", "sort": [cell.name for cell in found], "title": None}
            },
            "layer": [
                {
                    "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.8, "color": "#0072B2"},
                    "encoding": {
                        "x": {"field": "gain", "type": "quantitative", "title": "perplexity against other sources, %"},
                        "tooltip": [{"field": "text"}, {"field": "gain"}],
                    },
                },
                {"mark": {"type": "rule", "color": "#767676"}, "encoding": {"x": {"datum": 0}}},
            ],
        },
    )

"""How many windows are enough?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.estimates.welch import Interval
from analysis.page.chart import Chart
from benchmarks.findings.arms import DOMAINS, Arm, Arms, Contrast, contrasts, origin, read, smollm2, table
from benchmarks.findings.evidence import in_percent, listed
from benchmarks.findings.page import Page

STUDY = "chosen_smollm2"
MIXTURE, SINGLE = "uniform", "web_docs"
TOKENS = 512  # of a window


@dataclass(frozen=True)
class Sizes:
    """One source under one method. `arms`: small first; `against_largest`: of each but the last; `steps`: of each but the
    first against the one before it. Positive: the former is worse."""

    cell: Arms
    source: str
    arms: Sequence[Arm]
    against_largest: Sequence[Contrast]
    steps: Sequence[Contrast]

    @property
    def largest(self) -> int:
        return self.arms[-1].nsamples

    @property
    def alike(self) -> tuple[int, Interval] | None:
        """The first size from which on none is told apart from the largest, and its gap; None where all are."""
        found = None
        for arm, contrast in reversed(list(zip(self.arms, self.against_largest, strict=False))):
            if contrast.verdict:
                break
            found = arm.nsamples, contrast.gap
        return found


def page() -> Page:
    cells = read(STUDY)
    mixed, single = ([sizes(cell, source) for cell in cells] for source in (MIXTURE, SINGLE))
    found = [*mixed, *single]
    alike = sorted({s.alike[0] if s.alike else s.largest for s in mixed})
    gaps = listed([f"{in_percent(s.alike[1])} with {s.cell.method}" for s in mixed if s.alike])
    steps = [step for s in found for step in s.steps]
    return Page(
        name="sizes",
        question="How many windows are enough?",
        title=(
            f"{alike[-1]} windows of {TOKENS} tokens from a mixture are not told apart from {mixed[0].largest}; one source "
            f"alone still gains at {single[0].largest}"
            if all(s.alike for s in mixed) and not any(s.alike for s in single)
            else f"Of {len(found)} sources and methods {sum(s.alike is None for s in found)} gain to the largest size"
        ),
        answer=(
            "Nested sets: set k of a size begins with set k of every smaller one, so sizes are compared set by set, with "
            f"Holm's correction over the sizes of a source and method. What is not told apart may still differ: {gaps} of "
            f"perplexity. A window has {TOKENS} tokens; the widest layer of the model has 1,536 inputs, so "
            f"64 windows are {64 * TOKENS / 1536:.0f} tokens for each."
        ),
        chart=_chart(cells),
        table=(
            [
                "method, source",
                "largest size",
                "first size not told apart from it",
                "perplexity against the largest",
                "last step told apart",
            ],
            [_row(s) for s in found],
        ),
        more={"Step by step": table(steps, "windows")},
        published=(
            "Williams & Aletras (arXiv 2311.09755), LLaMA-7B on C4, by notes on the paper: from 1 to 128 sets of 2,048 tokens "
            "perplexity falls from 6.13 to 5.90 for GPTQ at 4 bits, 55 to 11 for SparseGPT 2:4, and stays flat above 128: that "
            "is at 24 tokens for each of 11,008 inputs."
        ),
        limits=(
            "One small model. If tokens for each input of a layer are what counts, a larger model needs more windows in "
            "proportion to its width; two points, this one and the published one, do not show that. Six sets a size; a "
            "mixture above 256 windows and one source above 64 were not run."
        ),
        origin=origin(STUDY, smollm2()),
    )


def sizes(cell: Arms, source: str) -> Sizes:
    """Each size of a source against the one before it and against the largest."""
    arms = sorted((a for a in cell.losses if a.source == source and not a.select), key=lambda arm: arm.nsamples)
    largest = {str(arm.nsamples): cell.gap(arm, arms[-1], DOMAINS, paired=True) for arm in arms[:-1]}
    steps = {
        f"{source}: {more.nsamples} instead of {less.nsamples}": cell.gap(more, less, DOMAINS, paired=True)
        for less, more in pairwise(arms)
    }
    return Sizes(cell, source, arms, contrasts(cell.method, largest), contrasts(cell.method, steps))


def _row(found: Sizes) -> list[str]:
    size, gap = (str(found.alike[0]), in_percent(found.alike[1])) if found.alike else ("none", "")
    told = [step.arm.partition(": ")[2] for step in found.steps if step.verdict]
    return [f"{found.cell.method}, {found.source}", str(found.largest), size, gap, told[-1] if told else "none"]


def _chart(cells: Sequence[Arms]) -> Chart:
    rows = []
    for cell in cells:
        every = [sizes(cell, source).arms for source in (MIXTURE, SINGLE)]
        base = float(cell.mean(every[0][-1], DOMAINS).mean())
        for arm in (arm for arms in every for arm in arms):
            losses = cell.mean(arm, DOMAINS) - base
            row = {"method": cell.method, "source": arm.source, "windows": arm.nsamples}
            rows.append({**row, "what": "mean", "ratio": math.exp(float(losses.mean()))})
            rows += [{**row, "what": "set", "ratio": math.exp(float(loss))} for loss in losses]
    x = {
        "field": "windows",
        "type": "quantitative",
        "title": "windows",
        "scale": {"type": "log", "base": 2},
        "axis": {"values": sorted({row["windows"] for row in rows}), "labelOverlap": False},
    }
    y = {
        "field": "ratio",
        "type": "quantitative",
        "title": "perplexity, times the largest mixture's",
        "scale": {"type": "log", "nice": False, "padding": 8},
        "axis": {"values": [1, 1.2, 1.5, 2, 3, 5]},
    }
    color = {"field": "source", "type": "nominal", "title": None, "legend": {"orient": "bottom"}}
    encoding = {"x": x, "y": y, "color": color}
    return Chart(
        f"Perplexity by number of windows, against the largest sets of {MIXTURE}",
        "Mean over eight held-out texts; a point a set, the line through the means of six.",
        {
            "data": {"values": rows},
            "facet": {"field": "method", "type": "nominal", "sort": [c.method for c in cells], "title": None},
            "columns": 2,
            "spec": {
                "width": 270,
                "height": 230,
                "layer": [
                    {
                        "transform": [{"filter": "datum.what == 'set'"}],
                        "mark": {"type": "point", "filled": True, "size": 18, "opacity": 0.5},
                        "encoding": encoding,
                    },
                    {"transform": [{"filter": "datum.what == 'mean'"}], "mark": "line", "encoding": encoding},
                ],
            },
        },
    )

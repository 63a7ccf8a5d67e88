"""Do perplexity and tasks order the sources alike?"""

from __future__ import annotations

import numpy as np
from scipy import stats

from analysis.estimates.welch import contrast
from analysis.page.chart import Chart
from benchmarks.findings.evidence import Cell, cells, percent, signed, sure
from benchmarks.findings.page import Page


def page() -> Page:
    found = cells()
    rows, regrets = [], []
    for cell in found:
        arms = list(cell.losses)
        perplexity = {s: float(cell.losses[s].mean()) for s in arms}
        tasks = {s: float(cell.tasks[s].mean()) for s in arms}
        rho = -stats.spearmanr([perplexity[s] for s in arms], [tasks[s] for s in arms]).statistic
        by_text, by_task = min(arms, key=lambda s: perplexity[s]), max(arms, key=lambda s: tasks[s])
        regret = None if by_text == by_task else contrast([cell.tasks[by_task], cell.tasks[by_text]], [1, -1])
        spread = max(tasks.values()) - min(tasks.values())
        regrets.append((cell, regret, spread))
        told = (
            ""
            if regret is None
            else f"{regret.value:.2f} ({signed(regret.low or 0, 2)} to {signed(regret.high or 0, 2)})"
        )
        rows.append([cell.name, f"{rho:.2f}", by_text, by_task, told or "0", f"{spread:.2f}"])
    wrong = sum(regret is not None and sure(regret) == 1 for _, regret, _ in regrets)
    agree = sum(regret is None for _, regret, _ in regrets)
    shares = [0.0 if r is None else r.value / spread for _, r, spread in regrets]
    return Page(
        name="disagreement",
        question="Does the source with the best perplexity also serve the tasks best?",
        title=(
            f"Perplexity and tasks name the same best source in {agree} of {len(found)} models and methods; choosing by "
            f"perplexity costs the tasks for certain in {wrong}"
        ),
        answer=(
            "Tasks are judged by the log-likelihood of the right answer, since accuracy of 460 questions cannot order the "
            f"sources (split-half reliability .68 against .97 on SmolLM2). Choosing by perplexity gives up {100 * np.median(shares):.0f} % "
            f"(median) to {100 * max(shares):.0f} % of what the choice of source is worth on tasks: a fair guide where nothing "
            "better is known, no substitute for the task."
        ),
        chart=_chart(found),
        table=(
            [
                "method and model",
                "Spearman's ρ over nine arms",
                "best by perplexity",
                "best by tasks",
                "what the former costs on tasks, nats",
                "best to worst on tasks, nats",
            ],
            rows,
        ),
        published=(
            "Williams & Aletras show a source with stable perplexity and unstable tasks (Vicuna-7B, SparseGPT, CNN-DailyMail: "
            "12.72 ± 0.18 and BoolQ 57 to 72 %), by notes on the paper. Khanal & Capone (abstract) find that perplexity hides "
            "what pruning does to downstream tasks."
        ),
        limits=(
            "The best by tasks was picked by the draws that judge it, so the cost is overstated; the tasks are 23 small bundled "
            "ones. In an earlier study of SmolLM2 with other tasks, books led on tasks and trailed on text."
        ),
    )


def _chart(found: list[Cell]) -> Chart:
    rows = [
        {
            "cell": cell.name,
            "source": source,
            "perplexity": round(percent(float(losses.mean()) - centre), 2),
            "tasks": round(float(cell.tasks[source].mean()), 3),
        }
        for cell in found
        for centre in [float(np.mean([cell.losses[s].mean() for s in cell.singles]))]
        for source, losses in cell.losses.items()
    ]
    return Chart(
        "Tasks against perplexity, a mark a source",
        "Means of twelve sets. Top left is best on both; perplexity in % of the mean of single sources.",
        {
            "data": {"values": rows},
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
                "height": 130,
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {
                    "x": {"field": "perplexity", "type": "quantitative", "title": "perplexity, %"},
                    "y": {
                        "field": "tasks",
                        "type": "quantitative",
                        "title": "log-likelihood, nats",
                        "scale": {"zero": False},
                    },
                    "color": {"field": "source", "type": "nominal", "title": None, "legend": {"orient": "bottom"}},
                    "tooltip": [{"field": "source"}, {"field": "perplexity"}, {"field": "tasks"}],
                },
            },
            "resolve": {"scale": {"x": "independent", "y": "independent"}},
        },
    )

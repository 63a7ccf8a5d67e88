"""Do cheap descriptors of a calibration set say which source is best for a text?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.page.chart import Chart
from benchmarks.findings.arms import DOMAINS, Arms, origin, read
from benchmarks.findings.bits import ABOUT, STUDY
from benchmarks.findings.evidence import DATA, percent
from benchmarks.findings.page import Page

DRAWS = 2_000
METHODS = ("GPTQ 3-bit g32", "SparseGPT 2:4")


@dataclass(frozen=True)
class Predictor:
    """One descriptor under one method. `rho`: mean over texts of Spearman's ρ over sources, with its interval over sets;
    `cost`: per cent of perplexity that the source of the smallest value costs against the best, mean over texts."""

    name: str
    method: str
    rho: float
    low: float
    high: float
    cost: float
    random: float
    milliseconds: float


def page() -> Page:
    found = [p for cell in read(STUDY) if cell.method in METHODS for p in _predictors(cell)]
    names = list(dict.fromkeys(p.name for p in found))
    names.sort(key=lambda name: float(np.mean([p.cost for p in found if p.name == name])))
    best = names[0]
    chosen = [p for p in found if p.name == best]
    rows = []
    for name in names:
        of = {p.method: p for p in found if p.name == name}
        row = [name]
        for method in METHODS:
            row += [f"{of[method].rho:.2f} ({of[method].low:.2f} to {of[method].high:.2f})".replace("-", "−")]
            row += [f"{of[method].cost:.1f}"]
        rows.append([*row, f"{of[METHODS[0]].milliseconds:.1f}"])
    random = {p.method: p.random for p in chosen}
    costs = ", ".join(f"{p.cost:.1f} % under {p.method} (a random source {p.random:.1f} %)" for p in chosen)
    return Page(
        name="predictors",
        question="Do cheap descriptors say which source is best for a text, without compressing anything?",
        title=f"Choosing each text's source by the least {best.replace('_', ' ')} costs {costs} of perplexity against the best source",
        answer=(
            "Descriptors that compare a set with windows of the text that is to be kept: divergences of token counts, and two "
            "that ask the dense model. For each of eight texts the eight sources are ordered by the mean of the descriptor over "
            "sets, least first. ρ: agreement of that order with the order by perplexity after compression, mean over texts. "
            "Cost: what the first of the order costs against the best, mean over texts; a source taken at random costs "
            + ", ".join(f"{value:.1f} % ({method})" for method, value in random.items())
            + "."
        ),
        chart=_chart(found, names),
        table=(
            [
                "descriptor",
                *(f"{method}: {what}" for method in METHODS for what in ("ρ", "cost, %")),
                "ms a set and text",
            ],
            rows,
        ),
        published=(
            "COLA (arXiv 2510.10618), by its abstract, finds representativeness and diversity in activation space to decide; "
            "ZipCal (arXiv 2603.16105), by its abstract, chooses by words alone and does as well as choosing by the model's perplexity."
        ),
        limits=(
            "The texts are of the sources' own domains, so a descriptor that recognizes the domain has won: nothing is said on "
            "texts of no candidate's domain. The descriptors saw the very windows that judge (their tokens, not the outcome). "
            "One model of 17 million parameters; milliseconds are of the GPU machine, and the first of two that share a pass over "
            "the model holds it. Intervals: 2,000 draws of sets within sources, descriptors and outcomes together."
        ),
        origin=origin(STUDY, ABOUT),
    )


def _predictors(cell: Arms) -> list[Predictor]:
    frame = pl.read_parquet(DATA / f"{STUDY}_descriptors.parquet").filter(pl.col("target").is_in(DOMAINS))
    sources = sorted(arm.source for arm in cell.losses)
    columns = [cell.texts.index(text) for text in DOMAINS]
    losses = np.stack([cell.losses[arm][:, columns] for arm in sorted(cell.losses)])  # [sources, sets, texts]
    found = []
    for (name,), part in frame.sort("descriptor").group_by("descriptor", maintain_order=True):
        values = np.stack([_matrix(part.filter(pl.col("source") == source)) for source in sources])
        rho, cost, random = _agreement(values.mean(axis=1), losses.mean(axis=1))
        rng = np.random.default_rng(0)
        again = []
        for _ in range(DRAWS):
            chosen = rng.integers(0, losses.shape[1], losses.shape[:2])[..., None]
            drawn = (np.take_along_axis(array, chosen, axis=1).mean(axis=1) for array in (values, losses))
            again.append(_rho(*drawn))
        low, high = np.percentile(again, [2.5, 97.5])
        seconds = float(part["seconds"].to_numpy().mean())
        found.append(Predictor(str(name), cell.method, rho, float(low), float(high), cost, random, 1e3 * seconds))
    return found


def _matrix(rows: pl.DataFrame) -> np.ndarray:
    """[sets, texts]"""
    wide = rows.pivot(on="target", on_columns=list(DOMAINS), index="set", values="value").sort("set")
    return wide.select(DOMAINS).to_numpy()


def _rho(values: np.ndarray, losses: np.ndarray) -> float:
    """Mean over texts of Spearman's ρ over sources; both [sources, texts]."""
    a, b = (stats.rankdata(array, axis=0) for array in (values, losses))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    spread = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(np.mean(np.divide((a * b).sum(axis=0), spread, out=np.zeros_like(spread), where=spread > 0)))


def _agreement(values: np.ndarray, losses: np.ndarray) -> tuple[float, float, float]:
    """(ρ, cost in per cent of the source of least value, of a random source)."""
    first = losses[values.argmin(axis=0), np.arange(losses.shape[1])]
    gaps, random = first - losses.min(axis=0), losses.mean(axis=0) - losses.min(axis=0)
    return _rho(values, losses), percent(float(gaps.mean())), percent(float(random.mean()))


def _chart(found: list[Predictor], names: list[str]) -> Chart:
    rows = [{"descriptor": p.name, "method": p.method, "rho": p.rho, "low": p.low, "high": p.high} for p in found]
    y = {"field": "descriptor", "type": "nominal", "sort": names, "title": None}
    x = {"type": "quantitative", "title": "Spearman's ρ with perplexity after compression"}
    return Chart(
        "Does the order by descriptor agree with the order by outcome?",
        "Eight sources, mean over eight texts, 95 % intervals over sets. 1 is the same order.",
        {
            "data": {"values": rows},
            "facet": {"field": "method", "type": "nominal", "sort": list(METHODS), "title": None},
            "columns": 2,
            "spec": {
                "width": 260,
                "height": {"step": 24},
                "layer": [
                    {"mark": {"type": "rule", "color": "#767676"}, "encoding": {"x": {"datum": 0}}},
                    {
                        "mark": {"type": "rule", "strokeWidth": 1.5},
                        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
                    },
                    {
                        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
                        "encoding": {"y": y, "x": {**x, "field": "rho"}},
                    },
                ],
            },
        },
    )

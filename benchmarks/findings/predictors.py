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
    """One descriptor under one method, over the candidates that are left: mean over texts of Spearman's ρ over sources,
    with its interval over sets; `cost`: what the source of the smallest value costs against the best one, and `random` a
    source taken at random, in per cent of perplexity, mean over texts."""

    name: str
    method: str
    rho: float
    low: float
    high: float
    cost: float
    random: float
    milliseconds: float

    @property
    def told(self) -> list[str]:
        return [f"{self.rho:.2f} ({self.low:.2f} to {self.high:.2f})".replace("-", "−"), f"{self.cost:.1f}"]


def page() -> Page:
    cells = [cell for cell in read(STUDY) if cell.method in METHODS]
    every, others = ([p for cell in cells for p in _predictors(cell, own=own)] for own in (True, False))
    names = list(dict.fromkeys(p.name for p in others))
    names.sort(key=lambda name: float(np.mean([p.cost for p in others if p.name == name])))
    recognized = sum(p.cost == 0 for p in every)
    least, most = min(p.cost for p in others), max(p.cost for p in others)
    random = {p.method: p.random for p in others}
    return Page(
        name="predictors",
        question="Do cheap descriptors say which source is best for a text, without compressing anything?",
        title=(
            f"All of {len(names)} cheap descriptors find a text's own domain; among others the source that they name costs "
            f"{least:.1f} to {most:.1f} % of perplexity, a random one {_random(random)}"
            if recognized == len(every)
            else f"A descriptor finds the best of eight sources in {recognized} of {len(every)} methods and descriptors"
        ),
        answer=(
            "Descriptors that compare a set with windows of the text that is to be kept: divergences of token counts, and two "
            "that ask the dense model. For each of eight texts the sources are ordered by the mean of the descriptor over sets, "
            "least first. ρ: agreement of that order with the order by perplexity after compression, mean over texts. Cost: what "
            "the first of the order costs against the best, mean over texts. Among all eight sources the own domain of a text is "
            "the best, and recognizing it is enough; so the figure and the first table leave it out, as it is where nobody has "
            "text of the domain."
        ),
        chart=_chart(others, names),
        table=_table(others, names, "descriptor; seven other domains"),
        more={"The own domain among the candidates": _table(every, names, "descriptor; eight domains")},
        published=(
            "COLA (arXiv 2510.10618), by its abstract, finds representativeness and diversity in activation space to decide; "
            "ZipCal (arXiv 2603.16105), by its abstract, chooses by words alone and does as well as choosing by the model's perplexity."
        ),
        limits=(
            "The descriptors saw the very windows that judge (their tokens, not the outcome). One model of 17 million "
            "parameters, trained on these domains; eight texts and eight sources, and the intervals are over sets alone: 2,000 "
            "draws of sets within sources, descriptors and outcomes together. Milliseconds are those of the machine with the GPUs; "
            "of two descriptors that share a pass over the model the first has it."
        ),
        origin=origin(STUDY, ABOUT),
    )


def _random(costs: dict[str, float]) -> str:
    return " and ".join(f"{cost:.0f} % ({method.split()[0]})" for method, cost in costs.items())


def _table(found: list[Predictor], names: list[str], what: str) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in names:
        of = {p.method: p for p in found if p.name == name}
        told = [part for method in METHODS for part in of[method].told]
        rows.append([name, *told, f"{of[METHODS[0]].milliseconds:.1f}"])
    random = {p.method: p.random for p in found}
    rows.append(["a source at random", *(part for method in METHODS for part in ("", f"{random[method]:.1f}")), ""])
    columns = [f"{method}: {part}" for method in METHODS for part in ("ρ", "cost, %")]
    return [what, *columns, "ms a set and text"], rows


def _predictors(cell: Arms, *, own: bool) -> list[Predictor]:
    """Of every descriptor that compares sets with texts; `own`: the text's own domain is a candidate."""
    frame = pl.read_parquet(DATA / f"{STUDY}_descriptors.parquet").filter(pl.col("target").is_in(DOMAINS))
    sources = sorted(arm.source for arm in cell.losses)
    columns = [cell.texts.index(text) for text in DOMAINS]
    losses = np.stack([cell.losses[arm][:, columns] for arm in sorted(cell.losses)])  # [sources, sets, texts]
    keep = np.array([[own or source != text for source in sources] for text in DOMAINS])  # [texts, sources]
    found = []
    for (name,), part in frame.sort("descriptor").group_by("descriptor", maintain_order=True):
        values = np.stack([_matrix(part.filter(pl.col("source") == source)) for source in sources])
        rho, cost, random = _agreement(_candidates(values, keep), _candidates(losses, keep))
        chosen = np.random.default_rng(0).integers(0, losses.shape[1], (DRAWS, *losses.shape[:2]))[..., None]
        drawn = (_candidates(np.take_along_axis(array[None], chosen, axis=2), keep) for array in (values, losses))
        low, high = np.percentile(_rho(*drawn), [2.5, 97.5])
        seconds = float(part["seconds"].to_numpy().mean())
        found.append(Predictor(str(name), cell.method, rho, float(low), float(high), cost, random, 1e3 * seconds))
    return found


def _candidates(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Means over sets of the sources that are kept: [..., sources, sets, texts] to [..., candidates, texts]."""
    means = array.mean(axis=-2)
    return np.stack([means[..., row, text] for text, row in enumerate(keep)], axis=-1)


def _matrix(rows: pl.DataFrame) -> np.ndarray:
    """[sets, texts]"""
    wide = rows.pivot(on="target", on_columns=list(DOMAINS), index="set", values="value").sort("set")
    return wide.select(DOMAINS).to_numpy()


def _rho(values: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Mean over texts of Spearman's ρ over sources; both [..., candidates, texts]."""
    a, b = (stats.rankdata(array, axis=-2) for array in (values, losses))
    a, b = a - a.mean(axis=-2, keepdims=True), b - b.mean(axis=-2, keepdims=True)
    spread = np.sqrt((a**2).sum(axis=-2) * (b**2).sum(axis=-2))
    rho = np.divide((a * b).sum(axis=-2), spread, out=np.zeros_like(spread), where=spread > 0)
    return np.asarray(rho.mean(axis=-1))


def _agreement(values: np.ndarray, losses: np.ndarray) -> tuple[float, float, float]:
    """(ρ, cost in per cent of the source of least value, of a random source)."""
    first = losses[values.argmin(axis=0), np.arange(losses.shape[1])]
    gaps, random = first - losses.min(axis=0), losses.mean(axis=0) - losses.min(axis=0)
    return float(_rho(values, losses)), percent(float(gaps.mean())), percent(float(random.mean()))


def _chart(found: list[Predictor], names: list[str]) -> Chart:
    rows = [{"descriptor": p.name, "method": p.method, "rho": p.rho, "low": p.low, "high": p.high} for p in found]
    y = {"field": "descriptor", "type": "nominal", "sort": names, "title": None}
    x = {"type": "quantitative", "title": "Spearman's ρ"}
    return Chart(
        "Does the order by descriptor agree with the order by outcome?",
        "Seven sources of other domains, mean over eight texts, 95 % intervals over sets.",
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

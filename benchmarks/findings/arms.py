"""Studies that compare kinds of calibration set, arm by arm: what is read, compared and drawn alike on their pages.

An arm is a source, a size and, where windows were chosen, the rule. Arms are compared by the mean log perplexity over
texts, told as per cent of perplexity; intervals are over calibration sets. Several arms are compared with one, so the p
values of a family are corrected by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.compare import holm
from analysis.estimates.welch import Interval, contrast
from analysis.page.chart import Chart
from benchmarks.findings.evidence import DATA, NAMES, in_percent, percent, signed

LEVEL = 0.05
ARM = ("source", "nsamples", "select")


@dataclass(frozen=True, order=True)
class Arm:
    """A source, the windows of a set, and the rule that chose them out of a pool; empty: drawn."""

    source: str
    nsamples: int = 16
    select: str = ""


@dataclass(frozen=True)
class Arms:
    """One model and method. `losses`: arm -> float64 [sets, texts], log perplexity; `control`: text -> log perplexity of
    rounding to nearest, empty where a study has several kinds of it; `tasks`: arm -> [sets], change of the log-likelihood of right answers, nats."""

    model: str
    method: str
    texts: tuple[str, ...]
    losses: Mapping[Arm, np.ndarray]
    tasks: Mapping[Arm, np.ndarray]
    control: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.method} on {NAMES[self.model]}"

    def mean(self, arm: Arm, texts: Sequence[str]) -> np.ndarray:
        """Mean log perplexity over `texts` of each set, [sets]."""
        return np.asarray(self.losses[arm][:, [self.texts.index(text) for text in texts]].mean(axis=1))

    def gap(self, arm: Arm, reference: Arm, texts: Sequence[str], *, paired: bool = False) -> Interval:
        """Mean loss of `arm` minus that of `reference`. `paired`: set k of both is of the same text."""
        one, other = self.mean(arm, texts), self.mean(reference, texts)
        return contrast([one - other], [1.0]) if paired else contrast([one, other], [1, -1])

    def against_control(self, arm: Arm, texts: Sequence[str]) -> Interval:
        return contrast([self.mean(arm, texts) - sum(self.control[text] for text in texts) / len(texts)], [1.0])


def read(study: str) -> list[Arms]:
    """Every calibrated method of one study."""
    frame = pl.read_parquet(DATA / f"{study}.parquet").with_columns(pl.col("select").fill_null(""))
    perplexity = pl.col("measure") == "perplexity"
    plain = frame.filter(perplexity, pl.col("method_label").str.starts_with("RTN"), pl.col("task") != "mean")
    alone = plain["method_label"].n_unique() == 1
    control = {task: math.log(value) for task, value in plain.select("task", "value").iter_rows()} if alone else {}
    found = []
    calibrated = frame.drop_nulls("source").sort("model", "method_label")
    for (model, method), part in calibrated.group_by("model", "method_label", maintain_order=True):
        texts = sorted(set(part.filter(perplexity)["task"]) - {"mean"})
        losses, tasks = {}, {}
        ordered = part.sort(*ARM, "set")
        for (source, nsamples, select), rows in ordered.group_by(*ARM, maintain_order=True):
            arm = Arm(str(source), int(str(nsamples)), str(select))
            values = rows.filter(pl.col("measure") == "perplexity").with_columns(pl.col("value").cast(pl.Float64).log())
            wide = values.pivot(on="task", on_columns=texts, index="set", values="value").sort("set")
            losses[arm] = wide.select(texts).to_numpy()
            means = rows.filter(pl.col("measure") == "loglikelihood_change", pl.col("task") == "mean")
            tasks[arm] = means["value"].cast(pl.Float64).to_numpy()
        found.append(Arms(str(model), str(method), tuple(texts), losses, tasks, control))
    return found


@dataclass(frozen=True)
class Contrast:
    """An arm against its reference under one method. `verdict`: 1 worse, -1 better, 0 not told apart (Holm)."""

    arm: str
    method: str
    gap: Interval
    verdict: int


def contrasts(method: str, gaps: Mapping[str, Interval]) -> list[Contrast]:
    """The arms of one family, corrected together."""
    corrected = holm([1.0 if gap.p is None else gap.p for gap in gaps.values()])
    return [
        Contrast(arm, method, gap, 0 if p >= LEVEL else 1 if gap.value > 0 else -1)
        for (arm, gap), p in zip(gaps.items(), corrected, strict=True)
    ]


def table(
    found: Sequence[Contrast], what: str, told_as: Callable[[Interval], str] = in_percent
) -> tuple[list[str], list[list[str]]]:
    """A row an arm, a column a method; a dot marks what is not told apart from the reference."""
    methods = list(dict.fromkeys(c.method for c in found))
    rows = {arm: [arm] for arm in dict.fromkeys(c.arm for c in found)}
    told = {(c.arm, c.method): told_as(c.gap) + ("" if c.verdict else " ·") for c in found}
    for arm, row in rows.items():
        row.extend(told.get((arm, method), "") for method in methods)
    return [what, *methods], list(rows.values())


def counted(found: Sequence[Contrast], keep: Callable[[Contrast], bool] = lambda _: True) -> tuple[int, int, int]:
    """(worse, better, not told apart) of the contrasts that are kept."""
    verdicts = [c.verdict for c in found if keep(c)]
    return verdicts.count(1), verdicts.count(-1), verdicts.count(0)


def chart(
    found: Sequence[Contrast],
    title: str,
    subtitle: str,
    axis: str,
    scaled: Callable[[float | None], float] = percent,
    *,
    shared: bool = False,
) -> Chart:
    """A point and its interval an arm, a panel a method. `scaled`: from a gap to the axis; `shared`: one axis for all."""
    arms, methods = list(dict.fromkeys(c.arm for c in found)), list(dict.fromkeys(c.method for c in found))
    rows = [
        {
            "arm": c.arm,
            "method": c.method,
            "gap": scaled(c.gap.value),
            "low": scaled(c.gap.value if c.gap.low is None else c.gap.low),
            "high": scaled(c.gap.value if c.gap.high is None else c.gap.high),
        }
        for c in found
    ]
    y = {"field": "arm", "type": "nominal", "sort": arms, "title": None}
    x = {"type": "quantitative", "title": axis, "axis": {"tickCount": 5}}
    return Chart(
        title,
        subtitle,
        {
            "data": {"values": rows},
            "padding": {"left": 20, "right": 5, "top": 5, "bottom": 5},  # where names are drawn in a wider type
            "facet": {
                "field": "method",
                "type": "nominal",
                "sort": methods,
                "title": None,
                "header": {"labelLimit": 260},
            },
            "columns": 2,
            "spec": {
                "width": 240,
                "height": {"step": 20},
                "layer": [
                    {"mark": {"type": "rule", "color": "#767676"}, "encoding": {"x": {"datum": 0}}},
                    {
                        "mark": {"type": "rule", "strokeWidth": 1.5},
                        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
                    },
                    {
                        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
                        "encoding": {"y": y, "x": {**x, "field": "gap"}},
                    },
                ],
            },
            "resolve": {"scale": {"x": "shared" if shared else "independent"}},
        },
    )


def origin(
    study: str,
    about: str,
    folder: str = "benchmarks/studies",
    *,
    corrected: bool = True,
    over: str = "calibration sets",
) -> str:
    """Where a page's numbers come from. `about`: models, sets and device in a sentence; `folder`: of the study;
    `corrected`: dots mark what is not told apart; `over`: what intervals count the luck of."""
    frame = pl.read_parquet(DATA / f"{study}.parquet")
    dots = (
        " A dot behind an interval: not told apart at p below .05, Holm's correction over the arms of a method."
        if corrected
        else ""
    )
    return (
        f"{about} {frame['trial_id'].n_unique():,} trials. The study: `{folder}/{study}.yaml`; its values, one "
        f"row per trial and task with trial ids: `benchmarks/findings/data/{study}.parquet`. Intervals are of 95 %, over "
        f"{over}, each arm with a variance of its own; held-out windows are these.{dots} The page is made anew by"
    )


GRID = (
    "SmolLM2's weights are those of a Q4_1 GGUF file: they lie on grids of 4 bits in groups of 32 when they are loaded."
)


def smollm2(
    sets: str = "GPTQ to 3 bits in groups of 64 and SparseGPT 2:4, windows of 512 tokens", gpus: str = "two H200"
) -> str:
    """What the studies of SmolLM2 share, for `origin`. `sets`: methods and calibration sets, where they are others."""
    return f"SmolLM2-135M-Instruct (weights of a Q4_1 GGUF file), {sets}, held-out texts of 8 windows, on {gpus}, 2026-11-28."


DOMAINS = ("books", "code", "dialogue_qa", "encyclopedia", "legal", "news_blogs", "tech_proposals", "web_docs")


def span(found: Sequence[Contrast], digits: int = 0) -> str:
    """`12 to 30 %` of perplexity, the least and the greatest estimate, with signs where one is negative."""
    values = [percent(c.gap.value) for c in found]
    low, high = (f"{v:.{digits}f}" if min(values) > 0 else signed(v, digits) for v in (min(values), max(values)))
    return f"{low} to {high} %"


def of(found: Sequence[Contrast], *arms: str) -> list[Contrast]:
    return [c for c in found if c.arm in arms]


def all_worse(found: Sequence[Contrast]) -> bool:
    return all(c.verdict == 1 for c in found)


def summary(found: Sequence[Contrast]) -> str:
    """`worse in 3, better in 1, not told apart in 2`."""
    worse, better, alike = counted(found)
    return f"worse in {worse}, better in {better}, not told apart in {alike}"

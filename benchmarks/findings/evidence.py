"""What the pages ask of the studies: losses of every draw, and contrasts of sources with their intervals.

Losses are mean log perplexities, so a difference of two is a ratio of perplexities, told in per cent. Intervals are over
calibration sets, each source with a variance of its own (`analysis.estimates.welch`); the windows and examples are
these, and the pages say so. The uniform mixture is an arm like the others but no *single* source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from analysis.estimates.welch import Interval, contrast

DATA = Path(__file__).parent / "data"
UNIFORM = "uniform"
FULL, SMALL = 32, 8  # windows of a set
NAMES = {
    "smollm2": "SmolLM2-135M",
    "reference-2m": "reference-2m",
    "reference-5m": "reference-5m",
    "reference-17m": "reference-17m",
}


@lru_cache(maxsize=1)
def values() -> pl.DataFrame:
    """All studies of sources, a row per (trial, measure, task)."""
    return pl.concat([pl.read_parquet(path) for path in sorted(DATA.glob("sources_*.parquet"))])


@dataclass(frozen=True)
class Cell:
    """One model and method. `losses`: source -> float64 [sets, texts], log perplexity at 32 windows; `small`: at 8.

    `tasks`: source -> [sets], mean log-likelihood of the right answers minus dense, in nats (higher is better);
    `accuracy`: source -> [sets], per cent; `divergence`: source -> [sets], Jensen-Shannon divergence from dense, mean over texts.
    """

    model: str
    parameters: int
    method: str
    texts: tuple[str, ...]
    losses: Mapping[str, np.ndarray]
    small: Mapping[str, np.ndarray]
    tasks: Mapping[str, np.ndarray]
    accuracy: Mapping[str, np.ndarray]
    divergence: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.method} on {NAMES[self.model]}"

    @property
    def singles(self) -> list[str]:
        """The single sources, best mean perplexity first."""
        return sorted((s for s in self.losses if s != UNIFORM), key=lambda s: float(self.losses[s].mean()))

    def mean(self, source: str) -> np.ndarray:
        """Mean loss over texts of each set, [sets]."""
        return np.asarray(self.losses[source].mean(axis=1))

    def gap(self, a: str, b: str) -> Interval:
        """Mean loss of `a` minus that of `b`."""
        return contrast([self.mean(a), self.mean(b)], [1, -1])

    @property
    def draw(self) -> float:
        """SD of the mean loss of one draw: root of the mean variance over single sources."""
        return math.sqrt(float(np.mean([self.mean(s).var(ddof=1) for s in self.singles])))


def cells() -> list[Cell]:
    """Every model and method that is calibrated, small models first."""
    frame = values()
    found = []
    calibrated = frame.drop_nulls("source").sort("parameters", "method_label")
    for (model, method), part in calibrated.group_by("model", "method_label", maintain_order=True):
        texts = sorted(set(part.filter(pl.col("measure") == "perplexity")["task"]) - {"mean"})
        found.append(
            Cell(
                str(model),
                part.item(0, "parameters"),
                str(method),
                tuple(texts),
                _losses(part, FULL, texts),
                _losses(part, SMALL, texts),
                _means(part, "loglikelihood_change"),
                _means(part, "accuracy"),
                _means(part, "js_divergence"),
            )
        )
    return found


def control(model: str) -> dict[str, float]:
    """Log perplexity of each text under the data-free control (RTN at the same bits) of the model."""
    rows = values().filter(
        pl.col("model") == model, pl.col("method_label").str.starts_with("RTN"), pl.col("measure") == "perplexity"
    )
    return {task: math.log(value) for task, value in rows.select("task", "value").iter_rows() if task != "mean"}


def dense(model: str) -> dict[str, float]:
    """Log perplexity of each text under the dense model."""
    rows = values().filter(
        pl.col("model") == model, pl.col("method_label") == "dense", pl.col("measure") == "perplexity"
    )
    return {task: math.log(value) for task, value in rows.select("task", "value").iter_rows() if task != "mean"}


def percent(log_ratio: float | None) -> float:
    """A difference of log perplexities as per cent of perplexity."""
    return math.nan if log_ratio is None else 100 * math.expm1(log_ratio)


def in_percent(interval: Interval, digits: int = 1) -> str:
    """`-5.3 % (-6.0 to -4.6)`, of a difference of log perplexities."""
    value, low, high = (signed(percent(part), digits) for part in (interval.value, interval.low, interval.high))
    return f"{value} % ({low} to {high})"


def in_points(interval: Interval, digits: int = 1) -> str:
    """`-5.3 (-6.0 to -4.6)`, in the unit of the values; the estimate alone where there is no interval."""
    if interval.low is None or interval.high is None:
        return signed(interval.value, digits)
    return f"{signed(interval.value, digits)} ({signed(interval.low, digits)} to {signed(interval.high, digits)})"


def signed(value: float, digits: int = 1) -> str:
    """With a sign, and a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def sure(interval: Interval) -> int:
    """1 or -1 where the interval is on one side of zero, else 0."""
    if interval.low is not None and interval.low > 0:
        return 1
    return -1 if interval.high is not None and interval.high < 0 else 0


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _losses(part: pl.DataFrame, nsamples: int, texts: Sequence[str]) -> dict[str, np.ndarray]:
    rows = part.filter(pl.col("nsamples") == nsamples, pl.col("measure") == "perplexity", pl.col("task").is_in(texts))
    wide = rows.with_columns(pl.col("value").cast(pl.Float64).log()).pivot(
        on="task", on_columns=list(texts), index=["source", "set"], values="value"
    )
    return {
        str(source): group.sort("set").select(texts).to_numpy()
        for (source,), group in wide.sort("source").group_by("source", maintain_order=True)
    }


def _means(part: pl.DataFrame, measure: str) -> dict[str, np.ndarray]:
    rows = part.filter(pl.col("nsamples") == FULL, pl.col("measure") == measure, pl.col("task") == "mean")
    return {
        str(source): group.sort("set")["value"].cast(pl.Float64).to_numpy()
        for (source,), group in rows.sort("source").group_by("source", maintain_order=True)
    }

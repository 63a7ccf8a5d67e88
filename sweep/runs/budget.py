"""How many test examples a trial is worth, before anything has run: a line of `--dry-run`.

A trial costs c_compress once and c_example for each example; for a given time, sources are told apart best with
B* = √((c_compress / c_example) (noise SD / set SD)²) examples (docs/analysis.md). The SDs and the seconds are those of
the default study, which ship in `components.json`; c_compress grows with the tokens of a calibration set. The study's
own trials tell it better once they are there: `analysis.budget`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from sweep.plan import Trial

SHIPPED = Path(__file__).with_name("components.json")


@dataclass(frozen=True)
class Components:
    """SDs of one example's luck and of one draw, seconds of a trial without its test and of one example."""

    method: str
    noise_sd: float
    set_sd: float
    seconds_without_test: float
    seconds_per_example: float
    tokens: int  # of a calibration set behind the seconds

    def worth(self, tokens: int) -> float:
        """B* for calibration sets of so many tokens."""
        seconds = self.seconds_without_test * tokens / self.tokens
        return float((seconds / self.seconds_per_example) ** 0.5 * self.noise_sd / self.set_sd)


@cache
def shipped() -> tuple[Components, ...]:
    """What the default study found, a row per model and method."""
    told = json.loads(SHIPPED.read_text(encoding="utf-8"))
    names = ("method", "noise_sd", "set_sd", "seconds_without_test", "seconds_per_example")
    tokens = told["calibration_tokens"]
    return tuple(Components(**{name: row[name] for name in names}, tokens=tokens) for row in told["components"])


def examples_worth(trials: Sequence[Trial]) -> str:
    """One line: how many examples per trial pay by the default study; empty without tasks or calibration."""
    calibrated = [trial for trial in trials if trial.spec is not None and trial.evaluation.task_names]
    worth = [count for trial in calibrated if (count := _worth(trial)) is not None]
    if not worth:
        return ""
    low, high = round(min(worth)), round(max(worth))
    limit = calibrated[0].evaluation.limit
    asked = f"{limit:,} of each task" if limit else "all there are"
    return (
        f"test examples: {asked}; about {f'{low:,}' if low == high else f'{low:,} to {high:,}'} per trial pay for "
        "telling sources apart, by the spreads and seconds of the default study"
    )


def _worth(trial: Trial) -> float | None:
    """B* of the trial's method, in the middle of the models; of all methods where the default study lacks it."""
    if trial.spec is None or trial.spec.nsamples is None:
        return None
    known = shipped()
    own = [row for row in known if row.method == trial.method_name] or known
    return median(row.worth(trial.spec.nsamples * trial.spec.seqlen) for row in own)

"""What a person asks the adviser: one model, one method, candidate texts, targets, and what an answer may cost.

Everything is an entry of a study or a number; `study.py` makes studies of it, `candidates.py` looks at the texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calib.settings import SettingsError, shown

SHARE = 0.25  # of the full study's time, where no budget is given
SETS = 12  # calibration sets of each candidate in the full study
NSAMPLES = 128  # windows of a set
CRITERIA = ("mean", "lower-quantile")
MEASURES = ("accuracy", "loglikelihood")
SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Question:
    """One question. Raises SettingsError for numbers that mean nothing.

    candidates: names of sources, files, or entries of a study; mixtures: shares by the name of a candidate or source.
    uniform: the even mixture of all candidates is an arm. targets: files or bundled held-out texts, a target each;
    tasks: lm-eval tasks, one target together. budget: seconds of wall time, share: of the full study's time; without
    either a quarter. matters: the difference that matters, in the unit of each target. sets, nsamples, seqlen: the full
    study's calibration sets; limit: examples of each task, windows: of each target text.
    """

    model: Any
    method: Any
    candidates: Sequence[Any]
    targets: Sequence[Any] = ()
    tasks: Sequence[str] = ()
    budget: float | None = None
    share: float | None = None
    matters: tuple[float, ...] = ()
    guarantee: bool = False
    criterion: str = "mean"
    uniform: bool = True
    mixtures: Sequence[Mapping[str, float]] = ()
    search_mixture: bool = False
    allow_overlap: bool = False
    sets: int = SETS
    nsamples: int = NSAMPLES
    seqlen: int | None = None
    windows: int | None = None
    limit: int | None = None
    task_path: str | None = None
    measure: str = "accuracy"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget is not None and self.share is not None:
            raise SettingsError("--budget and --share both say what an answer may cost; give one of them")
        if self.budget is not None and not (0 < self.budget < math.inf):
            raise SettingsError(f"--budget {self.budget:g}: expected seconds above 0, or a time such as 90s, 20m or 2h")
        if self.share is not None and not 0 < self.share <= 1:
            raise SettingsError(
                f"--share {self.share:g}: expected a share of the full study's time, above 0 and at most 1"
            )
        if bad := [size for size in self.matters if not 0 < size < math.inf]:
            raise SettingsError(f"--matters {bad[0]:g}: expected a difference above 0, in the target's unit")
        if self.criterion not in CRITERIA:
            raise SettingsError(f"--criterion {shown(self.criterion)}: expected {' or '.join(CRITERIA)}")
        if self.measure not in MEASURES:
            raise SettingsError(f"--measure {shown(self.measure)}: expected {' or '.join(MEASURES)}")
        if self.sets < 2:
            raise SettingsError(f"--sets {self.sets}: expected at least 2, since the luck of the draw must be seen")
        for name in ("nsamples", "windows", "limit"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise SettingsError(f"--{name} {value}: expected at least 2")


def seconds_of(text: str) -> float:
    """`90s`, `20m`, `2h`, `1h30m` or `1d` in seconds. Raises SettingsError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text.strip().lower())
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != re.sub(r"\s+", "", text.lower()):
        raise SettingsError(f"--budget {shown(text)}: expected a time such as 90s, 20m, 2h or 1h30m")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)

"""What an adviser's run decided, as frames: `adviser.json` of a results folder, which `python -m sweep.advise` writes.

The record says what was asked, each round with its trials and what was believed after it, and the answer. A folder
without one has no advice; one that cannot be read is said to be so, and costs the report nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl

from analysis.frames import Study
from sweep.results import Results

FILE = "adviser.json"
VERSION = 1  # that this module reads
MINUTE = 60.0
PARTS = {"model", "method", "targets", "looks", "rounds", "lines"}  # of a record

BELIEFS = {
    "round": pl.Int64,
    "minutes": pl.Float64,
    "arm": pl.String,
    "loss": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p_best": pl.Float64,
    "regret": pl.Float64,
    "screens": pl.Int64,
    "fulls": pl.Int64,
    "failures": pl.Int64,
}
DRAWS = {
    "round": pl.Int64,
    "arm": pl.String,
    "draw": pl.Int64,
    "fidelity": pl.String,
    "target": pl.String,
    "loss": pl.Float64,
    "failed": pl.Boolean,
    "seconds": pl.Float64,
    "trial_id": pl.String,
}


@dataclass(frozen=True)
class Record:
    """The file as it is, in its own words."""

    content: Mapping[str, Any]

    @property
    def lines(self) -> list[str]:
        """The answer, or none while it is not over."""
        return [str(line) for line in self.content["lines"]]

    @property
    def targets(self) -> list[str]:
        return [target["name"] for target in self.content["targets"]]

    @property
    def loss(self) -> str:
        """What an arm is compared by, with its unit."""
        if len(self.content["targets"]) == 1:
            return f"loss over the dense model, {self.content['targets'][0]['unit']}"
        return "worst regret over the targets"

    @property
    def subject(self) -> str:
        """`reference-2m with GPTQ 3-bit g32`."""
        return f"{self.content['model']} with {self.content['method']}"


def read_record(study: Study) -> Record | None:
    """The adviser's record in the folder of a study; None when there is none. Raises ValueError for another file."""
    return _read(study.results)


@lru_cache(maxsize=4)
def _read(results: Results) -> Record | None:
    text = results.read_text(FILE)
    if text is None:
        return None
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"{FILE} is not of version {VERSION}")
    if missing := sorted(PARTS - set(content)):
        raise ValueError(f"{FILE} says nothing of {', '.join(missing)}")
    return Record(content)


def belief_table(study: Study) -> pl.DataFrame:
    """What was believed of each arm after each round: mean loss with its 80 % interval, and P(best).

    Minutes are those of one worker until the end of the round. Empty without a record.
    """
    record = read_record(study)
    rows = [
        {
            "round": number["number"],
            "minutes": number["spent"] / MINUTE,
            **{name: one[name] for name in BELIEFS if name not in ("round", "minutes")},
        }
        for number in (record.content["rounds"] if record else [])
        for one in number["verdict"]["standings"]
    ]
    return pl.DataFrame(rows, BELIEFS)


def draw_table(study: Study) -> pl.DataFrame:
    """Every draw that was tried, in the order of the rounds; its loss on each target. Empty without a record."""
    record = read_record(study)
    rows = [
        {
            **{name: trial[name] for name in ("arm", "draw", "fidelity", "failed", "seconds", "trial_id")},
            "round": number["number"],
            "target": target,
            "loss": trial["values"][place] if trial["values"] else None,
        }
        for number in (record.content["rounds"] if record else [])
        for trial in number["trials"]
        for place, target in enumerate(record.targets if record else [])
    ]
    return pl.DataFrame(rows, DRAWS)


def look_table(study: Study) -> pl.DataFrame:
    """What was seen of each text before anything was compressed: its size, descriptors, and copies of the target."""
    record = read_record(study)
    looks = record.content["looks"] if record else []
    names = sorted({name for look in looks for name, value in look["descriptors"].items() if value is not None})
    rows = [
        {
            "arm": look["arm"],
            "documents": look["documents"],
            "tokens": look["tokens"],
            "copied": look["copied"],
            **{name: look["descriptors"].get(name) for name in names},
        }
        for look in looks
    ]
    schema = {"arm": pl.String, "documents": pl.Int64, "tokens": pl.Int64, "copied": pl.Int64}
    return pl.DataFrame(rows, {**schema, **dict.fromkeys(names, pl.Float64)})

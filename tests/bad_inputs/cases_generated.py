"""Text that the model shall write and cannot: a model that is not held whole, texts beyond its context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bad_inputs.common import STUDY, Case, write_study


def written(model: Any = "reference-2m", **source: Any) -> Callable[[Path], list[str]]:
    """The small study, calibrated on text that its model writes."""
    entry = {"source": "self_generated", "documents": 4, "length": 64, **source}
    calibration = {**STUDY["calibration"], "source": entry}
    return lambda folder: [write_study(folder, models=[model], calibration=calibration), "--local"]


CASES = {
    "streamed": Case(
        written({"model": "reference-2m", "placement": "streamed"}),
        "self_generated: reference-2m is streamed, and text can only be written by a model that is held whole",
    ),
    "too few": Case(written(documents=1), r"self_generated.*at most 65 tokens.*need 128"),
    "longer than the context": Case(
        written(length=100_000),
        r"calibration\.source: 1 tokens of a prompt and 99,999 .* context of reference-2m",
        torch=True,
    ),
    "too few prompts": Case(written(prompts="books", documents=500), r"85 prompts for 500 documents", torch=True),
    "cold and hot": Case(written(temperatures=[]), "temperatures: expected at least one"),
}

"""What describes the calibration sets of a study by numbers: rows of `descriptors/`, written once for a set.

The descriptors of tokens alone are cheap; those that ask a model have it loaded, and run on the device of the trials.
All are computed while the study is prepared. Those that compare a set with a target are given for each held-out text.
A descriptor's seconds are recorded beside its value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from calib.descriptor import DESCRIPTORS, Described
from calib.spec import CalibrationSet
from sweep.describe.base import DESCRIPTORS as MODEL_DESCRIPTORS
from sweep.describe.base import Described as ModelDescribed


def descriptor_rows(
    calibration: CalibrationSet, names: Iterable[str], vocabulary: int, targets: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """The rows of one set.

    `vocabulary`: ids of the tokenizer; `targets`: held-out windows, (windows, length), by label.
    """
    described = Described(calibration.tokens, calibration.lengths, vocabulary, responses=calibration.responses)
    for name in names:
        descriptor = DESCRIPTORS.get(name)
        started = time.perf_counter()
        alone = descriptor(described)
        if alone is not None:
            yield _row(calibration, "", name, "", alone, time.perf_counter() - started)
            continue
        for label, target in targets.items():
            started = time.perf_counter()
            value = descriptor(Described(calibration.tokens, calibration.lengths, vocabulary, target))
            if value is not None:
                yield _row(calibration, "", name, label, value, time.perf_counter() - started)


def asked_rows(
    calibration: CalibrationSet, model: str, dense: Any, names: Iterable[str], targets: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """The rows of one set that a model is asked for; `model` is the name of the dense model `dense`.

    What several descriptors need of the model is found for the first of them, whose seconds hold it.
    """
    windows = {label: target.copy() for label, target in targets.items()}  # torch takes no arrays that are read-only
    described = ModelDescribed(dense, calibration.tokens.copy(), windows)
    for name in names:
        started = time.perf_counter()
        found = MODEL_DESCRIPTORS.get(name)(described)
        seconds = (time.perf_counter() - started) / max(len(found), 1)
        for target, value in sorted(found.items()):
            yield _row(calibration, model, name, target, value, seconds)


def _row(
    calibration: CalibrationSet, model: str, name: str, target: str, value: float, seconds: float
) -> dict[str, Any]:
    return {
        "calibration_id": calibration.id,
        "model": model,
        "descriptor": name,
        "target": target,
        "value": float(value) if math.isfinite(value) else None,
        "seconds": seconds,
    }

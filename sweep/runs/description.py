"""What describes the calibration sets of a study by numbers: rows of `descriptors/`, written once for a set.

The descriptors of tokens alone are cheap and computed while the study is prepared. Those that compare a set with a
target are given for each held-out text. A descriptor's seconds are recorded beside its value.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from calib.descriptor import DESCRIPTORS, Described
from calib.spec import CalibrationSet


def descriptor_rows(
    calibration: CalibrationSet, names: Iterable[str], vocabulary: int, targets: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """The rows of one set.

    `vocabulary`: ids of the tokenizer; `targets`: held-out windows, (windows, length), by label.
    """
    described = Described(calibration.tokens, calibration.lengths, vocabulary)
    for name in names:
        descriptor = DESCRIPTORS.get(name)
        started = time.perf_counter()
        alone = descriptor(described)
        if alone is not None:
            yield _row(calibration, name, "", alone, time.perf_counter() - started)
            continue
        for label, target in targets.items():
            started = time.perf_counter()
            value = descriptor(Described(calibration.tokens, calibration.lengths, vocabulary, target))
            if value is not None:
                yield _row(calibration, name, label, value, time.perf_counter() - started)


def _row(calibration: CalibrationSet, name: str, target: str, value: float, seconds: float) -> dict[str, Any]:
    return {
        "calibration_id": calibration.id,
        "model": "",
        "descriptor": name,
        "target": target,
        "value": float(value),
        "seconds": seconds,
    }

"""What describes the calibration sets of a study by numbers: rows of `descriptors/`, written once for a set.

The descriptors of tokens alone are cheap; those that ask a model have it loaded, and run on the device of the trials.
All are computed while the study is prepared. Those that compare a set with a target are given for each held-out text.
A descriptor's seconds are recorded beside its value.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calib.descriptor import DESCRIPTORS, Described
from calib.settings import identity
from calib.spec import CalibrationSet
from methods.base import CompressionError, Method
from sweep.describe.base import DESCRIPTORS as MODEL_DESCRIPTORS
from sweep.describe.base import Described as ModelDescribed
from sweep.results import Results
from sweep.storage.store import stem
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel

OF_METHODS = ("target_error",)  # descriptors of a set and a method


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


def described(store: Results, ids: Collection[str]) -> dict[tuple[str, str], set[str]]:
    """Descriptors of these sets that are there, by the set and the model that was asked ('' for those of tokens alone).

    Only files of these sets are read.
    """
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for path in store.own_files("descriptors"):
        if stem(path).partition("-")[0] in ids:
            rows = store.read_file("descriptors", path).select("calibration_id", "model", "descriptor")
            for calibration_id, model, name in rows.unique().iter_rows():
                found[calibration_id, model].add(name.partition(" of ")[0])
    return found


def write_descriptors(
    store: Results, key: str, calibration: CalibrationSet, model: str, names: Sequence[str], rows: list[dict[str, Any]]
) -> None:
    """Write rows of these descriptors beside those of others that may be there, in a file that is called by `key`.

    A descriptor without any value has a row as well, so that it is not asked for again.
    """
    had = {row["descriptor"].partition(" of ")[0] for row in rows}
    rows = rows + [_row(calibration, model, name, "", math.nan, 0.0) for name in names if name not in had]
    free = key not in store.keys("descriptors")
    store.write_table("descriptors", key if free else f"{key}-{identity(sorted(names), 8)}", rows)


@dataclass(frozen=True)
class Asking:
    """A dense model with what is asked of it about sets: descriptors by name, of the targets' windows, of the methods
    by their labels, and of text that the model wrote itself (windows, length)."""

    model: str  # its name
    dense: DenseModel | StreamedModel
    names: Sequence[str]
    targets: Mapping[str, np.ndarray]
    methods: Mapping[str, Method]
    own: np.ndarray | None = None


def asked_rows(calibration: CalibrationSet, asking: Asking) -> Iterator[dict[str, Any]]:
    """The rows of one set that a model is asked for.

    What several descriptors need of the model is found for the first of them, whose seconds hold it. What a descriptor
    says of a method is a row for each, `target_error of LABEL`; null where the method fails.
    """
    windows = {label: target.copy() for label, target in asking.targets.items()}  # torch takes no read-only arrays
    tokens = calibration.tokens.copy()
    described = ModelDescribed(asking.dense.model, tokens, windows, asking.own, weights=calibration.weights)
    for name in asking.names:
        descriptor = MODEL_DESCRIPTORS.get(name)
        for label, method in asking.methods.items() if name in OF_METHODS else [("", None)]:
            started = time.perf_counter()
            try:
                found = descriptor(described if method is None else replace(described, method=method))
            except CompressionError:
                asking.dense.restore()  # of a streamed model the first blocks are as the method left them
                found = dict.fromkeys(windows, math.nan)
            seconds = (time.perf_counter() - started) / max(len(found), 1)
            called = f"{name} of {label}" if label else name
            for target, value in sorted(found.items()):
                yield _row(calibration, asking.model, called, target, value, seconds)


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

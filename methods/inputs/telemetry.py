"""What a replaced weight costs: its error on the calibration inputs, its zeros, its bits, and whether it is a number.

Every weight of every method passes here, so this is where a weight that holds NaN or infinity fails, be it the dense
one or what took its place: a method need not look. The hard case is time: a number that is read makes the host wait for
the device, so all numbers of all weights that share an input are read at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.inputs.statistic import Statistic, output_error
from methods.lazy import torch
from methods.numerics.factor import all_finite
from methods.outcome import CompressedWeight, CompressionError, Measurement

NOT_FINITE = "the dense weight holds NaN or infinity"
LARGE = 1e4  # weights from here on may have scales beyond float16


@dataclass(frozen=True)
class Replacement:
    """A weight and what takes its place, [rows, cols]; `stored` has the dtype that the model keeps."""

    linear: str
    dense: torch.Tensor
    stored: torch.Tensor
    compressed: CompressedWeight


def measured(replaced: Sequence[Replacement], statistic: Statistic | None) -> dict[str, Measurement]:
    """The measurements, by linear, of weights that share an input; `statistic` is None where nothing is known of it.

    The host waits for the device once, for all numbers of all weights. Raises CompressionError naming the linear when
    a weight is not finite.
    """
    waiting: list[dict[str, Any]] = []
    for each in replaced:
        error, size = output_error(each.dense, each.stored, statistic)
        found = {name: getattr(each.compressed, name) for name in ("bits", "dead_columns", "outlier_share")}
        finite = {"dense": all_finite(each.dense), "stored": all_finite(each.stored)}
        waiting.append({"error": error, "size": size, "zeros": (each.stored == 0).sum(), **finite, **found})
    tokens = statistic.tokens if statistic is not None and statistic.of_data else 0
    results: dict[str, Measurement] = {}
    for each, numbers in zip(replaced, read_together(waiting), strict=True):
        if not (numbers["dense"] and numbers["stored"]):
            reason = _reason(each) if numbers["dense"] else NOT_FINITE
            raise CompressionError(f"{each.linear}: {reason}" if len(replaced) > 1 else reason)
        results[each.linear] = Measurement(
            rows=each.dense.shape[0],
            cols=each.dense.shape[1],
            relative_error=_ratio(numbers["error"], numbers["size"]),
            damping=each.compressed.damping,
            retries=each.compressed.retries,
            fallback=each.compressed.fallback,
            dead_columns=int(numbers["dead_columns"]),
            sparsity=numbers["zeros"] / each.stored.numel(),
            bits=numbers["bits"],
            outlier_share=numbers["outlier_share"],
            rank=each.compressed.rank,
            tokens=tokens,
        )
    return results


def check_weights(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise CompressionError naming the first of the dense weights, by linear, that holds NaN or infinity.

    `measured` finds them as well, after they have spoiled what comes behind them: to name the right one, look before
    anything is collected. The host waits for the device once.
    """
    finite = [all_finite(weight) for weight in weights.values()]
    for name, fine in zip(weights, torch.stack(finite).tolist() if finite else [], strict=True):
        if not fine:
            raise CompressionError(f"{name}: {NOT_FINITE}")


def _reason(replaced: Replacement) -> str:
    """Why a compressed weight is not finite, as far as it shows: a scale that float16 cannot hold leaves no codes."""
    message, largest = "the compressed weight holds NaN or infinity", float(replaced.dense.abs().max())
    if replaced.compressed.scale_dtype != "float16" or largest < LARGE:
        return message
    return (
        f"{message}; scales are stored as float16, which ends at 65,504, and the dense weights reach {largest:.3g}: "
        "use scale_dtype: bfloat16, or float32"
    )


def read_together(waiting: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same mappings with every scalar tensor replaced by its number, all of them read at once."""
    scalars = [value for values in waiting for value in values.values() if isinstance(value, torch.Tensor)]
    numbers = iter(torch.stack([scalar.double() for scalar in scalars]).tolist())
    return [
        {name: next(numbers) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        for values in waiting
    ]


def _ratio(error: float, size: float) -> float | None:
    """Relative squared error; None when the output is zero and the error is not."""
    if size > 0:
        return max(error, 0.0) / size
    return 0.0 if error <= 0 else None

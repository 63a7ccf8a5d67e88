"""All formats by name, and which of them hold what a method leaves. A format is added by its file and one line here."""

from __future__ import annotations

from calib.settings import SettingsError, suggestion
from methods.base import Method
from sweep.formats import bitsandbytes
from sweep.formats.awq import AWQFormat
from sweep.formats.bitsandbytes import fourbit_rule
from sweep.formats.compressed_tensors import CompressedTensors
from sweep.formats.format import Format, FormatError
from sweep.formats.gptq import GPTQFormat
from sweep.formats.grids import leaves_factors, planned_grids, unstorable_scales
from sweep.formats.spqr import STEM, spqr_rule

DENSE = "dense"  # weights as they are: pruned models, and what no packed format holds
FACTORED = "factored"  # low-rank factors as they are (`factored.py`)
PACKED: dict[str, Format] = {kind.name: kind for kind in (CompressedTensors(), GPTQFormat(), AWQFormat())}
SPQR = STEM  # codes, two-level grids and outliers (`spqr.py`)
BITSANDBYTES = bitsandbytes.NAME  # NF4 and FP4 (`bitsandbytes.py`)
KEPT = (SPQR, BITSANDBYTES)  # formats that need what the solver fitted (`kept.py`)
NAMES = (*PACKED, BITSANDBYTES, SPQR, FACTORED, DENSE)


def check_name(name: str) -> None:
    """Raise SettingsError for a format that there is not."""
    if name not in NAMES:
        raise SettingsError(f"--format: unknown format {name!r}{suggestion(name, NAMES)}")


def usual_format(method: Method) -> str:
    """The format for a method when none is asked for: the smallest that holds its weights without a change."""
    if leaves_factors(method):
        return FACTORED
    if planned_grids(method):
        return CompressedTensors.name
    if fourbit_rule(method) is not None:
        return BITSANDBYTES
    return DENSE if spqr_rule(method) is None else SPQR


def check_method(name: str, method: Method, dtype: str) -> None:
    """Raise FormatError when the format cannot hold what `method` leaves in a model of `dtype`.

    Nothing but the settings is looked at, so that it is known before a model is loaded.
    """
    reason = _refusal(name, method, dtype)
    if reason is not None:
        holding = [other for other in NAMES if _refusal(other, method, dtype) is None]
        raise FormatError(f"--format {name} cannot hold {method.label}: {reason}; {' or '.join(holding)} can")


def _refusal(name: str, method: Method, dtype: str) -> str | None:
    if name == DENSE:
        return None
    if name == FACTORED:
        return None if leaves_factors(method) else "it leaves no low-rank factors"
    if name == SPQR:
        return None if spqr_rule(method) is not None else "it is not SpQR, or a step prunes, whose zeros are no levels"
    if leaves_factors(method):
        return "two factors stand in the place of a linear"
    if name == BITSANDBYTES:
        return None if fourbit_rule(method) is not None else "its last step is not NF4, or its blocks are of two kinds"
    grids = planned_grids(method)
    if not grids:
        return "it leaves no linear on an integer grid"
    packed = PACKED[name]
    reasons = [packed.refuses_grid(grid, dtype) for grid in grids]
    if len(grids) > 1:
        reasons.append(packed.refuses_mix(grids))
    return next((reason for reason in [*reasons, unstorable_scales(method, dtype)] if reason), None)

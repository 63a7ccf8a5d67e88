"""What the name of a trial says of its calibration set: the axes of the study that vary, nothing that all share."""

from __future__ import annotations

from collections.abc import Sequence

from calib.spec import CalibrationSpec
from sweep.study_file.calibration import AXES

SIZES = {"nsamples": "windows", "seqlen": "tokens each"}


def varied(specs: Sequence[CalibrationSpec]) -> tuple[str, ...]:
    """The axes on which these sets differ."""
    return tuple(axis for axis in AXES if len({str(getattr(spec, axis)) for spec in specs}) > 1)


def set_name(spec: CalibrationSpec, axes: Sequence[str]) -> str:
    """`books set 0 · 8 windows · select herding`: of `axes` the sizes, and every other that is not at its default."""
    told = [_told(spec, axis) for axis in axes]
    return " · ".join([f"{spec.source.label} set {spec.set}", *(text for text in told if text)])


def _told(spec: CalibrationSpec, axis: str) -> str:
    value = getattr(spec, axis)
    if axis in SIZES:
        return f"{value} {SIZES[axis]}"
    if value == getattr(CalibrationSpec, axis):
        return ""
    if axis == "select":
        value = value.selector_name
    elif isinstance(value, list):
        value = " ".join(map(str, value))
    return axis if value is True else f"{axis} {value}"

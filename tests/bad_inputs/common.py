"""What a case of the table of bad inputs is, and a small study to spoil: it plans in a moment and loads no torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

STUDY: dict[str, Any] = {
    "study": "tiny",
    "models": ["reference-2m"],
    "methods": [{"method": "gptq", "bits": 3, "group_size": 32}],
    "calibration": {"source": "books", "sets": 1, "nsamples": 2, "seqlen": 64},
    "evaluation": {"heldout": ["books"], "heldout_windows": 2, "heldout_seqlen": 64},
}


@dataclass(frozen=True)
class Case:
    """A bad input of the launcher, or of another `command`.

    `build(folder)` writes files into an empty folder, which is the working directory of the launch, and returns the
    arguments of `python -m sweep.launch` (or of that command). `message` is a regular expression that the one line
    `error: ...` matches. `torch` says that torch or a tokenizer may be needed to find the fault; the others are found
    without.
    """

    build: Callable[[Path], list[str]]
    message: str
    torch: bool = False
    command: str = "sweep.launch"


def write_study(folder: Path, **sections: Any) -> str:
    """Write `STUDY` with other top-level sections as `study.yaml`; returns its path."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(STUDY), **sections}, sort_keys=False), encoding="utf-8")
    return str(path)


def overridden(*overrides: str) -> Callable[[Path], list[str]]:
    """The small study with `--set` for each override."""
    return lambda folder: [write_study(folder), "--local", *(part for text in overrides for part in ("--set", text))]


def study_text(text: str | bytes) -> Callable[[Path], list[str]]:
    """A study file with exactly this content."""

    def build(folder: Path) -> list[str]:
        path = folder / "study.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return [str(path), "--local"]

    return build


def flags(*arguments: str) -> Callable[[Path], list[str]]:
    """The small study with these arguments besides."""
    return lambda folder: [write_study(folder), "--local", *arguments]

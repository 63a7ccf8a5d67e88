"""The document of a study: YAML as people mean it, and single values set from the command line.

The hard case is a path that leads nowhere (`--set methods[3].bits=4` with two methods): the error says how far it leads
and what is there instead.

Words of this room: the *document* is the mapping in a study file, an *entry* one item of its lists; a key whose value
is a list of *levels* is an *axis*, and a *grid* is the product of axes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib.settings import SettingsError, shown
from calib.yamltext import read_yaml, read_yaml_file


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises SettingsError for an empty file, bad YAML or a key given twice."""
    document = read_yaml_file(path)
    if document is None:
        raise SettingsError(f"{path}: the file is empty; a study needs study, models, methods and evaluation")
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: expected a mapping with the keys of a study, got {shown(document)}")
    return document


# overrides: --set methods[1].bits=4


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one value in the document. The path is dotted, list items are numbered: `methods[1].bits=4`."""
    path, equals, text = override.partition("=")
    steps = _steps(path.strip())
    asked = f"--set {override if len(override) <= 100 and override.isprintable() else shown(override)}"
    if not equals or not steps:
        raise SettingsError(f"{asked}: expected key=value, such as calibration.sets=2 or methods[1].bits=4")
    try:
        value = read_yaml(text)
    except SettingsError as error:
        raise SettingsError(f"{asked}: {error}") from None
    place: Any = document
    for number, step in enumerate(steps):
        where = _join(steps[:number])
        last = number == len(steps) - 1
        _check_step(place, step, where, asked)
        if last:
            place[step] = value
        elif isinstance(step, str) and place.get(step) is None:
            place[step] = {}
            place = place[step]
        else:
            place = place[step]


def _steps(path: str) -> list[str | int]:
    if not re.fullmatch(r"[A-Za-z_]\w*(\[\d{1,9}\])*(\.[A-Za-z_]\w*(\[\d{1,9}\])*)*", path):
        return []
    parts = re.findall(r"([A-Za-z_]\w*)|\[(\d+)\]", path)
    return [name or int(number) for name, number in parts]


def _join(steps: Sequence[str | int]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.lstrip(".") or "the study"


def _check_step(place: Any, step: str | int, where: str, asked: str) -> None:
    if isinstance(step, int):
        if not isinstance(place, list):
            raise SettingsError(f"{asked}: {where} is not a list, so it has no item [{step}]")
        if step >= len(place):
            items = f"has {len(place)} items, [0] to [{len(place) - 1}]" if place else "is empty"
            raise SettingsError(f"{asked}: {where} {items}; [{step}] is none of them")
    elif not isinstance(place, dict):
        items = f" (items are {where}[0] to {where}[{len(place) - 1}])" if isinstance(place, list) and place else ""
        raise SettingsError(f"{asked}: {where} is {shown(place)}, so it has no key '{step}'{items}")

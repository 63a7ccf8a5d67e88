"""Files that a study names, made absolute: a worker has a working directory of its own.

Labels come from the paths as they were typed, so that ids and tables are the same in every folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib.files import absolute
from calib.sources.file import label_of


def with_absolute_paths(value: Any, place: str = "") -> Any:
    """The document with the `path` of every `file` source, wherever it stands, and `task_path` made absolute."""
    if isinstance(value, list):
        return [with_absolute_paths(inner, f"{place}[{number}]") for number, inner in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if value.get("source") == "file":
        return _absolute_source(value, place)
    return {
        key: _absolute(inner, f"{place}.{key}") if key == "task_path" else with_absolute_paths(inner, f"{place}.{key}")
        for key, inner in value.items()
    }


def _absolute_source(entry: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """A `file` source; its label comes from the path as it was typed, so that it is the same in every folder."""
    path = entry.get("path")
    first = path[0] if isinstance(path, list) and path else path
    if not isinstance(first, str):
        return entry  # left for the check of its type
    return {"label": label_of(first), **entry, "path": _absolute(path, f"{place}.path")}


def _absolute(path: Any, place: str) -> Any:
    if isinstance(path, list):
        return [_absolute(item, f"{place}[{number}]") for number, item in enumerate(path)]
    return str(absolute(path, place.lstrip("."))) if isinstance(path, str) and path else path

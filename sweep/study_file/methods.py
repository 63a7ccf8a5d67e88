"""The `methods` section of a study: entries whose lists are axes become methods with distinct labels.

A list value runs several settings, unless the setting itself is a list; a list of mappings is a composition. The hard
case is a product that nobody can mean: it is counted before it is multiplied out.
"""

from __future__ import annotations

import itertools
import math
import types
import typing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from calib.settings import SettingsError, identity
from methods.base import METHODS, Composition, Method, parse_method
from sweep.study_file.levels import check_levels

MAX_METHODS = 10_000


def parse_methods(entries: Sequence[Any]) -> list[Method]:
    if not entries:
        raise SettingsError("methods: expected at least one method, got [] (the dense model is a trial anyway)")
    methods: list[Method] = []
    places: list[str] = []
    for number, entry in enumerate(entries):
        path = f"methods[{number}]"
        if "dense" in (entry, entry.get("method") if isinstance(entry, Mapping) else None):
            raise SettingsError(f"{path}: the dense model is always a trial; leave 'dense' out")
        if len(methods) + _choices(entry) > MAX_METHODS:
            raise SettingsError(
                f"{path}: the product of its lists makes {_choices(entry):,} methods; a study has at most "
                f"{MAX_METHODS:,}; give fewer values"
            )
        for choice in _expand_entry(entry, path):
            methods.append(parse_method(choice, path))
            places.append(path)
    seen: dict[str, str] = {}
    for method, path in zip(methods, places, strict=True):
        key = identity(method.identity())
        if key in seen:
            raise SettingsError(f"{path}: the same method with the same settings as {seen[key]} ({method.label})")
        seen[key] = path
    return methods


def distinct_labels(methods: Sequence[Method]) -> list[str]:
    """The methods' labels; those that coincide are told apart by the settings in which they differ."""
    labels = [method.label for method in methods]
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        numbers[label].append(number)
    for label, same in numbers.items():
        if len(same) < 2:
            continue
        flat = {number: dict(_flatten(methods[number].identity())) for number in same}
        keys = sorted({key for settings_ in flat.values() for key in settings_})
        differing = [key for key in keys if len({repr(flat[number].get(key)) for number in same}) > 1]
        for number in same:
            told = ", ".join(f"{key.rpartition('.')[2]} {flat[number].get(key)}" for key in differing)
            labels[number] = f"{label} ({told})"
    return labels


def method_document(method: Method) -> Any:
    """The method as an entry of a study file, with every setting written out."""
    if isinstance(method, Composition):
        return [method_document(step) for step in method.steps]
    return {key: value for key, value in method.identity().items() if key != "version"}


def _choices(entry: Any) -> int:
    """The number of methods that `_expand_entry` makes of an entry, without making them."""
    if isinstance(entry, list):
        return math.prod(_choices(part) for part in entry)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("method"), str):
        return 1
    return math.prod(len(entry[key]) for key in _axes_of(entry))


def _axes_of(entry: Mapping[str, Any]) -> list[str]:
    """The settings of a method whose value is a list of levels."""
    return [key for key, value in entry.items() if isinstance(value, list) and not _takes_list(entry["method"], key)]


def _expand_entry(entry: Any, path: str) -> list[Any]:
    """`{method: gptq, bits: [3, 4]}` -> two entries; a composition expands part by part."""
    if isinstance(entry, list):
        if not entry:
            raise SettingsError(f"{path}: expected a composition of methods, got []")
        parts = [_expand_entry(part, f"{path}[{number}]") for number, part in enumerate(entry)]
        return [list(choice) for choice in itertools.product(*parts)]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("method"), str):
        return [entry]  # parse_method explains what is wrong with it
    axes = _axes_of(entry)
    for key in axes:
        check_levels(entry[key], f"{path}.{key}")
    return [
        {**entry, **dict(zip(axes, levels, strict=True))} for levels in itertools.product(*(entry[key] for key in axes))
    ]


def _takes_list(method: str, setting: str) -> bool:
    """Whether the setting itself is a list, so that a list is one value and not an axis."""
    if method not in METHODS.names():
        return False  # parse_method answers with a suggestion
    cls: Any = METHODS.get(method)
    return any(item.name == setting and _is_list_type(typing.get_type_hints(cls)[setting]) for item in fields(cls))


def _is_list_type(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType) or origin is typing.Annotated:
        return any(_is_list_type(part) for part in typing.get_args(hint))
    return (origin or hint) in (list, tuple, Sequence)


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flatten(inner, f"{prefix}.{key}")]
    if isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        return [pair for number, inner in enumerate(value) for pair in _flatten(inner, f"{prefix}.{number}")]
    return [(prefix, value)]

"""The study file: YAML that people type, read strictly into models, methods, calibration specs and evaluation.

A study is a product of axes. Its keys are the fields of the dataclasses that use them, so a method's options are
documented in the method's own file and their defaults stand there once. The hard case is the error: whatever is wrong
is found here, before anything runs, and named with its path, its value and what to write instead.
"""

from __future__ import annotations

import itertools
import math
import re
import types
import typing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from calib.files import absolute
from calib.settings import (
    SettingsError,
    as_dict,
    check_plain,
    identity,
    parse,
    settings,
    shown,
    suggestion,
)
from calib.sources.file import label_of
from calib.spec import CalibrationSpec
from calib.yamltext import read_yaml, read_yaml_file
from methods.base import METHODS, Composition, Method, parse_method
from sweep.evaluation.settings import EvaluationSettings
from sweep.models import ModelRef, resolve_model
from sweep.study_file.grid import MAX_TRIALS, check_levels, parse_calibration, refuse_twice

STUDIES = Path(__file__).parent / "studies"
MAX_METHODS = 10_000


def _check_study_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(
            f"expected a name of 1 to 100 letters, digits, '_', '.' and '-' that begins with a letter or digit (it "
            f"names the results folder), got {shown(name)}"
        )
    return name


@settings
class StudyFile:
    """The keys of a study file."""

    study: Annotated[str, AfterValidator(_check_study_name)]
    """Name of the study, and of its results folder."""
    description: str = ""
    seed: int = Field(default=0, ge=0)
    """Seed of the calibration sets (unless `calibration.seed` is given)."""
    models: list[Any]
    """Names of bundled models, folders, hub ids, or mappings {model, revision, dtype, max_length, name,
    placement, trust_remote_code}."""
    methods: list[Any]
    """Mappings {method, its settings}; a list value runs several settings, a list of mappings is a composition."""
    calibration: Any = None
    """One mapping of axes (sweep/study_file/grid.py), or a list of such mappings."""
    evaluation: Mapping[str, Any]
    """See sweep/evaluation/settings.py."""


@dataclass(frozen=True)
class Study:
    """A study, resolved: every name looked up, every default filled in, nothing run yet."""

    name: str
    description: str
    seed: int
    models: tuple[ModelRef, ...]
    methods: tuple[Method, ...]
    labels: tuple[str, ...]  # of the methods, distinct
    calibration: tuple[CalibrationSpec, ...]
    evaluation: EvaluationSettings
    document: Mapping[str, Any] = field(repr=False)  # the resolved study file; reading it gives this study again

    def to_yaml(self) -> str:
        """The resolved study file, a study file itself."""
        return yaml.safe_dump(dict(self.document), sort_keys=False, allow_unicode=True)


def load_study(name_or_path: str, overrides: Sequence[str] = ()) -> Study:
    """Read a study of `sweep/studies/` by name, or any study file by path, with `key=value` overrides.

    Raises SettingsError with the path of the key, the value and the remedy.
    """
    document = read_document(find_study(name_or_path))
    for override in overrides:
        apply_override(document, override)
    return parse_study(document)


def find_study(name_or_path: str) -> Path:
    """The file of a study. A word without a slash or `.yaml` is the name of one that ships."""
    if "/" not in name_or_path and not name_or_path.endswith((".yaml", ".yml")):
        if name_or_path not in study_names():
            hint = suggestion(name_or_path, study_names())
            raise SettingsError(f"unknown study {shown(name_or_path)}{hint} (or give the path of a study file)")
        return STUDIES / f"{name_or_path}.yaml"
    path = absolute(name_or_path, "study")
    try:
        if path.is_dir():
            raise SettingsError(f"study {shown(name_or_path)} is a folder; give the study file itself")
        if path.exists() and not path.is_file():
            raise SettingsError(f"study {shown(name_or_path)} is no regular file; give a YAML file")
        if not path.is_file():
            near = list(path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
            typed = name_or_path.rpartition("/")[0]
            names = [f"{typed}/{other.name}" if typed else other.name for other in near]
            raise SettingsError(f"study file {shown(name_or_path)} does not exist{suggestion(name_or_path, names)}")
    except OSError as error:
        raise SettingsError(f"study file {shown(name_or_path)} cannot be read: {error.strerror}") from None
    return path


def study_names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


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


# sections


def parse_study(document: Mapping[str, Any]) -> Study:
    """Build the study from the mapping in its file. Raises SettingsError.

    Files are named relative to the working directory, and resolved here: a worker has a working directory of its own.
    """
    check_plain(document, "")
    study_file = parse(StudyFile, _with_absolute_paths(document), "")
    models = _parse_models(study_file.models)
    methods = _parse_methods(study_file.methods)
    if (trials := len(models) * (1 + len(methods))) > MAX_TRIALS:
        raise SettingsError(
            f"methods: {len(models):,} models and {len(methods):,} methods make {trials:,} trials without any "
            f"calibration set; a study has at most {MAX_TRIALS:,}; give fewer of them"
        )
    needing = [method for method in methods if not method.data_free]
    specs, calibration_document = parse_calibration(
        study_file.calibration, study_file.seed, max(len(models) * len(needing), 1)
    )
    labels = _labels(methods)
    if needing and not specs:
        label = labels[methods.index(needing[0])]
        raise SettingsError(f"calibration: required, but not given: {label} needs calibration data")
    evaluation = parse(EvaluationSettings, study_file.evaluation, "evaluation")
    evaluation = replace(evaluation, allow_code=bool(evaluation.allow_code))  # a file is not believed without a word
    resolved = {
        "study": study_file.study,
        "description": study_file.description,
        "seed": study_file.seed,
        "models": list(study_file.models),
        "methods": [_method_document(method) for method in methods],
        "calibration": calibration_document,
        "evaluation": as_dict(evaluation),
    }
    return Study(
        name=study_file.study,
        description=study_file.description,
        seed=study_file.seed,
        models=tuple(models),
        methods=tuple(methods),
        labels=tuple(labels),
        calibration=tuple(specs),
        evaluation=evaluation,
        document={key: value for key, value in resolved.items() if value is not None},
    )


def _with_absolute_paths(value: Any, place: str = "") -> Any:
    """The document with the `path` of every `file` source, wherever it stands, and `task_path` made absolute."""
    if isinstance(value, list):
        return [_with_absolute_paths(inner, f"{place}[{number}]") for number, inner in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if value.get("source") == "file":
        return _absolute_source(value, place)
    return {
        key: _absolute(inner, f"{place}.{key}") if key == "task_path" else _with_absolute_paths(inner, f"{place}.{key}")
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


def _parse_models(entries: Sequence[Any]) -> list[ModelRef]:
    if not entries:
        raise SettingsError("models: expected at least one model, got []")
    models = [resolve_model(entry, f"models[{number}]") for number, entry in enumerate(entries)]
    refuse_twice("models", [model.name for model in models], "give one of them another `name`")
    return models


def _parse_methods(entries: Sequence[Any]) -> list[Method]:
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


def _labels(methods: Sequence[Method]) -> list[str]:
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


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flatten(inner, f"{prefix}.{key}")]
    if isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        return [pair for number, inner in enumerate(value) for pair in _flatten(inner, f"{prefix}.{number}")]
    return [(prefix, value)]


def _method_document(method: Method) -> Any:
    """The method as an entry of a study file, with every setting written out."""
    if isinstance(method, Composition):
        return [_method_document(step) for step in method.steps]
    return {key: value for key, value in method.identity().items() if key != "version"}

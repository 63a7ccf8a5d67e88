"""The study file: YAML that people type, read strictly into models, methods, calibration specs and evaluation.

A study is a product of axes. Its keys are the fields of the dataclasses that use them, so a method's options are
documented in the method's own file and their defaults stand there once. The hard case is the error: whatever is wrong
is found here, before anything runs, and named with its path, its value and what to write instead.
"""

from __future__ import annotations

import itertools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from calib.settings import SettingsError, as_dict, identity, parse, settings, suggestion
from calib.source import Source, get_source
from calib.sources.file import label_of
from calib.spec import CalibrationSpec
from methods.base import METHODS, Composition, Method, parse_method
from sweep.evaluation.settings import EvaluationSettings
from sweep.models import ModelRef, resolve_model

STUDIES = Path(__file__).parent / "studies"


@settings
class StudyFile:
    """The keys of a study file."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
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
    """One mapping of axes (see CalibrationFile), or a list of such mappings."""
    evaluation: Mapping[str, Any]
    """See sweep/evaluation/settings.py."""


@settings
class CalibrationFile:
    """The keys of `calibration`. Every value but `seed` may be a list: one level of the factor each."""

    source: Any
    sets: Any = 1
    nsamples: Any = 128
    seqlen: Any = 2048
    sampling: Any = "windows"
    separator: Any = "eos"
    add_bos: Any = False
    seed: int | None = Field(default=None, ge=0)


AXES = ("nsamples", "seqlen", "sampling", "separator", "add_bos")


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
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path).expanduser()
        if path.is_dir():
            raise SettingsError(f"study '{name_or_path}' is a folder; give the study file itself")
        if not path.is_file():
            near = (
                [str(path.parent / other.name) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
            )
            raise SettingsError(f"study file '{name_or_path}' does not exist{suggestion(name_or_path, near)}")
        return path
    path = STUDIES / f"{name_or_path}.yaml"
    if not path.is_file():
        raise SettingsError(f"unknown study '{name_or_path}'{suggestion(name_or_path, study_names())}")
    return path


def study_names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises SettingsError for an empty file, bad YAML or a key given twice."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: {_where(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    if document is None:
        raise SettingsError(f"{path}: the file is empty; a study needs study, models, methods and evaluation")
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: expected a mapping with the keys of a study, got {type(document).__name__}")
    return document


# overrides: --set methods[1].bits=4


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one value in the document. The path is dotted, list items are numbered: `methods[1].bits=4`."""
    path, equals, text = override.partition("=")
    steps = _steps(path.strip())
    if not equals or not steps:
        raise SettingsError(f"--set {override}: expected key=value, such as calibration.sets=2 or methods[1].bits=4")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {override}: {_where(error)}") from None
    place: Any = document
    for number, step in enumerate(steps):
        where = _join(steps[:number])
        last = number == len(steps) - 1
        _check_step(place, step, where, override)
        if last:
            place[step] = value
        elif isinstance(step, str) and place.get(step) is None:
            place[step] = {}
            place = place[step]
        else:
            place = place[step]


def _steps(path: str) -> list[str | int]:
    if not re.fullmatch(r"[A-Za-z_]\w*(\[\d+\])*(\.[A-Za-z_]\w*(\[\d+\])*)*", path):
        return []
    return [int(part) if part.isdigit() else part for part in re.findall(r"[A-Za-z_]\w*|\d+", path)]


def _join(steps: Sequence[str | int]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.lstrip(".") or "the study"


def _check_step(place: Any, step: str | int, where: str, override: str) -> None:
    if isinstance(step, int):
        if not isinstance(place, list):
            raise SettingsError(f"--set {override}: {where} is not a list, so it has no item [{step}]")
        if step >= len(place):
            raise SettingsError(f"--set {override}: {where} has {len(place)} items, [0] to [{len(place) - 1}]")
    elif not isinstance(place, dict):
        hint = f" (items are {where}[0] to {where}[{len(place) - 1}])" if isinstance(place, list) else ""
        raise SettingsError(f"--set {override}: {where} is {place!r}, so it has no key '{step}'{hint}")


# sections


def parse_study(document: Mapping[str, Any]) -> Study:
    """Build the study from the mapping in its file. Raises SettingsError.

    Files are named relative to the working directory, and resolved here: a worker has a working directory of its own.
    """
    study_file = parse(StudyFile, _with_absolute_paths(document), "")
    models = _parse_models(study_file.models)
    methods = _parse_methods(study_file.methods)
    specs, calibration_document = _parse_calibration(study_file)
    needing = [label for label, method in zip(_labels(methods), methods, strict=True) if not method.data_free]
    if needing and not specs:
        raise SettingsError(f"calibration: required, but not given: {needing[0]} needs calibration data")
    evaluation = parse(EvaluationSettings, study_file.evaluation, "evaluation")
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
        labels=tuple(_labels(methods)),
        calibration=tuple(specs),
        evaluation=evaluation,
        document={key: value for key, value in resolved.items() if value is not None},
    )


def _with_absolute_paths(value: Any) -> Any:
    """The document with the `path` of every `file` source, wherever it stands, and `task_path` made absolute."""
    if isinstance(value, list):
        return [_with_absolute_paths(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if value.get("source") == "file":
        return _absolute_source(value)
    return {
        key: _absolute(inner) if key == "task_path" else _with_absolute_paths(inner) for key, inner in value.items()
    }


def _absolute_source(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A `file` source; its label comes from the path as it was typed, so that it is the same in every folder."""
    path = entry.get("path")
    first = path[0] if isinstance(path, list) and path else path
    if not isinstance(first, str):
        return entry  # left for the check of its type
    return {"label": label_of(first), **entry, "path": _absolute(path)}


def _absolute(path: Any) -> Any:
    if isinstance(path, list):
        return [_absolute(item) for item in path]
    return str(Path(path).expanduser().absolute()) if isinstance(path, str) and path else path


def _parse_models(entries: Sequence[Any]) -> list[ModelRef]:
    if not entries:
        raise SettingsError("models: expected at least one model, got []")
    models = [resolve_model(entry, f"models[{number}]") for number, entry in enumerate(entries)]
    _refuse_twice("models", [model.name for model in models], "give one of them another `name`")
    return models


def _parse_methods(entries: Sequence[Any]) -> list[Method]:
    if not entries:
        raise SettingsError("methods: expected at least one method, got [] (the dense model is a trial anyway)")
    methods, places = [], []
    for number, entry in enumerate(entries):
        path = f"methods[{number}]"
        if "dense" in (entry, entry.get("method") if isinstance(entry, Mapping) else None):
            raise SettingsError(f"{path}: the dense model is always a trial; leave 'dense' out")
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


def _expand_entry(entry: Any, path: str) -> list[Any]:
    """`{method: gptq, bits: [3, 4]}` -> two entries; a composition expands part by part."""
    if isinstance(entry, list):
        if not entry:
            raise SettingsError(f"{path}: expected a composition of methods, got []")
        parts = [_expand_entry(part, f"{path}[{number}]") for number, part in enumerate(entry)]
        return [list(choice) for choice in itertools.product(*parts)]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("method"), str):
        return [entry]  # parse_method explains what is wrong with it
    name = entry["method"]
    axes = [key for key, value in entry.items() if isinstance(value, list) and not _takes_list(name, key)]
    for key in axes:
        _check_levels(entry[key], f"{path}.{key}")
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
    for label in {label for label in labels if labels.count(label) > 1}:
        same = [number for number, other in enumerate(labels) if other == label]
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


def _parse_calibration(study_file: StudyFile) -> tuple[list[CalibrationSpec], Any]:
    section = study_file.calibration
    if section is None:
        return [], None
    several = isinstance(section, list)
    parts = section if several else [section]
    if not parts:
        raise SettingsError("calibration: expected a mapping of axes, or a list of them, got []")
    specs: list[CalibrationSpec] = []
    documents = []
    for number, part in enumerate(parts):
        path = f"calibration[{number}]" if several else "calibration"
        grid = parse(CalibrationFile, part, path)
        specs += _calibration_grid(grid, study_file.seed, path)
        documents.append({item.name: getattr(grid, item.name) for item in fields(grid)})
    _check_source_labels(specs)
    if several:  # a single grid cannot repeat itself
        keys = [
            str((spec.source.label, spec.set, spec.seed, *(getattr(spec, axis) for axis in AXES))) for spec in specs
        ]
        _refuse_twice("calibration sets", keys, "leave the repeated calibration set out")
    return specs, documents if several else documents[0]


def _calibration_grid(grid: CalibrationFile, seed: int, path: str) -> list[CalibrationSpec]:
    """All specs of one product of axes, source by source, set by set."""
    entries = grid.source if isinstance(grid.source, list) else [grid.source]
    _check_levels(entries, f"{path}.source")
    sources: list[Source] = []
    for number, entry in enumerate(entries):
        place = f"{path}.source[{number}]" if isinstance(grid.source, list) else f"{path}.source"
        sources.append(get_source(entry, place))
    sets = _set_numbers(grid.sets, f"{path}.sets")
    levels = []
    for axis in AXES:
        value = getattr(grid, axis)
        if isinstance(value, list):
            _check_levels(value, f"{path}.{axis}")
        levels.append(value if isinstance(value, list) else [value])
    chosen_seed = seed if grid.seed is None else grid.seed
    return [
        parse(
            CalibrationSpec,
            {"source": source, "set": number, "seed": chosen_seed, **dict(zip(AXES, values, strict=True))},
            path,
        )
        for source in sources
        for values in itertools.product(*levels)
        for number in sets
    ]


def _set_numbers(sets: Any, path: str) -> list[int]:
    """`3` -> [0, 1, 2]; a list names the sets themselves."""
    if isinstance(sets, bool) or not isinstance(sets, int | list):
        raise SettingsError(f"{path}: expected a number of sets, or a list of set numbers, got {sets!r}")
    if isinstance(sets, int):
        if sets < 1:
            raise SettingsError(f"{path}: expected at least 1, got {sets}")
        return list(range(sets))
    _check_levels(sets, path)
    for number in sets:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise SettingsError(f"{path}: expected set numbers from 0, got {number!r}")
    return list(sets)


def _check_levels(levels: Sequence[Any], path: str) -> None:
    if not levels:
        raise SettingsError(f"{path}: expected at least one value, got []")
    _refuse_twice(path, [repr(level) for level in levels], "leave the repeated one out")


def _refuse_twice(path: str, keys: Sequence[str], remedy: str) -> None:
    seen: set[str] = set()
    for number, key in enumerate(keys):
        if key in seen:
            raise SettingsError(f"{path}[{number}]: {key} is there twice; {remedy}")
        seen.add(key)


def _check_source_labels(specs: Sequence[CalibrationSpec]) -> None:
    """Two different sources must not share a label: the tables would mix them."""
    known: dict[str, Source] = {}
    for spec in specs:
        other = known.setdefault(spec.source.label, spec.source)
        if other != spec.source:
            raise SettingsError(
                f"calibration.source: two different sources are labelled '{spec.source.label}'; "
                "give one of them another `label`"
            )


# YAML as people mean it


class _Loader(yaml.SafeLoader):
    """YAML where `2:4` is text (not the number 124), `1e-3` is a number, and a key given twice is an error."""


_RULES = yaml.SafeLoader.yaml_implicit_resolvers
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in _NUMBERS] for first, rules in _RULES.items()
}
_Loader.add_implicit_resolver(_NUMBERS[0], re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _NUMBERS[1], re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+0123456789.")
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    merge = "tag:yaml.org,2002:merge"  # `<<: *defaults`
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is there twice", node.start_mark)
    loader.flatten_mapping(node)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def _where(error: yaml.YAMLError) -> str:
    """`line 3: ...` from an error of the YAML reader."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        return f"{line}{error.problem or error.context}"
    return f"not valid YAML: {error}"

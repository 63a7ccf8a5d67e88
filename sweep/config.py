"""The study file: YAML that people type, read strictly into models, methods, calibration specs and evaluation.

A study is a product of axes. Its keys are the fields of the dataclasses that use them, so a method's options are
documented in the method's own file and their defaults stand there once. The hard case is the error: whatever is wrong
is found here, before anything runs, and named with its path, its value and what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from calib.files import absolute
from calib.settings import (
    SettingsError,
    as_dict,
    check_plain,
    parse,
    settings,
    shown,
    suggestion,
)
from calib.spec import CalibrationSpec
from methods.base import Method
from sweep.evaluation.settings import EvaluationSettings
from sweep.models import ModelRef, resolve_model
from sweep.study_file.calibration import parse_calibration
from sweep.study_file.document import apply_override, read_document
from sweep.study_file.evaluation import asked_id, parse_evaluation
from sweep.study_file.levels import MAX_TRIALS, refuse_twice
from sweep.study_file.methods import distinct_labels, method_document, parse_methods

STUDIES = Path(__file__).parent / "studies"


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
    """One mapping of axes (sweep/study_file/calibration.py), or a list of such mappings."""
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


def parse_study(document: Mapping[str, Any]) -> Study:
    """Build the study from the mapping in its file. Raises SettingsError.

    Files are named relative to the working directory, and resolved here: a worker has a working directory of its own.
    """
    check_plain(document, "")
    study_file = parse(StudyFile, document, "")
    folder = Path.cwd()
    models = _parse_models(study_file.models)
    methods = parse_methods(study_file.methods)
    if (trials := len(models) * (1 + len(methods))) > MAX_TRIALS:
        raise SettingsError(
            f"methods: {len(models):,} models and {len(methods):,} methods make {trials:,} trials without any "
            f"calibration set; a study has at most {MAX_TRIALS:,}; give fewer of them"
        )
    needing = [method for method in methods if not method.data_free]
    evaluation = parse_evaluation(study_file.evaluation, folder)
    specs, calibration_document = parse_calibration(
        study_file.calibration,
        study_file.seed,
        max(len(models) * len(needing), 1),
        folder,
        lambda: asked_id(evaluation),
    )
    labels = distinct_labels(methods)
    if needing and not specs:
        label = labels[methods.index(needing[0])]
        raise SettingsError(f"calibration: required, but not given: {label} needs calibration data")
    resolved = {
        "study": study_file.study,
        "description": study_file.description,
        "seed": study_file.seed,
        "models": list(study_file.models),
        "methods": [method_document(method) for method in methods],
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


def _parse_models(entries: Sequence[Any]) -> list[ModelRef]:
    if not entries:
        raise SettingsError("models: expected at least one model, got []")
    models = [resolve_model(entry, f"models[{number}]") for number, entry in enumerate(entries)]
    refuse_twice("models", [model.name for model in models], "give one of them another `name`")
    return models

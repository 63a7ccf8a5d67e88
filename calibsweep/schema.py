"""`calibsweep schema`: the JSON schema of a study file, from the dataclasses that read it.

Editors complete keys with it, show what they mean and underline typos while the file is written. It is what a study may
look like, and no more: sums over several keys, files that must exist and the like are checked by `calibsweep plan`. The
hard case is a list: where a setting takes one value, a list of values is an axis of the study.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

import typer
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from calib.select import SELECTORS
from calib.source import SOURCES
from calib.spec import CalibrationSpec
from methods.base import METHODS
from sweep.config import StudyFile
from sweep.evaluation.settings import EvaluationSettings
from sweep.models import ModelEntry, bundled_models
from sweep.study_file.calibration import AXES, CalibrationFile

DRAFT = "http://json-schema.org/draft-07/schema#"  # which every editor reads
Schema = dict[str, Any]
SOURCE: Schema = {"$ref": "#/definitions/source"}


def study_schema() -> Schema:
    """The schema of a study file."""
    study = settings_schema(StudyFile)
    study["properties"] |= {
        "models": _list_of({"$ref": "#/definitions/model"}, "models"),
        "methods": _list_of({"$ref": "#/definitions/method"}, "methods"),
        "calibration": _one_or_more({"$ref": "#/definitions/calibration"}),
        "evaluation": {"$ref": "#/definitions/evaluation"},
    }
    return {"$schema": DRAFT, "title": "A study of calibration data", **study, "definitions": _definitions()}


def _definitions() -> dict[str, Schema]:
    calibration = settings_schema(CalibrationFile)
    of_a_set = settings_schema(CalibrationSpec)["properties"]
    calibration["properties"] |= {
        **{axis: _axis(of_a_set[axis] | _default(calibration["properties"][axis])) for axis in AXES},
        "exclude_overlap": _axis({"type": ["boolean", "integer"], "default": False}),
        "select": _axis({"anyOf": [*_selector()["anyOf"], {"type": "null"}]}),
        "sets": _one_or_more({"type": "integer", "minimum": 0}),
        "source": _one_or_more(SOURCE),
    }
    named = {"enum": SOURCES.names()}
    sources = [named, *(_named("source", name, SOURCES.get(name)) for name in SOURCES.names())]
    methods = [_named("method", name, METHODS.get(name), axes=True) for name in METHODS.names()]
    evaluation = settings_schema(EvaluationSettings)
    evaluation["properties"]["heldout"] = {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, SOURCE]},
    }
    return {
        "model": {"anyOf": [{"type": "string", "examples": bundled_models()}, settings_schema(ModelEntry)]},
        "method": {"anyOf": [*methods, {"type": "array", "items": {"anyOf": methods}, "minItems": 2}]},
        "source": {"anyOf": sources},
        "calibration": calibration,
        "evaluation": evaluation,
    }


def _selector() -> Schema:
    """A rule of selection: its name, or its settings with the name as `by`."""
    rules = [_named("by", name, SELECTORS.get(name)) for name in SELECTORS.names()]
    return {"anyOf": [{"enum": SELECTORS.names()}, *rules]}


def _default(part: Schema) -> Schema:
    return {"default": part["default"]} if "default" in part else {}


def settings_schema(cls: Any) -> Schema:
    """The object that a settings dataclass reads: its keys with their types, defaults and docstrings."""
    told = field_docstrings(cls)
    known = {_key(cls, field): field for field in fields(cls) if field.init}
    properties = {key: _property(cls, field, told.get(field.name, "")) for key, field in known.items()}
    required = [key for key, field in known.items() if _is_required(cls, field)]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _key(cls: Any, field: Field[Any]) -> str:
    """The key in a study: another than the field's name where Python would not take it."""
    return str(getattr(cls.__pydantic_fields__[field.name], "alias", None) or field.name)


def _is_required(cls: Any, field: Field[Any]) -> bool:
    return bool(cls.__pydantic_fields__[field.name].is_required())


def _property(cls: Any, field: Field[Any], about: str) -> Schema:
    info = cls.__pydantic_fields__[field.name]
    try:
        schema = _with_sources(TypeAdapter(info.rebuild_annotation()).json_schema())
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):  # a type that is checked by our own code
        schema = {}
    if field.default is not MISSING and isinstance(field.default, str | int | float | bool):
        schema["default"] = field.default
    if about:
        schema["description"] = about
    return schema


def _with_sources(schema: Any) -> Any:
    """The schema with a source by its name, where pydantic gives the base class of all sources."""
    if isinstance(schema, list):
        return [_with_sources(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("title") == "Source" or str(schema.get("$ref", "")).endswith("/Source"):
        return SOURCE
    return {key: _with_sources(part) for key, part in schema.items() if key not in ("$defs", "title")}


def _named(key: str, name: str, cls: Any, *, axes: bool = False) -> Schema:
    """An entry that says by `key` what it is."""
    schema = settings_schema(cls)
    properties = {k: _axis(part) if axes else part for k, part in schema["properties"].items()}
    about = inspect.getdoc(cls) or ""
    required = [key, *schema.get("required", [])]
    named = {key: {"const": name, **({"description": about} if about else {})}}
    return {**schema, "properties": {**named, **properties}, "required": required}


def _axis(part: Mapping[str, Any]) -> Schema:
    """A value, or a list of them: a level each."""
    about = {key: part[key] for key in ("description", "default") if key in part}
    bare = {key: value for key, value in part.items() if key not in about}
    return {**about, "anyOf": [bare, {"type": "array", "items": bare, "minItems": 1}]}


def _one_or_more(part: Schema) -> Schema:
    return {"anyOf": [part, {"type": "array", "items": part, "minItems": 1}]}


def _list_of(part: Schema, name: str) -> Schema:
    about = field_docstrings(StudyFile).get(name, "")
    return {"type": "array", "items": part, "minItems": 1, "description": about}


def field_docstrings(cls: Any) -> dict[str, str]:
    """The docstrings that stand below the fields of a class, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        if base.__module__.startswith("pydantic"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            match (field, text):
                case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(about)))):
                    found[name] = " ".join(about.split())
    return found


def main() -> None:
    """Print the JSON schema of a study file. In the file: # yaml-language-server: $schema=PATH."""
    typer.echo(json.dumps(study_schema(), indent=1))

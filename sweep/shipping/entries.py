"""What people type in one command, as entries of a study: a model, a method with its settings, a text.

`sweep.compress` and `sweep.advise` make a study of them, so that what was meant can be read, and run again, later.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib.files import TEXT, text_column
from calib.settings import SettingsError, shown
from calib.source import SOURCES
from calib.yamltext import read_yaml
from methods.base import Composition, Method
from sweep.formats.grids import grid_of
from sweep.models import ModelRef, load_config

HELDOUT = ["books", "code", "dialogue_qa", "encyclopedia", "legal", "news_blogs", "tech_proposals", "web_docs"]
LONGEST = 2048  # tokens of a window, where nothing else is asked for and the model's context has room


def source_entry(data: Any) -> Any:
    """The entry of a study. What is written like a path, with a slash or an ending, is one; of other words the name of
    a source is that source, whatever files there are, and any other is a file if there is one. Of records the column
    is the only one with text, where none is called so."""
    if isinstance(data, os.PathLike) or (isinstance(data, str) and is_path(data)):
        path = str(Path(data).expanduser().absolute())
        column = text_column(path)
        return {"source": "file", "path": path, **({"column": column} if column != TEXT else {})}
    return data


def is_path(data: str) -> bool:
    """Whether a word for a text is a file rather than a source."""
    return os.sep in data or bool(Path(data).suffix) or (data not in SOURCES.names() and os.path.exists(data))


def data_note(data: str | None, *, used: bool) -> str:
    """A line that tells a source from a file of the same name here, or that the method looked at no text; empty where
    there is nothing to tell."""
    if data is not None and not used:
        return f"note: the method looks at no text, so --data {data} was not used\n"
    if data is None or data.lstrip().startswith("{") or is_path(data) or not os.path.exists(data):
        return ""
    return f"note: --data {data} is the source of that name; write ./{data} for the file or folder here\n"


def stored_dtype(ref: ModelRef) -> str:
    """The type of the model's weights: what was asked for, else what the checkpoint says."""
    if ref.dtype != "auto":
        return ref.dtype
    stored = ref.stored_dtype or getattr(load_config(ref), "dtype", None) or "float32"
    return str(stored).removeprefix("torch.")


def with_scales(entry: Any, method: Method, dtype: str) -> Any:
    """The method's entry with scales in the model's type, where it has scales and does not say which."""
    if isinstance(method, Composition):
        return [with_scales(*pair, dtype) for pair in zip(entry, method.steps, strict=True)]
    entry = {"method": entry} if isinstance(entry, str) else dict(entry)
    return {"scale_dtype": dtype, **entry} if grid_of(method) is not None else entry


def typed_method(name: str, pairs: Sequence[str], bits: int | None) -> dict[str, Any]:
    """`--method gptq --bits 4 --set group_size=128` as the entry of a study. Raises SettingsError, also for a setting
    that is given twice, of which only one could be what is meant."""
    found = typed_settings(pairs)
    if "method" in found:
        raise SettingsError("--set method: the method is named by --method; leave it out")
    if bits is not None and "bits" in found:
        raise SettingsError(f"--bits {bits} and --set bits={found['bits']}: both say the bits; give one of them")
    return {"method": name, **found, **({} if bits is None else {"bits": bits})}


def typed_source(text: str) -> Any:
    """A name or a path as it is; `{source: file, path: my.jsonl, column: body}` as the entry that it spells."""
    return read_yaml(text) if text.lstrip().startswith("{") else text


def typed_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`bits=4` as a setting, its value read as a study file reads it. Raises SettingsError."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {shown(pair)}: expected key=value, such as bits=4")
        if key in found:
            raise SettingsError(f"--set {key}: is given twice; leave one out")
        found[key] = read_yaml(value)
    return found

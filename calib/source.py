"""Where text comes from: a source yields documents in a stable order, and says which version of the data it reads.

A source is a frozen dataclass of settings (one file in `calib/sources/` each), so a study file can name it: `books`, or
`{source: file, path: my.jsonl}`. Everything that draws calibration windows works on documents alone; the hard part
here is identity. Two runs that read the same text must agree on the id of a calibration set although a file was moved
or relabelled, and two runs that read different text must differ although every setting is equal. Hence `identity()`
leaves out what only says where or how to call it, and `revision()` hashes local content or names the hub's commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, ClassVar, TypeVar

import numpy as np

from calib.registry import Registry
from calib.settings import SHOWN, SettingsError, check_label, one_line, parse, settings, shown

S = TypeVar("S", bound="type[Source]")

TOKENIZE_BATCH = 256  # documents a call: large enough for the tokenizer's threads, small enough for memory


@dataclass(frozen=True)
class Document:
    """One text: an article, a page, a source file. `id` is stable between runs and unique within its source."""

    id: str
    text: str


@dataclass(frozen=True)
class TokenDocument:
    """A document as token ids, without special tokens."""

    id: str
    tokens: np.ndarray  # (length,), int32


@settings
class Source:
    """Base of all sources. `label` names the source in tables and figures; by default the source's own name."""

    source_name: ClassVar[str] = ""
    not_identity: ClassVar[frozenset[str]] = frozenset({"label", "path"})

    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", one_line(self.default_label()))
            return
        try:
            check_label(self.label)
        except ValueError as error:
            raise ValueError(f"label: {error}") from None

    def default_label(self) -> str:
        return self.source_name

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the registered name and every setting; `get_source` turns it back into this source."""
        return {"source": self.source_name, **{key: getattr(self, name) for name, key in _setting_keys(type(self))}}

    def identity(self) -> dict[str, Any]:
        """The settings that can change the text, without names and places. The revision is not among them."""
        return {key: value for key, value in self.to_dict().items() if key not in self.not_identity}

    def revision(self) -> str:
        """The version of the data, known without a network: a hash of local content, or the pinned hub revision."""
        raise NotImplementedError(f"{type(self).__name__} must say which version of its data it reads")

    def resolved_revision(self) -> str:
        """The revision as recorded when a set is built; a hub branch is resolved to its commit where possible."""
        return self.revision()

    def check(self) -> None:
        """A quick look before any work starts. Raises SettingsError: missing or empty file, unknown column, ..."""

    def documents(self) -> Iterator[Document]:
        """All documents, always in the same order. Documents without text are left out."""
        raise NotImplementedError(f"{type(self).__name__} must yield its documents")

    def capacity(self) -> int | None:
        """An upper bound on the tokens of the source, known without tokenizing; None when unknown or huge."""
        return None

    def components(self) -> list[tuple[Source, float]]:
        """(source, share of the windows). A plain source is its own single part; a mixture has several."""
        return [(self, 1.0)]

    def token_documents(self, tokenizer: Any) -> Iterator[TokenDocument]:
        """The documents as token ids, without special tokens. Documents that give no token are left out."""
        documents = self.documents()
        while batch := list(islice(documents, TOKENIZE_BATCH)):
            texts = [document.text for document in batch]
            encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
            for document, ids in zip(batch, encoded["input_ids"], strict=True):
                if len(ids):
                    yield TokenDocument(document.id, np.asarray(ids, dtype=np.int32))


SOURCES: Registry[type[Source]] = Registry("source", "calib.sources")


def register(name: str) -> Callable[[S], S]:
    """Decorator that offers a source class under a name."""

    def add(cls: S) -> S:
        cls.source_name = name
        SOURCES.register(name)(cls)
        return cls

    return add


def get_source(entry: str | Mapping[str, Any] | Source, path: str = "source") -> Source:
    """The source that an entry of a study file means: `"books"`, or `{"source": "file", "path": "x.jsonl"}`.

    `path` is where the entry stands in the study, for the error message. Raises SettingsError for an unknown source
    (with a suggestion) and for unknown, missing or wrong settings. Nothing is read; `check()` does that.
    """
    if isinstance(entry, Source):
        return entry
    if isinstance(entry, str):
        return parse(_source_class(entry, path), {}, path)
    if not isinstance(entry, Mapping):
        raise SettingsError(
            f"{path}: expected the name of a source or a mapping with the key 'source', got {shown(entry)}"
        )
    if "source" not in entry:
        raise SettingsError(f"{path}: names no source; write {{source: file, path: ...}}, or one of {_known()}")
    name = entry["source"]
    if not isinstance(name, str):
        raise SettingsError(f"{path}.source: expected the name of a source, got {shown(name)}")
    values = {key: value for key, value in entry.items() if key != "source"}
    if values.get("label") == "":
        raise SettingsError(f"{path}.label: expected a name, got ''; leave it out to take the source's own")
    return parse(_source_class(name, f"{path}.source"), values, path)


def _source_class(name: str, path: str) -> type[Source]:
    try:
        return SOURCES.get(name)
    except SettingsError as error:
        looks_like_path = "/" in name or "." in name
        hint = f"; to read a file write {{source: file, path: {one_line(name)[:SHOWN]}}}" if looks_like_path else ""
        raise SettingsError(f"{path}: {error}{hint}") from None


def _known() -> str:
    return ", ".join(SOURCES.names())


def _setting_keys(cls: type[Source]) -> Iterator[tuple[str, str]]:
    """(attribute, key in a study file) of each setting; they differ only where pydantic has an alias."""
    described = getattr(cls, "__pydantic_fields__", {})
    for field in fields(cls):
        yield field.name, getattr(described.get(field.name), "alias", None) or field.name

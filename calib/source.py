"""Where text comes from: a source yields documents in a stable order, and says which version of the data it reads.

A source is a frozen dataclass of settings (one file in `calib/sources/` each), so a study file can name it: `books`, or
`{source: file, path: my.jsonl}`. Everything that draws calibration windows works on documents alone; the hard part
here is identity. Two runs that read the same text must agree on the id of a calibration set although a file was moved
or relabelled, and two runs that read different text must differ although every setting is equal. Hence `identity()`
leaves out what only says where or how to call it, and `revision()` hashes local content or names the hub's commit.

A source that wraps another (`{source: mixture, ...}`) has settings of the type `SourceSetting`; the base class then
folds identity, revision, check, capacity and location over them, so a wrapper says no more than how it changes a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, cast

import numpy as np
from pydantic import BeforeValidator

from calib.files import expanded
from calib.registry import Registry
from calib.settings import (
    INSIDE,
    MAX_LABEL,
    SHOWN,
    SettingsError,
    check_label,
    identity,
    one_line,
    parse,
    settings,
    shown,
)
from calib.writer import Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

S = TypeVar("S", bound="type[Source]")

TOKENIZE_BATCH = 256  # documents a call: large enough for the tokenizer's threads, small enough for memory


@dataclass(frozen=True)
class Document:
    """One text: an article, a page, a source file. `id` is stable between runs and unique within its source."""

    id: str
    text: str


@dataclass(frozen=True)
class TokenDocument:
    """A document as token ids, without special tokens. `marks`, where there are any, finds which of them an assistant
    writes, (length,), bool, or None where that cannot be told; it is asked of documents that come into a set alone."""

    id: str
    tokens: np.ndarray  # (length,), int32
    marks: Callable[[], np.ndarray | None] | None = None


@dataclass(frozen=True)
class Record:
    """One record of a data set, of which a document is made: a conversation, a question with its answer."""

    id: str
    place: str  # for error messages: the file and the line, item or row
    values: Mapping[str, Any]


@settings
class SourceSettings:
    """What a source is before it is read: its settings, its identity, and what is known of its text.

    All of it folds over the sources among its settings, so one that wraps another says nothing of this itself. `label`
    names the source in tables and figures; by default the source's own name. `domain` is what the text is of: a held-
    out text of the same domain is the source's own, and by default the domain is the label. A subclass says in `paths`
    which of its settings name files, and in `example` what else it needs to be made: an entry of a study file without
    `source`, in which `my.jsonl` stands for the user's own file. `version` is part of the identity: it is raised when
    the same settings and data come to give other text than before. `licence` is that of the text, as those who publish
    it state it.
    """

    source_name: ClassVar[str] = ""
    paths: ClassVar[frozenset[str]] = frozenset({"path"})
    example: ClassVar[Mapping[str, Any]] = {}
    version: ClassVar[int] = 1
    licence: ClassVar[str] = "unknown"
    names: ClassVar[frozenset[str]] = frozenset({"label", "domain"})  # settings that only say what it is called

    label: str = ""
    domain: str = ""

    def __post_init__(self) -> None:
        if self.domain:
            try:
                check_label(self.domain)
            except ValueError as error:
                raise ValueError(f"domain: {error}") from None
        if not self.label:
            object.__setattr__(self, "label", one_line(self.default_label())[:MAX_LABEL])
            return
        try:
            check_label(self.label)
        except ValueError as error:
            raise ValueError(f"label: {error}") from None

    def default_label(self) -> str:
        """The source's own name; `name(books)` when it wraps another one."""
        inside = ", ".join(part.label for part in self.parts())
        return f"{self.source_name}({inside})" if inside else self.source_name

    @property
    def own_domain(self) -> str:
        """What its text is of, as it is compared with that of held-out text: `domain`, or the label."""
        return self.domain or self.label

    def parts(self) -> tuple[Source, ...]:
        """The sources that this one wraps: those among its settings. A plain source has none."""
        return tuple(part for _, value in self._settings() for part in _sources_in(value))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the registered name and every setting; `get_source` turns it back into this source."""
        values = self._mapped(lambda part: part.to_dict())
        if not self.domain:
            del values["domain"]
        return {"source": self.source_name, **values}

    def identity(self) -> dict[str, Any]:
        """The settings that can change the text, without names and places. The revision is not among them."""
        values = self._mapped(lambda part: part.identity())
        kept = {key: value for key, value in values.items() if key not in self.names | self.paths}
        return {"source": self.source_name, **kept, **({"code": self.version} if self.version > 1 else {})}

    def located(self, folder: str | Path, place: str = "source") -> Source:
        """The same source, its relative paths and those of its parts read from `folder`; the label stays.

        `place` is where the entry stands in the study, for the error message. Raises SettingsError for a path that
        cannot be one.
        """
        values = self._mapped(lambda part: part.located(folder, place))
        for key in self.paths & values.keys():
            values[key] = _located(values[key], Path(folder), f"{place}.{key}")
        return cast("Source", parse(type(self), values, place))

    def revision(self) -> str:
        """The version of the data, known without a network: a hash of local content, or the pinned hub revision."""
        if parts := self.parts():
            return f"parts:{identity([part.revision() for part in parts])}"
        raise NotImplementedError(f"{type(self).__name__} must say which version of its data it reads")

    def resolved_revision(self) -> str:
        """The revision as recorded when a set is built; a hub branch is resolved to its commit where possible."""
        if parts := self.parts():
            return "; ".join(f"{part.label}: {part.resolved_revision()}" for part in parts)
        return self.revision()

    @property
    def remote(self) -> bool:
        """Whether reading needs a network, so that `check` reads nothing."""
        return any(part.remote for part in self.parts())

    @property
    def excluded_words(self) -> int | None:
        """n where documents that share n words in a row with the evaluation are left out, None where they stay."""
        return max((n for part in self.parts() if (n := part.excluded_words)), default=None)

    @property
    def writes(self) -> bool:
        """Whether a model writes some of the text, so that a set is that model's own."""
        return any(part.writes for part in self.parts())

    @property
    def tells_responses(self) -> bool:
        """Whether its documents say which of their tokens an assistant writes."""
        return False

    def check(self) -> None:
        """A quick look before any work starts. Raises SettingsError: missing or empty file, unknown column, ..."""
        for part in self.parts():
            part.check()

    def licences(self) -> list[str]:
        """The licences of the text, each once."""
        inside = [licence for part in self.parts() for licence in part.licences()]
        return sorted(set(inside)) if inside else [self.licence]

    def capacity(self) -> int | None:
        """An upper bound on the tokens of the source, known without tokenizing; None when unknown or huge.

        That of the parts together; a source that makes its parts' texts longer says so.
        """
        bounds = [part.capacity() for part in self.parts()]
        known = [bound for bound in bounds if bound is not None]
        return sum(known) if bounds and len(known) == len(bounds) else None

    def _settings(self) -> Iterator[tuple[str, Any]]:
        """(key in a study file, value) of each setting."""
        for name, key in _setting_keys(type(self)):
            yield key, getattr(self, name)

    def _mapped(self, change: Callable[[Source], Any]) -> dict[str, Any]:
        """The settings by their keys, with every source among them changed."""
        return {key: _map_sources(value, change) for key, value in self._settings()}


@settings
class Source(SourceSettings):
    """Base of all sources: what it is, and its documents."""

    @property
    def begins_with_bos(self) -> bool:
        """Whether each of its documents surely begins with BOS, as is known before any is read."""
        return False

    def documents(self) -> Iterator[Document]:
        """All documents, always in the same order. Documents without text are left out."""
        raise NotImplementedError(f"{type(self).__name__} must yield its documents")

    def token_documents(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
        """The documents as token ids, without special tokens. Documents that give no token are left out."""
        return tokenized(self.documents(), tokenizer)

    def read(
        self, tokenizer: PreTrainedTokenizerBase, writer: Writer | None = None, asked: Sequence[str] | None = None
    ) -> Iterator[TokenDocument | None]:
        """The documents as sets are made of them, None in place of each that is left out.

        `writer` is the model that writes the text of a source that `writes`; `asked` are the texts of the evaluation,
        for sources that leave out what shares words with it.
        """
        if self.writes and writer is not None:
            return self.written(tokenizer, writer)
        return self.token_documents(tokenizer)

    def check_tokenizer(self, folder: str) -> None:
        """A look at a tokenizer's files before any work starts, as `check` has at the text. Raises SettingsError."""
        for part in self.parts():
            part.check_tokenizer(folder)

    def records(self) -> Iterator[Record]:
        """The records that the documents are made of, for sources that wrap them (`chat`). Raises SettingsError."""
        raise SettingsError(
            f"source '{self.label}': has no records; give a file (.jsonl, .json, .parquet) or a data set of the hub"
        )

    def messages_of(self, record: Record) -> Any:
        """The conversation in a record: its `messages` or `conversations`, None when it has none."""
        return record.values.get("messages", record.values.get("conversations"))

    def written(self, tokenizer: PreTrainedTokenizerBase, writer: Writer) -> Iterator[TokenDocument]:
        """The documents of a source that `writes`, as token ids."""
        raise SettingsError(f"source '{self.label}': cannot change what a model writes; wrap its prompts instead")

    def wrapped(self) -> Source | None:
        """The one source whose documents this one changes: its only part. None for plain sources and mixtures."""
        parts = self.parts()
        return parts[0] if len(parts) == 1 else None

    def components(self) -> list[tuple[Source, float]]:
        """(source, share of the windows). A plain source is its own single part; a mixture has several, and so has a
        source that wraps a mixture: itself around each of them."""
        wrapped = self.wrapped()
        inside = [] if wrapped is None else wrapped.components()
        if len(inside) < 2:
            return [(self, 1.0)]
        return [(self._around(part), share) for part, share in inside]

    def _around(self, inside: Source) -> Source:
        """This source around another one, with the label that follows from it."""
        wrapped = self.wrapped()
        values = self._mapped(lambda part: inside if part is wrapped else part)
        return parse(type(self), {**values, "label": ""}, "source")


def tokenized(documents: Iterator[Document], tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
    """The documents as token ids, without special tokens; those that give no token are left out."""
    while batch := list(islice(documents, TOKENIZE_BATCH)):
        texts = [document.text for document in batch]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for document, ids in zip(batch, encoded["input_ids"], strict=True):
            if len(ids):
                yield TokenDocument(document.id, np.asarray(ids, dtype=np.int32))


def _setting(entry: Any) -> Source:
    return get_source(entry, INSIDE)


SourceSetting = Annotated[Source, BeforeValidator(_setting)]  # a setting that is an entry of its own: `of: books`
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


def located_entry(entry: Any, folder: str | Path, path: str = "source") -> Any:
    """The entry of a study file with its relative paths read from `folder`; as it was typed when it has none.

    Raises SettingsError as `get_source` does.
    """
    source = get_source(entry, path)
    located = source.located(folder, path)
    return entry if located == source else located.to_dict()


def _source_class(name: str, path: str) -> type[Source]:
    try:
        return SOURCES.get(name)
    except SettingsError as error:
        looks_like_path = "/" in name or "." in name
        hint = f"; to read a file write {{source: file, path: {one_line(name)[:SHOWN]}}}" if looks_like_path else ""
        raise SettingsError(f"{path}: {error}{hint}") from None


def _known() -> str:
    return ", ".join(SOURCES.names())


def _setting_keys(cls: type[SourceSettings]) -> Iterator[tuple[str, str]]:
    """(attribute, key in a study file) of each setting; they differ only where pydantic has an alias."""
    described = getattr(cls, "__pydantic_fields__", {})
    for field in fields(cls):
        yield field.name, getattr(described.get(field.name), "alias", None) or field.name


def _sources_in(value: Any) -> Iterator[Source]:
    if isinstance(value, Source):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _sources_in(inner)


def _map_sources(value: Any, change: Callable[[Source], Any]) -> Any:
    if isinstance(value, Source):
        return change(value)
    if isinstance(value, list) or (isinstance(value, tuple) and any(_sources_in(value))):
        return [_map_sources(inner, change) for inner in value]
    return value


def _located(path: Any, folder: Path, place: str) -> Any:
    """A path, or each of a list, read from the folder; what is no path is left to `check`."""
    if isinstance(path, list):
        return [_located(item, folder, f"{place}[{number}]") for number, item in enumerate(path)]
    return str(folder.absolute() / expanded(path, place)) if isinstance(path, str) and path else path

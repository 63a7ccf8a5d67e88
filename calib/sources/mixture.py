"""A mixture: each calibration set takes a fixed share of its windows from each of several sources.

`{source: mixture, parts: {books: 0.5, code: 0.5}}` gives sets of 128 windows with 64 of each. Shares count windows, so
they are the same in every set; within its part, set k of a mixture follows the same policy and seed as a set of that
source alone, and sets stay disjoint. The parts take turns, so that the beginning of a set has the shares as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from calib.settings import SettingsError, parse, settings
from calib.source import Document, Source, get_source, register


@register("mixture")
@settings
class Mixture(Source):
    """`parts`: the share of each source by its name, `{books: 0.5, code: 0.5}`, or a list of source entries, each with
    its `share`: `[{source: books, share: 0.7}, {source: file, path: my.jsonl, share: 0.3}]`. Shares add up to 1.
    """

    version: ClassVar[int] = 2  # 1: the parts in a shuffled order, their numbers by largest remainders

    example: ClassVar[Mapping[str, Any]] = {
        "parts": [
            {"source": "file", "path": "my.jsonl", "share": 0.7},
            {"source": "books", "share": 0.3},
        ]
    }

    shares: dict[str, float] | list[dict[str, Any]] = Field(alias="parts")

    def __post_init__(self) -> None:
        labels = [source.label for source, _ in self._sources]
        if len(labels) < 2:
            raise ValueError("parts: a mixture has at least two sources")
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"parts: two sources are called '{min(twice)}'; give one of them a label")
        texts = [{**source.to_dict(), **dict.fromkeys(source.names)} for source, _ in self._sources]
        if same := [label for text, label in zip(texts, labels, strict=True) if texts.count(text) > 1]:
            raise ValueError(f"parts: {' and '.join(same)} are one text, and give the same windows; give one share")
        for source, share in self._sources:
            if not 0 < share < 1:
                raise ValueError(f"parts: expected a share between 0 and 1 for '{source.label}', got {share!r}")
        if abs((total := sum(share for _, share in self._sources)) - 1) > 1e-6:
            raise ValueError(f"parts: shares must add up to 1, got {total:g}")
        super().__post_init__()

    def default_label(self) -> str:
        if len({share for _, share in self._sources}) == 1:
            return "+".join(source.label for source, _ in self._sources)
        return " + ".join(f"{100 * share:.3g}% {source.label}" for source, share in self._sources)

    def identity(self) -> dict[str, Any]:
        parts = [{"share": share, **source.identity()} for source, share in self._sources]
        return {"source": self.source_name, "parts": parts, "code": self.version}

    def parts(self) -> tuple[Source, ...]:
        return tuple(source for source, _ in self._sources)

    def located(self, folder: str | Path, place: str = "source") -> Source:
        located = [part.located(folder, place) for part in self.parts()]
        if located == list(self.parts()):
            return self
        parts = [{**part.to_dict(), "share": share} for part, (_, share) in zip(located, self._sources, strict=True)]
        return parse(Mixture, {"label": self.label, "domain": self.domain, "parts": parts}, place)

    def documents(self) -> Iterator[Document]:
        """The documents of all parts, one part after another; shares play no role here."""
        for source, _ in self._sources:
            for document in source.documents():
                yield Document(f"{source.label}/{document.id}", document.text)

    def components(self) -> list[tuple[Source, float]]:
        return self._sources

    @cached_property
    def _sources(self) -> list[tuple[Source, float]]:
        if isinstance(self.shares, dict):
            return [(_part(name, f"parts.{name}"), share) for name, share in self.shares.items()]
        found = []
        for number, entry in enumerate(self.shares):
            place = f"parts[{number}]"
            if not isinstance(entry.get("share"), (int, float)):
                raise SettingsError(f"{place}.share: expected a number between 0 and 1, got {entry.get('share')!r}")
            settings_of_part = {key: value for key, value in entry.items() if key != "share"}
            found.append((_part(settings_of_part, place), float(entry["share"])))
        return found


def _part(entry: Any, place: str) -> Source:
    source = get_source(entry, place)
    if isinstance(source, Mixture):
        raise SettingsError(f"{place}: a mixture cannot be a part of a mixture; write its sources out")
    return source

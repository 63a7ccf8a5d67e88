"""A source as a newcomer writes it: it wraps another one, and says only how it changes a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from calib.settings import settings
from calib.source import Document, Source, SourceSetting, register


@register("shouted")
@settings
class Shouted(Source):
    """The documents of the source `of` in capital letters, with `mark` after each."""

    example: ClassVar[Mapping[str, Any]] = {"of": {"source": "file", "path": "my.jsonl"}}

    of: SourceSetting
    mark: str = ""

    def documents(self) -> Iterator[Document]:
        for document in self.of.documents():
            yield Document(document.id, document.text.upper() + self.mark)

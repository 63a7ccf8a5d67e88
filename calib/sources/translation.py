"""Translated text: the documents of a parallel file in one of its two languages, so that language is all that differs.

Sets in two languages are only comparable when they hold the same documents. So a record counts only where both columns
have text, documents have the same ids on both sides, and with the same seed they are laid out in the same order. With
`sampling: document_start` each window begins with a document and its counterpart with that document's translation, as
long as one document fills a window in both languages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from calib.files import text_of
from calib.settings import SettingsError, settings
from calib.source import Document, Record, register
from calib.sources.file import File, label_of


@register("translation")
@settings
class Translation(File):
    """A JSON or Parquet file with a text in `column` and its translation in the column `translation`; `side` says which
    of the two is read.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": "my.jsonl", "translation": "content"}

    translation: str
    side: Literal["original", "translation"] = "translation"

    def __post_init__(self) -> None:
        if self.translation == self.column:
            raise ValueError(
                f"translation: expected another column than that of the original, got '{self.translation}'"
            )
        if self.unit != "file":
            raise ValueError("unit: a parallel file has records, no paragraphs; leave it out")
        super().__post_init__()

    @property
    def read_column(self) -> str:
        """The column whose text is read."""
        return self.translation if self.side == "translation" else self.column

    def default_label(self) -> str:
        path = self.path if isinstance(self.path, str) else self.path[0] if self.path else ""
        return f"{label_of(path)}-{self.read_column}"

    def capacity(self) -> int | None:
        return None  # the bytes of a file are those of both languages

    def _documents(self, files: list[Path], characters: int | None = None) -> Iterator[Document]:
        for record in self.records():
            original, translated = self._text(record, self.column), self._text(record, self.translation)
            if original.strip() and translated.strip():
                yield Document(record.id, translated if self.side == "translation" else original)

    def _text(self, record: Record, column: str) -> str:
        try:
            return text_of(record.values, column, record.place) or ""
        except SettingsError as error:
            raise SettingsError(f"source '{self.label}': {error}") from None

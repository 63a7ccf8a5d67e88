"""Any source without the documents that share an n-gram with evaluation text: calibration data that cannot have leaked.

What is left out depends on the content of both sides alone (`calib/overlap.py`), so it is part of the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, ClassVar

from pydantic import Field

from calib.ngrams import WORDS
from calib.overlap import Index, index_texts, without_overlap
from calib.settings import SettingsError, settings
from calib.source import Document, Source, SourceSetting, register
from calib.sources.task import Task


@register("exclude_overlap")
@settings
class ExcludeOverlap(Source):
    """The documents of `of` that share no `n` words in a row with what is evaluated: the documents of the sources
    `against` (held-out text, your own file of questions), and what the lm-eval `tasks` ask.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "of": {"source": "file", "path": "my.jsonl"},
        "against": [{"source": "heldout", "domain": "dialogue_qa"}],
    }

    of: SourceSetting
    against: list[SourceSetting] = Field(default_factory=list)
    tasks: list[str] = Field(default_factory=list)
    n: Annotated[int, Field(ge=2, le=100)] = WORDS

    def __post_init__(self) -> None:
        if not self.against and not self.tasks:
            raise ValueError("against: expected at least one source of evaluation text, or give tasks")
        super().__post_init__()

    def revision(self) -> str:
        asked = "".join(f":{Task(task=name).revision()}" for name in self.tasks[:1])
        return f"{super().revision()}{asked}"

    def default_label(self) -> str:
        return f"{self.of.label}, no overlap"

    def wrapped(self) -> Source | None:
        return self.of

    def licences(self) -> list[str]:
        return self.of.licences()

    def capacity(self) -> int | None:
        return self.of.capacity()

    def documents(self) -> Iterator[Document]:
        left = False
        for document in self._judged():
            if document is not None:
                left = True
                yield document
        if not left:
            raise SettingsError(f"source '{self.label}': every document shares {self.n} words with evaluation text")

    def excluded(self) -> tuple[int, int]:
        """(documents that are left out, documents of the source). Reads everything."""
        judged = [document is None for document in self._judged()]
        return sum(judged), len(judged)

    def _judged(self) -> Iterator[Document | None]:
        return without_overlap(self.of.documents(), self._index())

    def _index(self) -> Index:
        documents = (document.text for source in self.against for document in source.documents())
        questions = (text for name in self.tasks for text in Task(task=name).evaluated())
        return index_texts(chain(documents, questions), self.n)

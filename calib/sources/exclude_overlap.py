"""Any source without the documents that share an n-gram with evaluation text: calibration data that cannot have leaked.

What is left out depends on the content of both sides alone (`calib/overlap.py`), so it is part of the identity. The
texts come from sources, from tasks of lm-eval, or from whoever builds the sets: a study knows what it asks of a model,
and names it by the id `evaluation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from calib.ngrams import WORDS
from calib.overlap import Index, index_texts, without_overlap
from calib.settings import SettingsError, settings
from calib.source import Document, Source, SourceSetting, TokenDocument, register, tokenized
from calib.sources.task import Task
from calib.writer import Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 256  # documents judged at a time


@register("exclude_overlap")
@settings
class ExcludeOverlap(Source):
    """The documents of `of` that share no `n` words in a row with what is evaluated: the documents of the sources
    `against` (held-out text, your own file of questions), what the lm-eval `tasks` ask, and the texts of the
    `evaluation` of this id, which a study writes for `exclude_overlap: true`.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "of": {"source": "file", "path": "my.jsonl"},
        "against": [{"source": "heldout", "domain": "dialogue_qa"}],
    }

    of: SourceSetting
    against: list[SourceSetting] = Field(default_factory=list)
    tasks: list[str] = Field(default_factory=list)
    evaluation: str | None = None
    n: Annotated[int, Field(ge=2, le=100)] = WORDS

    def __post_init__(self) -> None:
        if not self.against and not self.tasks and self.evaluation is None:
            raise ValueError("against: expected at least one source of evaluation text, or give tasks")
        super().__post_init__()

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        return values if self.evaluation is not None else {k: v for k, v in values.items() if k != "evaluation"}

    def revision(self) -> str:
        asked = "".join(f":{Task(task=name).revision()}" for name in self.tasks[:1])
        return f"{super().revision()}{asked}"

    def resolved_revision(self) -> str:
        asked = "".join(f"; {name}: {Task(task=name).resolved_revision()}" for name in self.tasks)
        return f"{super().resolved_revision()}{asked}"

    @property
    def excluded_words(self) -> int | None:
        return self.n

    @property
    def begins_with_bos(self) -> bool:
        return self.of.begins_with_bos

    @property
    def tells_responses(self) -> bool:
        return self.of.tells_responses

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
            raise self._nothing_left()

    def excluded(self) -> tuple[int, int]:
        """(documents that are left out, documents of the source). Reads everything."""
        judged = [document is None for document in self._judged()]
        return sum(judged), len(judged)

    def read(
        self, tokenizer: PreTrainedTokenizerBase, writer: Writer | None = None, asked: Sequence[str] | None = None
    ) -> Iterator[TokenDocument | None]:
        """Raises SettingsError when no document is left, and when the texts of the evaluation are not at hand."""
        left = False
        for document in self._judged_tokens(tokenizer, writer, asked):
            left |= document is not None
            yield document
        if not left:
            raise self._nothing_left()

    def _judged_tokens(
        self, tokenizer: PreTrainedTokenizerBase, writer: Writer | None, asked: Sequence[str] | None
    ) -> Iterator[TokenDocument | None]:
        """By their text where the documents have one; text that is token ids from its beginning is decoded."""
        if type(self.of).token_documents is Source.token_documents and not self.of.writes:
            judged = self._judged(asked)
            while batch := list(islice(judged, BATCH)):
                yield from (None for document in batch if document is None)
                yield from tokenized((document for document in batch if document is not None), tokenizer)
            return
        found, index = (document for document in self.of.read(tokenizer, writer, asked) if document), self._index(asked)
        while whole := list(islice(found, BATCH)):
            texts = tokenizer.batch_decode([document.tokens.tolist() for document in whole], skip_special_tokens=True)
            named = [Document(document.id, text) for document, text in zip(whole, texts, strict=True)]
            for document, kept in zip(whole, without_overlap(named, index), strict=True):
                yield document if kept else None

    def _nothing_left(self) -> SettingsError:
        return SettingsError(
            f"source '{self.label}': every document shares {self.n} words with evaluation text; calibrate on other "
            "text, or leave the exclusion out"
        )

    def _judged(self, asked: Sequence[str] | None = None) -> Iterator[Document | None]:
        return without_overlap(self.of.documents(), self._index(asked))

    def _index(self, asked: Sequence[str] | None) -> Index:
        if self.evaluation is not None and asked is None:
            raise SettingsError(
                f"source '{self.label}': leaves out what an evaluation asks, and no evaluation is at hand here; name "
                "its texts with against or tasks"
            )
        documents = (document.text for source in self.against for document in source.documents())
        questions = (text for name in self.tasks for text in Task(task=name).evaluated())
        return index_texts(chain(documents, questions, asked if self.evaluation is not None and asked else ()), self.n)

"""The text that ships with the project: nine domains, openly licensed, never used to train the bundled models.

Each file in `calib/reference/calib/` has the columns text, source, origin, licence and lang; a document's id is its row
and its origin (`owner/repository:path`), so a published calibration set carries its attribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from calib.dialogue import conversations
from calib.files import content_hash
from calib.settings import SettingsError, settings, suggestion
from calib.source import Document, Record, Source, register

REFERENCE = Path(__file__).resolve().parent.parent / "reference"
DIALOGUE = "dialogue_qa"  # the domain with conversations in it
DOMAINS = (
    "books",
    "code",
    DIALOGUE,
    "encyclopedia",
    "legal",
    "multilingual",
    "news_blogs",
    "tech_proposals",
    "web_docs",
)


@settings
class ReferenceText(Source):
    """Base of the bundled texts: one Parquet file. `lang` keeps the documents of one language (de, es, fr, pt, zh)."""

    folder: ClassVar[str] = "calib"

    lang: str | None = None

    def default_label(self) -> str:
        return self.domain_name() if self.lang is None else f"{self.domain_name()}-{self.lang}"

    def domain_name(self) -> str:
        return self.source_name

    def file(self) -> Path:
        return REFERENCE / self.folder / f"{self.domain_name()}.parquet"

    def revision(self) -> str:
        return content_hash([self._existing()])

    def check(self) -> None:
        self._existing()
        if self.lang is None:
            return
        languages = sorted({row["lang"] for row in self._table(["lang"]).to_pylist()})
        if self.lang not in languages:
            raise SettingsError(
                f"source '{self.domain_name()}': no document in the language '{self.lang}'"
                f"{suggestion(self.lang, languages)}"
            )

    def documents(self) -> Iterator[Document]:
        for number, row in enumerate(self._table(["text", "origin", "lang"]).to_pylist()):
            if self.lang in (None, row["lang"]) and row["text"].strip():
                yield Document(f"{number}:{row['origin']}", row["text"])

    def records(self) -> Iterator[Record]:
        if self.domain_name() != DIALOGUE:
            return super().records()
        return (
            Record(f"{document.id}:{number}", f"{self._existing()}, row {document.id}", {"messages": messages})
            for document in self.documents()
            for number, messages in enumerate(conversations(document.text))
        )

    def capacity(self) -> int | None:
        # no tokenizer makes more tokens than bytes, but for one that begins a text; a separator may follow
        texts = self._table(["text"]).column("text")
        return int(texts.nbytes) + 2 * len(texts)

    def licences(self) -> list[str]:
        return sorted(set(self._table(["licence"]).column("licence").to_pylist()))

    def _existing(self) -> Path:
        file = self.file()
        if not file.is_file():
            raise SettingsError(f"source '{self.domain_name()}': the bundled text {file} is missing; install again")
        return file

    def _table(self, columns: list[str]) -> Any:
        import pyarrow.parquet as pq

        return pq.read_table(self._existing(), columns=columns)


@register("books")
@settings
class Books(ReferenceText):
    """English novels of 1840-1920, a chapter a document. Public domain."""


@register("code")
@settings
class Code(ReferenceText):
    """Source code, mostly Python, some Rust. MIT, BSD and Apache-2.0 licences."""


@register("dialogue_qa")
@settings
class DialogueQA(ReferenceText):
    """Task dialogues, drama, word problems, command examples; short documents. Those whose lines say who asks and who
    answers are conversations as well (`{source: chat, of: dialogue_qa}`)."""


@register("encyclopedia")
@settings
class Encyclopedia(ReferenceText):
    """Encyclopedic and textbook prose."""


@register("legal")
@settings
class Legal(ReferenceText):
    """Statutes, regulations and court opinions of the United States."""


@register("multilingual")
@settings
class Multilingual(ReferenceText):
    """German, Spanish, French, Portuguese and Chinese: documentation and novels."""


@register("news_blogs")
@settings
class NewsBlogs(ReferenceText):
    """News items and blog posts on digital government and Kubernetes."""


@register("tech_proposals")
@settings
class TechProposals(ReferenceText):
    """Design proposals for programming languages: Python, Rust, Swift."""


@register("web_docs")
@settings
class WebDocs(ReferenceText):
    """Reference documentation of the web platform, Markdown with code."""

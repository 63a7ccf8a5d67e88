"""WikiText-2, raw (https://arxiv.org/abs/1609.07843): for perplexity as GPTQ and Wanda report it, and for calibration.

The data set has one line a row. `unit: article` puts the lines of each article together; `unit: whole` joins all rows
by empty lines into one text, which is the convention of those papers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import Document, register

TITLE = re.compile(r"\s= [^=].* =\s*")  # " = Robert Boulter = "; sections have two or more equals signs


@register("wikitext2")
@settings
class WikiText2(HubSource):
    """Salesforce/wikitext. `split`: train, validation or test. `unit`: what one document is, see the module."""

    licence: ClassVar[str] = "CC-BY-SA-3.0 and GFDL"

    repository: str = "Salesforce/wikitext"
    pinned: str = Field(default="b08601e04326c79dfdd32d625aee71d232d685c3", alias="revision")
    config: str = "wikitext-2-raw-v1"
    split: Literal["train", "validation", "test"] = "train"
    unit: Literal["article", "whole"] = "article"

    def patterns(self) -> list[str]:
        return [f"{self.config}/{self.split}-*.parquet"]

    def documents(self) -> Iterator[Document]:
        lines = (text or "" for text in self._texts())
        texts = _articles(lines) if self.unit == "article" else iter(["\n\n".join(lines)])
        for number, text in enumerate(texts):
            if number >= self.limit * self.every:
                return
            if number % self.every == 0 and text.strip():
                yield Document(hashlib.sha256(text.encode()).hexdigest()[:16], text)


def _articles(lines: Iterator[str]) -> Iterator[str]:
    """The lines of each article, put together; an article begins with its title."""
    article: list[str] = []
    for line in lines:
        if TITLE.fullmatch(line) and any(part.strip() for part in article):
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)

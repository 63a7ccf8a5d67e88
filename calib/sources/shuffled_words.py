"""Shuffled words: each document of any source with its words in a random order. A control that keeps the words alone.

A method that does as well with these as with the text takes nothing from the order of words: neither grammar nor sense.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from calib.sampling import raw_numbers
from calib.settings import INT64_MAX, settings
from calib.source import Document, Source, SourceSetting, register


@register("shuffled_words")
@settings
class ShuffledWords(Source):
    """The words (what stands between blanks) of each document of `of`, in an order drawn by `seed` and the text."""

    example: ClassVar[Mapping[str, Any]] = {"of": {"source": "file", "path": "my.jsonl"}}

    of: SourceSetting
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0

    def documents(self) -> Iterator[Document]:
        for document in self.of.documents():
            words = document.text.split()
            digest = hashlib.sha256(document.text.encode()).digest()
            random = raw_numbers(self.seed, int.from_bytes(digest[:8], "big"))
            order = np.argsort(random(len(words)), kind="stable")
            yield Document(document.id, " ".join(words[place] for place in order))

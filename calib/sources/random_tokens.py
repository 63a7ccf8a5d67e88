"""Random tokens: ids drawn uniformly from the vocabulary. A null control that holds no language at all.

A method that does as well with these as with text takes nothing from the text but the presence of activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from calib.sampling import raw_numbers
from calib.settings import INT64_MAX, SettingsError, settings
from calib.source import Document, Source, TokenDocument, register

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 1 << 28  # of all documents together, which are held in memory: 1 GiB


@register("random_tokens")
@settings
class RandomTokens(Source):
    """`documents` of `length` tokens each, drawn by `seed` from the tokenizer's vocabulary without special tokens."""

    licence: ClassVar[str] = "CC0-1.0 (random ids)"

    count: Annotated[int, Field(ge=1, alias="documents")] = 2_048
    length: Annotated[int, Field(ge=1)] = 2_048
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0

    def __post_init__(self) -> None:
        if self.count * self.length > MAX_TOKENS:
            raise ValueError(
                f"documents: {self.count:,} of {self.length:,} tokens are {self.count * self.length:,}; expected at "
                f"most {MAX_TOKENS:,} tokens in all"
            )
        super().__post_init__()

    def revision(self) -> str:
        return "pcg64"

    def documents(self) -> Iterator[Document]:
        raise SettingsError(f"source '{self.label}': random tokens are no text; they need a tokenizer's vocabulary")

    def capacity(self) -> int | None:
        return self.count * (self.length + 1)  # a separator may follow each

    def token_documents(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
        special = set(tokenizer.all_special_ids)
        words = np.asarray([i for i in range(len(tokenizer)) if i not in special], dtype=np.int32)
        random = raw_numbers(self.seed)
        for number in range(self.count):
            yield TokenDocument(f"random:{number}", words[random(self.length) % np.uint64(len(words))])

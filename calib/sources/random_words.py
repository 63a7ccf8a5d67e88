"""Random words: whole words of the tokenizer's vocabulary in a random order. A control between random tokens and text.

Unlike random tokens they are spelled as the tokenizer would spell them, so no token stands where it never could.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from calib.sampling import raw_numbers
from calib.settings import INT64_MAX, SettingsError, settings
from calib.source import Document, Source, TokenDocument, register
from calib.sources.random_tokens import MAX_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD_STARTS = "\u0120\u2581"  # what stands for the blank before a word in byte-level and in SentencePiece vocabularies
FEWEST = 16  # words of a vocabulary that is worth drawing from


@register("random_words")
@settings
class RandomWords(Source):
    """`documents` of `words` words each, drawn by `seed` from the tokens that are a whole word of ASCII letters."""

    licence: ClassVar[str] = "CC0-1.0 (random words)"

    count: Annotated[int, Field(ge=1, alias="documents")] = 2_048
    words: Annotated[int, Field(ge=1)] = 2_048
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0

    def __post_init__(self) -> None:
        if self.count * self.words > MAX_TOKENS:
            raise ValueError(
                f"documents: {self.count:,} of {self.words:,} words; expected at most {MAX_TOKENS:,} in all"
            )
        super().__post_init__()

    def revision(self) -> str:
        return "pcg64"

    def documents(self) -> Iterator[Document]:
        raise SettingsError(f"source '{self.label}': random words need a tokenizer's vocabulary")

    def token_documents(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
        words = np.asarray(self._vocabulary(tokenizer))
        random = raw_numbers(self.seed)
        for number in range(self.count):
            text = " ".join(words[random(self.words) % np.uint64(len(words))])
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            yield TokenDocument(f"random:{number}", np.asarray(ids, dtype=np.int32))

    def _vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """The words, in the order of their ids."""
        special = set(tokenizer.all_special_ids)
        tokens = tokenizer.convert_ids_to_tokens([i for i in range(len(tokenizer)) if i not in special])
        words = [token[1:] for token in tokens if token and token[0] in WORD_STARTS]
        whole = [word for word in words if word.isascii() and word.isalpha()]
        if len(whole) < FEWEST:
            raise SettingsError(f"source '{self.label}': the tokenizer's vocabulary has only {len(whole)} whole words")
        return whole

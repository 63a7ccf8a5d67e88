"""Noisy copies of any source: the same documents with typing errors, other casing, spaces, lost words, or OCR errors.

What a model meets in use is seldom as clean as a corpus. The noise of a document depends on its text and the seed
alone, so it is the same in every order of reading, and two kinds of noise are two sources.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from calib.sampling import raw_numbers
from calib.settings import INT64_MAX, settings
from calib.source import Document, Source, SourceSetting, register

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
CONFUSED = {
    "O": "0",
    "0": "O",
    "l": "1",
    "I": "l",
    "1": "l",
    "S": "5",
    "5": "S",
    "B": "8",
    "8": "B",
    "e": "c",
    "c": "e",
}
CONFUSED |= {"m": "rn", "d": "cl", "w": "vv", "h": "li"}
LONGEST = 3  # bytes that a byte of text can become: another casing of a letter, two letters for one


@register("noisy")
@settings
class Noisy(Source):
    """The documents of `of` with noise of one `kind`. `rate`: the share of places that it changes (characters, gaps
    between words, or words).
    """

    example: ClassVar[Mapping[str, Any]] = {"of": {"source": "file", "path": "my.jsonl"}, "kind": "typos"}

    of: SourceSetting
    kind: Literal["typos", "casing", "whitespace", "lost_words", "ocr"]
    rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0

    def default_label(self) -> str:
        return f"{self.kind}({self.of.label})"

    def documents(self) -> Iterator[Document]:
        for document in self.of.documents():
            digest = hashlib.sha256(document.text.encode()).digest()
            random = raw_numbers(self.seed, int.from_bytes(digest[:8], "big"))
            text = NOISE[self.kind](document.text, self.rate, random)
            if text.strip():
                yield Document(document.id, text)

    def capacity(self) -> int | None:
        bound = super().capacity()
        return None if bound is None else LONGEST * bound


Random = Callable[[int], np.ndarray]


def _chosen(random: Random, count: int, rate: float) -> list[int]:
    """Each of `count` places with probability `rate`."""
    highest = 2**64 - 1
    return np.flatnonzero(random(count) < np.uint64(min(int(rate * highest), highest))).tolist()


def _replaced(pieces: list[str], change: Callable[[str, int], str], random: Random, rate: float) -> str:
    """The pieces with some of them changed; `change` gets a number to choose by."""
    numbers = random(len(pieces))
    for place in _chosen(random, len(pieces), rate):
        pieces[place] = change(pieces[place], int(numbers[place]))
    return "".join(pieces)


def _typo(letter: str, number: int) -> str:
    """A letter that is left out, doubled, or another key beside it."""
    row = next((row for row in KEYBOARD if letter.lower() in row), None)
    if row is None:
        return letter
    place = row.index(letter.lower())
    beside = row[place - 1] if place and number // 3 % 2 else row[(place + 1) % len(row)]
    return ("", letter * 2, beside.upper() if letter.isupper() else beside)[number % 3]


def _typos(text: str, rate: float, random: Random) -> str:
    return _replaced(list(text), _typo, random, rate)


def _casing(text: str, rate: float, random: Random) -> str:
    return _replaced(list(text), lambda letter, _: letter.swapcase(), random, rate)


def _whitespace(text: str, rate: float, random: Random) -> str:
    """Gaps between words that are lost, doubled, or broken into a new line."""
    pieces = re.split(r"(\s+)", text)
    gaps = pieces[1::2]
    numbers = random(len(gaps))
    for place in _chosen(random, len(gaps), rate):
        gaps[place] = ("", gaps[place] * 2, "\n")[int(numbers[place]) % 3]
    pieces[1::2] = gaps
    return "".join(pieces)


def _lost_words(text: str, rate: float, random: Random) -> str:
    words = re.findall(r"\s*\S+\s*?", text)
    return _replaced(words, lambda word, _: "", random, rate)


def _ocr(text: str, rate: float, random: Random) -> str:
    return _replaced(list(text), lambda letter, _: CONFUSED.get(letter, letter), random, rate)


NOISE: dict[str, Callable[[str, float, Random], str]] = {
    "typos": _typos,
    "casing": _casing,
    "whitespace": _whitespace,
    "lost_words": _lost_words,
    "ocr": _ocr,
}

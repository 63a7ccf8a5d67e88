"""Robustness: the same tasks with seeded noise in their prompts, as extra task variants.

A variant changes the prompt only; the answers that are scored, and the right one among them, stay. The noise of one
example depends on (seed, task, example) alone, so every model and every trial sees the same noisy prompt, and all
choices of a question share it. A variant is reported as a task of its own: `arc_easy@typos=0.05`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from calib.settings import parse, settings

# neighbours on a QWERTY keyboard, for slips of the finger
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: "".join(row[max(0, place - 1) : place] + row[place + 1 : place + 2])
    for row in _ROWS
    for place, letter in enumerate(row)
}


@settings
class Perturbation:
    """One kind of noise."""

    perturbation: Literal["typos", "casing", "whitespace", "word_drops"]
    """`typos` (per letter: a neighbouring key, a doubled or lost letter, or two letters swapped), `casing` (per word:
    capitals swapped), `whitespace` (per gap: doubled or turned into a line break), `word_drops` (per word)."""
    strength: float = Field(default=0.05, gt=0, le=1)
    """Probability of a change at each place where one can happen."""
    seed: int = 0

    @classmethod
    def parse(cls, entry: Mapping[str, Any], path: str) -> Perturbation:
        return parse(cls, entry, path)

    @property
    def label(self) -> str:
        """What is added to a task's name, such as `@typos=0.05`."""
        seed = f"#{self.seed}" if self.seed else ""
        return f"@{self.perturbation}={self.strength:g}{seed}"

    def apply(self, text: str, key: str) -> str:
        """The perturbed text. `key` names the example; equal keys and texts give equal results on every machine."""
        rng = random.Random(f"{self.seed}/{self.perturbation}/{self.strength}/{key}")
        change = {
            "typos": _typos,
            "casing": _casing,
            "whitespace": _whitespace,
            "word_drops": _word_drops,
        }[self.perturbation]
        return change(text, self.strength, rng)


def _typos(text: str, strength: float, rng: random.Random) -> str:
    letters = list(text)
    written: list[str] = []
    place = 0
    while place < len(letters):
        letter = letters[place]
        place += 1
        if not letter.isalpha() or rng.random() >= strength:
            written.append(letter)
            continue
        slip = rng.choice(("neighbour", "double", "lose", "swap"))
        if slip == "neighbour":
            near = _NEIGHBOURS.get(letter.lower(), letter)
            chosen = rng.choice(near)
            written.append(chosen.upper() if letter.isupper() else chosen)
        elif slip == "double":
            written.append(letter * 2)
        elif slip == "swap" and place < len(letters) and letters[place].isalpha():
            written += (letters[place], letter)
            place += 1
    return "".join(written)


def _casing(text: str, strength: float, rng: random.Random) -> str:
    return _each_word(text, lambda word: word.swapcase() if rng.random() < strength else word)


def _word_drops(text: str, strength: float, rng: random.Random) -> str:
    return _each_word(text, lambda word: "" if rng.random() < strength else word)


def _whitespace(text: str, strength: float, rng: random.Random) -> str:
    return "".join(
        (rng.choice(("  ", "\n")) if rng.random() < strength else letter) if letter == " " else letter
        for letter in text
    )


def _each_word(text: str, change: Any) -> str:
    """`change` applied to every word; spaces and line breaks stay, and one space leaves with a dropped word."""
    lines = []
    for line in text.split("\n"):
        words = [(word, change(word)) for word in line.split(" ")]
        lines.append(" ".join(after for before, after in words if after or not before))
    return "\n".join(lines)

from __future__ import annotations

import pytest

from sweep.evaluation.questions.perturb import Perturbation


@pytest.mark.parametrize("kind", ["typos", "casing", "whitespace", "word_drops"])
def test_perturbations_are_seeded_and_grow_with_their_strength(kind: str) -> None:
    text = "The quick brown fox jumps over the lazy dog\nand runs away from the old grey wolf " * 5

    def changed(strength: float, seed: int = 0, key: str = "a/0") -> str:
        return Perturbation.parse({"perturbation": kind, "strength": strength, "seed": seed}, "p").apply(text, key)

    assert changed(0.2) == changed(0.2)
    assert changed(0.2) != text
    assert changed(0.2) != changed(0.2, seed=1)
    assert changed(0.2) != changed(0.2, key="a/1")

    def distance(other: str) -> int:
        import difflib

        return sum(size[2] - size[1] + size[4] - size[3] for size in _edits(difflib, text, other))

    assert distance(changed(0.02)) < distance(changed(0.5))


def _edits(difflib: object, left: str, right: str) -> list[tuple[str, int, int, int, int]]:
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)  # type: ignore[attr-defined]
    return [code for code in matcher.get_opcodes() if code[0] != "equal"]

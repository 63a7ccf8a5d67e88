"""Noisy copies and word controls: seeded by the text, at the rate asked for, and made of what they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from calib.source import Source, get_source
from calib.sources.noisy import NOISE


@pytest.fixture
def clean(text_file: Path) -> Source:
    return get_source({"source": "file", "path": str(text_file)})


def copies(of: Source, **values: Any) -> list[str]:
    return [document.text for document in get_source({"of": of.to_dict(), **values}).documents()]


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_noise_follows_the_seed_and_the_text_alone(clean: Source, kind: str) -> None:
    once = copies(clean, source="noisy", kind=kind)
    assert once == copies(clean, source="noisy", kind=kind)
    assert once != copies(clean, source="noisy", kind=kind, seed=1)
    few = get_source({**clean.to_dict(), "documents": 3})
    assert copies(few, source="noisy", kind=kind) == once[:3]


def test_every_place_can_be_noisy(clean: Source) -> None:
    assert copies(clean, source="noisy", kind="casing", rate=1) == [d.text.swapcase() for d in clean.documents()]


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_more_noise_leaves_less_of_the_text(clean: Source, kind: str) -> None:
    texts = [document.text for document in clean.documents()]

    def changed(rate: float) -> int:
        noisy = copies(clean, source="noisy", kind=kind, rate=rate)
        return sum((Counter(text) - Counter(copy)).total() for text, copy in zip(texts, noisy, strict=True))

    little, more = changed(0.02), changed(0.2)
    assert 0 < little < more / 3


def test_lost_words_are_lost_at_the_rate(clean: Source) -> None:
    words = sum(len(document.text.split()) for document in clean.documents())
    left = sum(len(text.split()) for text in copies(clean, source="noisy", kind="lost_words", rate=0.25))
    assert abs(left / words - 0.75) < 0.03  # SD 0.009 of 2,500 words


def test_casing_and_spaces_keep_the_letters(clean: Source) -> None:
    texts = [document.text for document in clean.documents()]
    cased = copies(clean, source="noisy", kind="casing", rate=0.5)
    assert [text.casefold() for text in cased] == [text.casefold() for text in texts]
    spaced = copies(clean, source="noisy", kind="whitespace", rate=0.5)
    assert ["".join(text.split()) for text in spaced] == ["".join(text.split()) for text in texts]


def test_shuffled_words_are_the_words_of_the_document(clean: Source) -> None:
    texts = [document.text for document in clean.documents()]
    shuffled = copies(clean, source="shuffled_words")
    assert [sorted(text.split()) for text in shuffled] == [sorted(text.split()) for text in texts]
    assert all(ours != text for ours, text in zip(shuffled, texts, strict=True))


def test_noise_can_be_stacked_and_named(clean: Source) -> None:
    inner = {"source": "noisy", "of": clean.to_dict(), "kind": "typos"}
    source = get_source({"source": "shuffled_words", "of": inner})
    assert source.label == "shuffled_words(typos(my))"
    assert next(source.documents()).text


@pytest.fixture(scope="session")
def wordy() -> Any:
    """A tokenizer whose vocabulary holds whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["river", "stream", "window", "model", "weight", "sparse", "token", "layer"]
    pieces = ["<s>", "</s>", *[f"Ġ{word}{end}" for word in words for end in ("", "s", "ed")], "Ġ12", "ing", *words]
    inner = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def test_random_words_are_whole_words_of_the_vocabulary(wordy: Any) -> None:
    source = get_source({"source": "random_words", "documents": 8, "words": 64})
    tokens = [int(token) for document in source.token_documents(wordy) for token in document.tokens]
    assert {wordy.decode([token]).strip() for token in tokens} == {
        f"{word}{end}"
        for word in ("river", "stream", "window", "model", "weight", "sparse", "token", "layer")
        for end in ("", "s", "ed")
    }
    again = get_source({"source": "random_words", "documents": 8, "words": 64, "seed": 1})
    assert tokens != [int(token) for document in again.token_documents(wordy) for token in document.tokens]


def test_vocabulary_without_words_is_refused(tokenizer: Any, text_of: Callable[..., str]) -> None:
    from transformers import PreTrainedTokenizerFast

    bytes_alone = PreTrainedTokenizerFast(tokenizer_object=_byte_tokenizer())
    with pytest.raises(SettingsError, match="the tokenizer's vocabulary has only 0 whole words"):
        next(get_source("random_words").token_documents(bytes_alone))
    with pytest.raises(SettingsError, match="random words need a tokenizer's vocabulary"):
        next(get_source("random_words").documents())


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))

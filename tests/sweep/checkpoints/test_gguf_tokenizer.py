"""Tokenizers out of the metadata: the ids that transformers' own reader gives, and what it overlooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from calib.settings import SettingsError
from sweep.checkpoints.gguf_file import read_gguf
from sweep.checkpoints.gguf_tokenizer import PATTERNS, check_tokenizer, tokenizer_config, tokenizer_json
from tests.sweep.checkpoints.gguf_files import BPE, SPM, bpe_fields, spm_fields, tiny_model, write_gguf

TEXTS = ["the in 12 34 a", " the  a\n\nthe", "<|user|>the<tool>\n", "Äpfel, 漢字 🙂", "the", " ", "I'll THE'S\t\n 1the"]


def tokenizer_of(path: Path) -> Any:
    gguf = read_gguf(path, "models[0]")
    check_tokenizer(gguf, 10_000, "models[0]")
    folder = path.with_suffix("")
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(gguf)))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(gguf)))
    return transformers.AutoTokenizer.from_pretrained(folder)


def theirs_of(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def spm_model() -> Any:
    return tiny_model(vocab_size=len(SPM))


@pytest.mark.parametrize("rule", ["gpt-2", "qwen2"])
def test_byte_level_ids_are_those_of_transformers_own_reader(rule: str, tmp_path: Path) -> None:
    family = "qwen2" if rule == "qwen2" else "llama"
    path = write_gguf(tmp_path / "m.gguf", tiny_model(family), fields=bpe_fields(rule))
    ours, theirs = tokenizer_of(path), theirs_of(path)
    for text in TEXTS if rule == "gpt-2" else TEXTS[:1]:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("rule", PATTERNS)
def test_text_comes_back_from_every_rule(rule: str, tmp_path: Path) -> None:
    ours = tokenizer_of(write_gguf(tmp_path / "m.gguf", fields=bpe_fields(rule)))
    for text in TEXTS:
        assert ours.decode(ours(text, add_special_tokens=False)["input_ids"]) == text


def test_rules_cut_text_before_merging(tmp_path: Path) -> None:
    """` 1` is a token: SmolLM's rule cuts a digit off before it can be merged, and so an empty line before a digit."""
    one = tokenizer_of(write_gguf(tmp_path / "a.gguf", fields=bpe_fields("gpt-2")))
    two = tokenizer_of(write_gguf(tmp_path / "b.gguf", fields=bpe_fields("smollm")))
    assert one.tokenize(" 1") == ["Ġ1"]
    assert two.tokenize(" 1") == ["Ġ", "1"]
    assert one.tokenize("\n\n1") == ["Ċ", "Ċ", "1"]
    assert two.tokenize("\n\n1") == ["ĊĊ", "1"]


def test_sentencepiece_ids_are_those_of_transformers_own_reader(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", spm_model(), fields=spm_fields())
    ours, theirs = tokenizer_of(path), theirs_of(path)
    for text in ("the an", "than the", "an ant", "x é 漢", "the"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        assert ours(text)["input_ids"][0] == SPM.index("<s>")
        assert ours.decode(ours(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens_are_those_of_the_metadata(tmp_path: Path) -> None:
    fields = {"tokenizer.ggml.padding_token_id": 1, "tokenizer.ggml.add_bos_token": True}
    ours = tokenizer_of(write_gguf(tmp_path / "m.gguf", fields=fields))
    assert (ours.bos_token, ours.eos_token, ours.pad_token, ours.unk_token) == ("<|end|>", "<|end|>", "<|user|>", None)
    assert ours("the")["input_ids"] == [0, BPE.index("the")]
    assert ours.all_special_ids == [0, 1]
    assert ours.decode(ours("<tool>")["input_ids"], skip_special_tokens=True) == "<tool>"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"tokenizer.ggml.model": "bert"}, "its tokenizer is 'bert', expected gpt2"),
    "rule": ({"tokenizer.ggml.pre": "mine"}, r"the rule 'mine' \(tokenizer\.ggml\.pre\), which is not known"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, r"has no tokenizer\.ggml\.tokens"),
    "twice": ({"tokenizer.ggml.tokens": [*BPE[:-1], BPE[2]]}, "is in tokenizer.ggml.tokens twice"),
    "no merges": ({"tokenizer.ggml.merges": None}, r"tokenizer\.ggml\.merges does not belong"),
    "types": ({"tokenizer.ggml.token_type": [1, 1]}, r"tokenizer\.ggml\.token_type does not belong"),
    "no such token": ({"tokenizer.ggml.eos_token_id": 9_999}, r"eos_token_id is 9999, which is no token"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    fields, message = WRONG[name]
    gguf = read_gguf(write_gguf(tmp_path / "m.gguf", fields=fields), "models[0]")
    with pytest.raises(SettingsError, match=rf"^models\[0\]: .*m\.gguf.*{message}"):
        check_tokenizer(gguf, 10_000, "models[0]")


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    gguf = read_gguf(write_gguf(tmp_path / "m.gguf"), "models[0]")
    with pytest.raises(SettingsError, match=f"{len(BPE)} tokens for {len(BPE) - 1} rows of token_embd"):
        check_tokenizer(gguf, len(BPE) - 1, "models[0]")

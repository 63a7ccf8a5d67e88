"""The tokenizer in a GGUF file as the JSON files of `tokenizers` and transformers.

Two kinds are read: byte-level BPE (`gpt2` in the file, of Qwen, Llama 3, SmolLM), and the BPE of SentencePiece
(`llama`, of Llama 2 and Mistral). The hard cases are what a file says by a word or not at all: how text is cut before
merging stands there as the name of a rule (`tokenizer.ggml.pre`), whose pattern must be known here, and SentencePiece's
merges follow from the scores of its pieces.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from calib.settings import SettingsError
from sweep.checkpoints.gguf_file import AGAIN, GgufFile

TOKENIZER_VERSION = 1  # raised when the same metadata would give other token ids than before

CONTROL, USER_DEFINED, NORMAL = 3, 4, 1  # llama.cpp's types of tokens
SPECIALS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # names of transformers and of GGUF

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = rf"{_ENDINGS}{_WORDS}|\p{{N}}{{1,3}}{_REST}"
PATTERNS = {  # how text is cut before merging, as the tokenizer.json of these families has it
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": rf"{_ENDINGS}{_WORDS}|\p{{N}}{_REST}",
    "deepseek-r1-qwen": rf"{_ENDINGS}{_WORDS}|\p{{N}}{_REST}",
    "tekken": _TEKKEN,
    "smollm": None,  # single digits, then the pattern of GPT-2
    "gpt-2": None,  # that of `tokenizers`' ByteLevel
}
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")  # a word that is a token is one, whatever the merges say
BEGINS = ("llama-bpe", "llama3", "llama-v3", "tekken")  # text begins with BOS unless the file says otherwise


def tokenizer_id_of(gguf: GgufFile) -> str:
    """16 hex digits over all that the file says of its tokenizer."""
    own = {key: value for key, value in gguf.fields.items() if key.startswith("tokenizer.")}
    return hashlib.sha256(json.dumps([TOKENIZER_VERSION, own], sort_keys=True).encode()).hexdigest()[:16]


def check_tokenizer(gguf: GgufFile, rows: int, place: str) -> None:
    """Refuse a tokenizer that is not read here. `rows`: those of the embedding.

    Raises SettingsError that begins with `place`, where the study names the file.
    """
    where, fields = f"{place}: {gguf.path}", gguf.fields
    kind = fields.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise SettingsError(
            f"{where}: its tokenizer is {kind!r}, expected gpt2 (byte-level BPE) or llama (SentencePiece)"
        )
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise SettingsError(f"{where} has no tokenizer.ggml.tokens; {AGAIN}")
    if len(tokens) > rows:
        raise SettingsError(f"{where}: {len(tokens):,} tokens for {rows:,} rows of token_embd.weight; {AGAIN}")
    if len(set(tokens)) < len(tokens):
        twice = next(token for number, token in enumerate(tokens) if token in tokens[:number])
        raise SettingsError(f"{where}: the token {twice!r} is in tokenizer.ggml.tokens twice; {AGAIN}")
    needed = {"gpt2": ("merges", None), "llama": ("scores", len(tokens))}[kind]
    for key, length in (needed, ("token_type", len(tokens))):
        value = fields.get(f"tokenizer.ggml.{key}", [] if key == "token_type" else None)
        if not isinstance(value, list) or (value and length not in (None, len(value))):
            raise SettingsError(f"{where}: tokenizer.ggml.{key} does not belong to its {len(tokens):,} tokens; {AGAIN}")
    if kind == "gpt2" and fields.get("tokenizer.ggml.pre") not in PATTERNS:
        raise SettingsError(
            f"{where}: its tokenizer cuts text by the rule {fields.get('tokenizer.ggml.pre')!r} (tokenizer.ggml.pre), "
            f"which is not known here (known: {', '.join(PATTERNS)}); give the model in the form of transformers"
        )
    for name in SPECIALS.values():
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
            raise SettingsError(f"{where}: tokenizer.ggml.{name}_token_id is {number!r}, which is no token; {AGAIN}")


def tokenizer_json(gguf: GgufFile) -> dict[str, Any]:
    """The mapping of tokenizer.json, of a file that `check_tokenizer` let pass."""
    fields = gguf.fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    kinds = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    parts = (
        _sentencepiece(fields, tokens, kinds) if fields["tokenizer.ggml.model"] == "llama" else _bytes(fields, tokens)
    )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, tokens[i], kind) for i, kind in enumerate(kinds) if kind in (CONTROL, USER_DEFINED)],
        **parts,
        "post_processor": _ends(fields, tokens),
    }


def tokenizer_config(gguf: GgufFile) -> dict[str, Any]:
    """The mapping of tokenizer_config.json."""
    tokens = gguf.fields["tokenizer.ggml.tokens"]
    numbers = {name: gguf.fields.get(f"tokenizer.ggml.{own}_token_id") for name, own in SPECIALS.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[number] for name, number in numbers.items() if number is not None},
    }


def chat_template(gguf: GgufFile) -> str | None:
    """The Jinja text, None where the file has none."""
    text = gguf.fields.get("tokenizer.chat_template")
    return text if isinstance(text, str) and text else None


def _bytes(fields: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """Byte-level BPE: bytes stand as printable letters, and never as a space, in pieces and merges."""
    rule = fields["tokenizer.ggml.pre"]
    merges = [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]]
    return {
        "normalizer": {"type": "NFC"} if "qwen" in rule else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _cuts(rule)},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": _bpe(tokens, merges, ignore_merges=rule in WHOLE_WORDS),
    }


def _cuts(rule: str) -> list[dict[str, Any]]:
    pattern = PATTERNS[rule]
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": pattern is None}
    if pattern is not None:
        return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, letters]
    return [{"type": "Digits", "individual_digits": True}, letters] if rule == "smollm" else [letters]


def _sentencepiece(fields: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    """SentencePiece's BPE: a space is the letter `▁`, and what has no piece is written in bytes."""
    begins = fields.get("tokenizer.ggml.add_space_prefix", True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    before = [{"type": "Prepend", "prepend": "▁"}, spaces] if begins else [spaces]
    after: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if begins:
        after.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = fields.get("tokenizer.ggml.unknown_token_id")
    pieces = {
        token: score
        for token, score, kind in zip(tokens, fields["tokenizer.ggml.scores"], kinds, strict=True)
        if kind == NORMAL
    }
    return {
        "normalizer": {"type": "Sequence", "normalizers": before},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": after},
        "model": _bpe(tokens, _merges(pieces), byte_fallback=True, fuse_unk=True)
        | {"unk_token": None if unknown is None else tokens[unknown]},
    }


def _merges(scores: Mapping[str, float]) -> list[list[str]]:
    """Pairs of pieces that make a piece, the piece of the highest score first."""
    order = {piece: number for number, piece in enumerate(scores)}
    found = [
        (-score, order[piece[:cut]], order[piece[cut:]], [piece[:cut], piece[cut:]])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [pair for *_, pair in sorted(found, key=lambda item: item[:3])]


def _bpe(
    tokens: Sequence[str],
    merges: Sequence[Sequence[str]],
    *,
    ignore_merges: bool = False,
    byte_fallback: bool = False,
    fuse_unk: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [list(pair) for pair in merges],
    }


def _added(number: int, token: str, kind: int) -> dict[str, Any]:
    """A token that text is searched for before all else."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **plain, "special": kind == CONTROL}


def _ends(fields: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """What stands before and after a text that is tokenized with special tokens."""
    of_spm = fields["tokenizer.ggml.model"] == "llama"
    begins = fields.get("tokenizer.ggml.add_bos_token", of_spm or fields.get("tokenizer.ggml.pre") in BEGINS)
    ends = fields.get("tokenizer.ggml.add_eos_token", False)
    bos, eos = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    before = [bos] if begins and bos is not None else []
    after = [eos] if ends and eos is not None else []
    if not before and not after:
        return None

    def around(name: str, kind: int) -> list[dict[str, Any]]:
        mark = [[{"SpecialToken": {"id": tokens[i], "type_id": kind}} for i in ids] for ids in (before, after)]
        return [*mark[0], {"Sequence": {"id": name, "type_id": kind}}, *mark[1]]

    specials = {tokens[i]: {"id": tokens[i], "ids": [i], "tokens": [tokens[i]]} for i in (*before, *after)}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": specials,
    }

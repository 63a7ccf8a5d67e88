"""GGUF files that are no model of a study: cut off, quantized in an unknown way, of another architecture."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bad_inputs.common import Case, write_study

WIDTH, ROWS = 32, 4
SHAPES = {
    "token_embd.weight": (ROWS, WIDTH),
    "output_norm.weight": (WIDTH,),
    **{f"blk.0.{name}_norm.weight": (WIDTH,) for name in ("attn", "ffn")},
    **{f"blk.0.attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
    **{f"blk.0.ffn_{name}.weight": (WIDTH, WIDTH) for name in ("gate", "up", "down")},
}
FIELDS: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 128,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": WIDTH,
    "llama.attention.head_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<|end|>", "a", "b", "ab"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 0,
}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value: Any) -> bytes:
    """A metadata value with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kind = typed(value[0])[:4]
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(value)) + b"".join(typed(item)[4:] for item in value)


def content(
    fields: Mapping[str, Any] | None = None, shapes: Mapping[str, Any] | None = None, quantization: int = 0
) -> bytes:
    """A GGUF file of zeros in float32, with entries and tensors replaced; None takes one out."""
    named = {key: value for key, value in {**FIELDS, **(fields or {})}.items() if value is not None}
    tensors = {name: shape for name, shape in {**SHAPES, **(shapes or {})}.items() if shape is not None}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(named))
    head += b"".join(text(key) + typed(value) for key, value in named.items())
    end = 0
    for name, shape in tensors.items():
        size = 4
        head += text(name) + struct.pack("<I", len(shape))
        for length in reversed(shape):
            head += struct.pack("<Q", length)
            size *= length
        head += struct.pack("<IQ", quantization, end)
        end += size
    return head + bytes(-len(head) % 32) + bytes(end)


def file(data: bytes, name: str = "m.gguf", **entry: Any) -> Callable[[Path], list[str]]:
    """A study of this file."""

    def build(folder: Path) -> list[str]:
        (folder / name).write_bytes(data)
        return [write_study(folder, models=[{"model": f"./{name}", **entry}]), "--local"]

    return build


WHOLE = content()
CASES = {
    "empty": Case(file(b""), r"models\[0\]: .*m\.gguf is no GGUF file"),
    "of another kind": Case(file(b"PK\x03\x04" * 9), r"m\.gguf is no GGUF file \(it does not begin with 'GGUF'\)"),
    "version 1": Case(file(b"GGUF" + struct.pack("<IQQ", 1, 0, 0)), r"version 1 .*expected .*version 2 or 3"),
    "big-endian": Case(file(b"GGUF" + struct.pack(">IQQ", 3, 0, 0)), "big-endian"),
    "cut off in the header": Case(file(WHOLE[:300]), r"m\.gguf is cut off: it has 300 bytes.*download"),
    "cut off in the data": Case(file(WHOLE[:-8]), r"m\.gguf is cut off.* ends at"),
    "endless list": Case(file(WHOLE.replace(text("a b"), struct.pack("<Q", 1 << 60) + b"a b")), r"m\.gguf is cut off"),
    "unknown quantization": Case(file(content(quantization=99)), r"quantization 99, which is not read; .*Q4_K"),
    "unknown architecture": Case(
        file(content({"general.architecture": "falcon"})), r"'falcon' is not read from GGUF .*llama, qwen2, qwen3"
    ),
    "no architecture": Case(file(content({"general.architecture": None})), "names no architecture"),
    "experts": Case(file(content({"llama.expert_count": 8})), "mixtures of experts are not read"),
    "part of a split": Case(file(content({"split.count": 2, "split.no": 0})), "one part of 2 .*merge them"),
    "missing tensor": Case(file(content(shapes={"blk.0.attn_q.weight": None})), r"lacks blk\.0\.attn_q\.weight"),
    "tensor of another shape": Case(
        file(content(shapes={"blk.0.attn_q.weight": (64, WIDTH)})), r"attn_q\.weight is \[64, 32\], .*\[32, 32\]"
    ),
    "no heads": Case(file(content({"llama.attention.head_count": 0})), r"llama\.attention\.head_count is 0"),
    "no tokenizer": Case(file(content({"tokenizer.ggml.model": None})), "its tokenizer is None, expected gpt2"),
    "unknown rule": Case(file(content({"tokenizer.ggml.pre": "viking"})), r"rule 'viking' .*not known here"),
    "token twice": Case(file(content({"tokenizer.ggml.tokens": ["x", "a", "b", "a"]})), "'a' is in .* twice"),
    "revision": Case(file(WHOLE, revision="main"), r"models\[0\]\.revision: .*is a file"),
    "code": Case(file(WHOLE, trust_remote_code=True), r"models\[0\]\.trust_remote_code: a GGUF file brings no code"),
    "file of another name": Case(file(WHOLE, name="m.bin"), r"m\.bin is a file, and no \*\.gguf"),
    "no such file": Case(
        lambda folder: [write_study(folder, models=["./n.gguf"]), "--local"], r"no model folder.*n\.gg"
    ),
    "windows longer than its context": Case(
        lambda folder: [
            *file(WHOLE)(folder),
            "--set",
            "calibration.seqlen=256",
        ],
        r"256 is longer than the context of m \(128 tokens\)",
    ),
}

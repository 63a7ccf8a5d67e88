"""Codes side by side in 32-bit words, as the loaders of packed checkpoints read them.

Code i of a row takes the bits from i · `bits` on, lowest first and without gaps: 3-bit codes cross borders of words.
"""

from __future__ import annotations

from methods.lazy import torch

_WORD = 32


def pack_rows(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 `codes` [rows, n] as int32 [rows, ⌈n · bits / 32⌉]; the last word is filled with zeros."""
    rows, count = codes.shape
    padded = torch.nn.functional.pad(codes, (0, -count % _WORD))
    chunks = padded.reshape(rows, -1, _WORD).to(torch.int64)
    words = torch.zeros(*chunks.shape[:2], bits, dtype=torch.int64, device=codes.device)
    for place in range(_WORD):  # 32 codes fill exactly `bits` words
        word, shift = divmod(place * bits, _WORD)
        words[..., word] |= chunks[..., place] << shift
        if shift + bits > _WORD:
            words[..., word + 1] |= chunks[..., place] >> (_WORD - shift)
    signed = (words & 0xFFFFFFFF).to(torch.int32)  # wraps: the words are patterns of bits, not numbers
    return signed.flatten(1)[:, : -(-count * bits // _WORD)].contiguous()


def unpack_rows(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Undo `pack_rows`: uint8 [rows, `count`]."""
    rows = words.shape[0]
    padded = torch.nn.functional.pad(words.to(torch.int64) & 0xFFFFFFFF, (0, -words.shape[1] % bits))
    chunks = padded.reshape(rows, -1, bits)
    codes = torch.empty(*chunks.shape[:2], _WORD, dtype=torch.uint8, device=words.device)
    for place in range(_WORD):
        word, shift = divmod(place * bits, _WORD)
        value = chunks[..., word] >> shift
        if shift + bits > _WORD:
            value |= chunks[..., word + 1] << (_WORD - shift)
        codes[..., place] = (value & (2**bits - 1)).to(torch.uint8)
    return codes.flatten(1)[:, :count].contiguous()

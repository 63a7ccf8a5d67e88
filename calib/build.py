"""Build calibration sets: read the source once, tokenize it once, and cut the windows of each set.

The hard part is to give exactly what was asked for. A set has `nsamples` windows or there is no set: too little text is
an error that says how many windows there are, never a shorter set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.sampling import Draw, Pool, TooLittleText, Window, apportion, draw_windows, shuffled
from calib.settings import SettingsError
from calib.source import Source
from calib.spec import CalibrationSet, CalibrationSpec


def build(spec: CalibrationSpec, tokenizer: Any, tokenizer_id: str = "") -> CalibrationSet:
    """The calibration set of `spec`. `tokenizer` is a transformers tokenizer, `tokenizer_id` its fingerprint.

    Raises SettingsError when the source cannot be read or does not hold enough text.
    """
    return build_sets([spec], tokenizer, tokenizer_id)[0]


def build_sets(specs: Sequence[CalibrationSpec], tokenizer: Any, tokenizer_id: str = "") -> list[CalibrationSet]:
    """The sets of all `specs`, in their order; each source is read and tokenized once however many sets it gives."""
    pools: dict[str, Pool] = {}

    def pool_of(source: Source) -> Pool:
        if (key := _key(source)) not in pools:
            pools[key] = read_pool(source, tokenizer)
        return pools[key]

    return [_build(spec, tokenizer, tokenizer_id, pool_of) for spec in specs]


def read_pool(source: Source, tokenizer: Any) -> Pool:
    """All documents of a source as token ids. Raises SettingsError when there are none."""
    documents = list(source.token_documents(tokenizer))
    if not documents:
        raise SettingsError(f"source '{source.label}': no document with usable text")
    lengths = [len(document.tokens) for document in documents]
    return Pool(
        ids=tuple(document.id for document in documents),
        tokens=np.concatenate([document.tokens for document in documents]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def preflight(specs: Iterable[CalibrationSpec], place: str = "") -> None:
    """Find what must fail, before any work: unreadable sources, and sets that the sources cannot possibly fill.

    Needs neither a tokenizer nor a network. Passing is no promise: only tokenizing tells how much text there is.
    `place` is the setting that asks for the sets, for the error message.
    """
    most: dict[str, tuple[int, Source, CalibrationSpec, int]] = {}
    checked: set[str] = set()
    for spec in specs:
        if (key := _key(spec.source)) not in checked:
            spec.source.check()
            checked.add(key)
        for source, windows in _shares(spec):
            needed = (spec.set + 1) * (windows or 1) * spec.text_length
            if needed > most.get(_key(source), (0,))[0]:
                most[_key(source)] = (needed, source, spec, windows or 1)
    for needed, source, spec, windows in most.values():
        bound = source.capacity()
        if bound is not None and bound < needed:
            raise SettingsError(f"{f'{place}: ' if place else ''}{_too_little(source, bound, spec, windows, needed)}")


def _too_little(source: Source, bound: int, spec: CalibrationSpec, windows: int, needed: int) -> str:
    sets, size = bound // (windows * spec.text_length), f"{windows} windows of {spec.seqlen:,} tokens"
    makes = f"{sets:,} sets of {size}" if sets else f"{bound // spec.text_length:,} windows of {spec.seqlen:,} tokens"
    return (
        f"source '{source.label}': at most {bound:,} tokens, which make at most {makes}, but {_sets(spec)} of {size} "
        f"need {needed:,}; {_remedy(sets)}"
    )


def _remedy(sets: int) -> str:
    most = f" (at most {sets:,})" if sets else ""
    return f"ask for fewer sets{most}, fewer or shorter windows, or give more text"


@dataclass(frozen=True)
class _Sample:
    """A window, and the document ids that its pieces come from."""

    window: Window
    documents: tuple[str, ...]


def _build(
    spec: CalibrationSpec, tokenizer: Any, tokenizer_id: str, pool_of: Callable[[Source], Pool]
) -> CalibrationSet:
    separator = _separator(spec, tokenizer)
    parts = [(source, windows, pool_of(source)) for source, windows in _shares(spec)]
    samples = [
        _Sample(window, tuple(_document_id(pool, i, source, len(parts)) for i in window.documents))
        for source, windows, pool in parts
        for window in _draw(spec, source, windows, pool, separator)
    ]
    if len(parts) > 1:
        samples = [samples[i] for i in shuffled(len(samples), spec.seed, spec.set)]
    tokens = np.stack([sample.window.tokens for sample in samples]).astype(np.int32)
    if spec.add_bos:
        bos = np.full((len(tokens), 1), _special(tokenizer, "bos", "add_bos"), dtype=np.int32)
        tokens = np.concatenate([bos, tokens], axis=1)
    tokens.setflags(write=False)
    return CalibrationSet(
        spec=spec,
        id=spec.id(tokenizer_id),
        tokens=tokens,
        documents_in=tuple(sample.documents for sample in samples),
        starts=tuple(sample.window.starts for sample in samples),
        lengths=tuple(sample.window.lengths for sample in samples),
        texts=tuple(tokenizer.batch_decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)),
        revision=spec.source.resolved_revision(),
        tokenizer_id=tokenizer_id,
        pool_documents=sum(len(pool.ids) for _, _, pool in parts),
        pool_tokens=sum(len(pool.tokens) for _, _, pool in parts),
    )


def _shares(spec: CalibrationSpec) -> list[tuple[Source, int | None]]:
    """(source, windows) of each part; every part of a mixture gets at least one window."""
    parts = spec.source.components()
    if len(parts) == 1:
        return [(parts[0][0], spec.nsamples)]
    if spec.nsamples is None:
        raise SettingsError(f"source '{spec.source.label}': a mixture needs a number of windows; set nsamples")
    counts = apportion(spec.nsamples, [share for _, share in parts])
    for (source, share), count in zip(parts, counts, strict=True):
        if not count:
            raise SettingsError(
                f"source '{spec.source.label}': a share of {share:g} of {spec.nsamples} windows leaves none for "
                f"'{source.label}'; ask for more windows or a larger share"
            )
    return [(source, count) for (source, _), count in zip(parts, counts, strict=True)]


def _draw(
    spec: CalibrationSpec, source: Source, windows: int | None, pool: Pool, separator: np.ndarray
) -> list[Window]:
    draw = Draw(spec.sampling, spec.set, windows, spec.text_length, spec.seed, separator)
    try:
        return draw_windows(pool, draw)
    except TooLittleText as few:
        longest = int(pool.lengths.max())
        raise SettingsError(
            f"source '{source.label}': {few.available:,} windows of {spec.seqlen:,} tokens with sampling "
            f"'{spec.sampling}' ({len(pool.ids):,} documents, {len(pool.tokens):,} tokens, the longest document has "
            f"{longest:,}), but {_sets(spec)} of {windows or 1} windows need {few.needed:,}"
            f"{f', which is enough for {few.sets} sets' if few.sets else ''}; {_remedy(few.sets)}"
        ) from None


def _key(source: Source) -> str:
    return json.dumps(source.to_dict(), sort_keys=True)


def _sets(spec: CalibrationSpec) -> str:
    return "set 0" if spec.set == 0 else f"sets 0 to {spec.set}"


def _separator(spec: CalibrationSpec, tokenizer: Any) -> np.ndarray:
    """The ids that stand between two documents; (k,), int32."""
    if spec.separator == "none":
        ids: list[int] = []
    elif spec.separator in ("eos", "bos"):
        ids = [_special(tokenizer, spec.separator, f"separator '{spec.separator}'")]
    else:
        ids = list(tokenizer([spec.separator], add_special_tokens=False)["input_ids"][0])
    return np.asarray(ids, dtype=np.int32)


def _special(tokenizer: Any, name: str, setting: str) -> int:
    value = getattr(tokenizer, f"{name}_token_id", None)
    if value is None:
        raise SettingsError(f"{setting}: the tokenizer has no {name.upper()} token; choose another setting")
    return int(value)


def _document_id(pool: Pool, index: int, source: Source, parts: int) -> str:
    return pool.ids[index] if parts == 1 else f"{source.label}/{pool.ids[index]}"

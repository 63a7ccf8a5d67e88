"""Build calibration sets: read the source once, tokenize it once, and cut the windows of each set.

The hard part is to give exactly what was asked for. A set has `nsamples` windows or there is no set: too little text is
an error that says how many windows there are, never a shorter set.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from calib.sampling import (
    Draw,
    Pool,
    TooLittleText,
    Window,
    apportion,
    draw_windows,
    raw_numbers,
    responses_in,
    turns,
    with_lead,
    without_end,
    without_lead,
)
from calib.select import Candidates, Measure, Selector, choose
from calib.settings import INT32_MAX, SettingsError, one_line
from calib.source import Source
from calib.spec import NO_WRITER, CalibrationSet, CalibrationSpec
from calib.specials import check_bos, refuse_second_bos, separator_ids, special_id
from calib.writer import Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHOICE = 1  # tells the random numbers of a selection from those of the sampling
UNNAMED = "unnamed"  # what ids call the model behind a measure of which no id is given
MAX_MIXED = 1 << 17  # windows of a mixture's set, whose order is made one by one


def build(
    spec: CalibrationSpec,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_id: str = "",
    measure: Measure | None = None,
    writer: Writer | None = None,
    asked: Sequence[str] | None = None,
    model_id: str = "",
) -> CalibrationSet:
    """The calibration set of `spec`. `tokenizer` is a transformers tokenizer, `tokenizer_id` its fingerprint.

    `measure` asks a model for what a rule of selection needs to know of the windows, `writer` is the model that writes
    the text of such sources, `asked` are the texts of the evaluation that sources may have to leave out, and `model_id`
    is the fingerprint of the model behind `measure` (by default that of the writer, or `UNNAMED`). Raises SettingsError
    when the source cannot be read or does not hold enough text.
    """
    return build_sets([spec], tokenizer, tokenizer_id, measure, writer, asked, model_id)[0]


class TooShort(SettingsError):
    """A source holds less text than its sets need."""


def build_sets(
    specs: Sequence[CalibrationSpec],
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_id: str = "",
    measure: Measure | None = None,
    writer: Writer | None = None,
    asked: Sequence[str] | None = None,
    model_id: str = "",
) -> list[CalibrationSet]:
    """The sets of all `specs`, in their order; each source is read and tokenized once however many sets it gives."""
    pools: dict[str, Pool] = {}

    def pool_of(source: Source) -> Pool:
        if (key := _key(source)) not in pools:
            pools[key] = read_pool(source, tokenizer, writer, asked)
        return pools[key]

    model_id = model_id or (writer.id if writer is not None else UNNAMED if measure is not None else "")
    return [_build(spec, _Tools(tokenizer, tokenizer_id, pool_of, measure, model_id)) for spec in specs]


def read_pool(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    writer: Writer | None = None,
    asked: Sequence[str] | None = None,
) -> Pool:
    """All documents of a source as token ids, those that a model writes by `writer`. Raises SettingsError."""
    if source.writes and writer is None:
        raise SettingsError(f"source '{source.label}': {NO_WRITER}")
    found = list(source.read(tokenizer, writer, asked))
    documents = [document for document in found if document is not None]
    if not documents:
        raise SettingsError(f"source '{source.label}': no document with usable text")
    lengths = [len(document.tokens) for document in documents]
    marks = [document.marks for document in documents if document.marks is not None]
    return Pool(
        ids=tuple(document.id for document in documents),
        tokens=np.concatenate([document.tokens for document in documents]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        excluded=len(found) - len(documents),
        marks=(lambda number: marks[number]()) if len(marks) == len(documents) else None,
    )


def count_sets(spec: CalibrationSpec, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many sets of this size and kind the source can give. Reads and tokenizes all of it."""
    endless = replace(spec, set=INT32_MAX)
    tools = _Tools(tokenizer, "", lambda source: read_pool(source, tokenizer))
    counts = []
    for part in _parts(endless):
        try:
            draw_windows(*_laid_out(endless, part, tools.pool_of(part.source), tools))
        except TooLittleText as few:
            counts.append(few.sets)
    return min(counts, default=INT32_MAX)


def preflight(specs: Iterable[CalibrationSpec], place: str = "") -> None:
    """Find what must fail, before any work: unreadable sources, and sets that the sources cannot possibly fill.

    Needs neither a tokenizer nor a network. Passing is no promise: only tokenizing tells how much text there is.
    `place` is the setting that asks for the sets, for the error message.
    """
    most: dict[str, tuple[int, Source, CalibrationSpec, Draw]] = {}
    checked: set[str] = set()
    for spec in specs:
        for source in (spec.source, None if spec.select is None else spec.select.target_source()):
            if source is not None and (key := _key(source)) not in checked:
                source.check()
                checked.add(key)
        for part in _parts(spec):
            if spec.part != "both" and not part.source.tells_responses:
                raise SettingsError(_no_responses(spec, part.source, place.partition(".")[0]))
            refuse_second_bos(spec, part.source)
            draw = _draw_of(spec, part)
            needed = draw.needed * spec.text_length
            if needed > most.get(_key(part.source), (0,))[0]:
                most[_key(part.source)] = (needed, part.source, spec, draw)
    for needed, source, spec, draw in most.values():
        bound = source.capacity()
        if bound is not None and spec.document_bos:
            bound *= 2  # no document is without a token of its own
        if bound is not None and bound < needed:
            raise TooShort(f"{f'{place}: ' if place else ''}{_too_little(source, bound, spec, draw)}")


def _no_responses(spec: CalibrationSpec, source: Source, place: str) -> str:
    return (
        f"{f'{place}.' if place else ''}part: '{spec.part}' needs text that tells which of its tokens are a response, "
        f"and source '{source.label}' does not; calibrate on a chat or traces source, or leave part out"
    )


def _too_little(source: Source, bound: int, spec: CalibrationSpec, draw: Draw) -> str:
    windows = bound // spec.text_length
    sets, size = draw.sets_in(windows), f"{draw.nsamples or 1} windows of {spec.seqlen:,} tokens"
    makes = f"{sets:,} sets of {size}" if sets else f"{windows:,} windows of {spec.seqlen:,} tokens"
    return (
        f"source '{source.label}': at most {bound:,} tokens, which make at most {makes}, but {_sets(spec)} of {size} "
        f"need {draw.needed * spec.text_length:,}{_room(spec, draw)}; {_remedy(spec, sets)}"
    )


def _room(spec: CalibrationSpec, draw: Draw) -> str:
    """Why more windows are needed than the sets hold; empty where they are not."""
    if spec.select is not None and spec.select.pool > 1:
        return f" (select chooses them out of a pool of {spec.select.pool} windows for each that it keeps)"
    kept = draw.set and draw.reserve is not None and draw.nsamples is not None and draw.reserve > draw.nsamples
    return f" (each set before it has room for {draw.reserve:,} windows)" if kept else ""


def _remedy(spec: CalibrationSpec, sets: int) -> str:
    most = f" (at most {sets:,})" if sets else ""
    pool = ", a smaller select.pool" if spec.select is not None and spec.select.pool > 1 else ""
    return f"ask for fewer sets{most}, fewer or shorter windows{pool}, or give more text"


@dataclass(frozen=True)
class _Part:
    """A source's part in a set: how many windows it gives, and how many are kept for it in each set."""

    source: Source
    windows: int | None
    reserve: int | None


@dataclass(frozen=True)
class _Sample:
    """A window, the document ids that its pieces come from, and which of its tokens an assistant writes, if known."""

    window: Window
    documents: tuple[str, ...]
    responses: np.ndarray | None  # (text_length,), bool


@dataclass(frozen=True)
class _Drawn:
    """What a part gives, and the seconds that it took to select it."""

    samples: list[_Sample]
    seconds_select: float


@dataclass(frozen=True)
class _Tools:
    """What sets are built with."""

    tokenizer: PreTrainedTokenizerBase
    tokenizer_id: str
    pool_of: Callable[[Source], Pool]
    measure: Measure | None = None
    model_id: str = ""

    def words_of(self, ids: np.ndarray) -> list[str]:
        return list(self.tokenizer.batch_decode(ids[:, None], clean_up_tokenization_spaces=False))


def _build(spec: CalibrationSpec, tools: _Tools) -> CalibrationSet:
    tokenizer = tools.tokenizer
    parts = [(part, tools.pool_of(part.source)) for part in _parts(spec)]
    drawn = [_draw(spec, part, pool, tools, len(parts)) for part, pool in parts]
    samples = _in_turn(spec, [part.samples for part in drawn])
    tokens = np.stack([sample.window.tokens for sample in samples]).astype(np.int32)
    responses = _responses(spec, samples)
    if spec.add_bos:
        first = np.full((len(tokens), 1), special_id(tokenizer, spec.first_token, "add_bos"), dtype=np.int32)
        tokens = np.concatenate([first, tokens], axis=1)
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    times = 1 if spec.distinct is None or spec.nsamples is None else spec.nsamples // spec.distinct
    tokens = np.tile(tokens, (times, 1))
    tokens.setflags(write=False)
    found = CalibrationSet(
        spec=spec,
        id=spec.id(tools.tokenizer_id, tools.model_id),
        tokens=tokens,
        documents_in=tuple(sample.documents for sample in samples) * times,
        starts=tuple(sample.window.starts for sample in samples) * times,
        lengths=tuple(sample.window.lengths for sample in samples) * times,
        texts=tuple(texts) * times,
        revision=spec.source.resolved_revision(),
        tokenizer_id=tools.tokenizer_id,
        pool_documents=sum(len(pool.ids) for _, pool in parts),
        pool_tokens=sum(len(pool.tokens) for _, pool in parts),
        excluded_documents=sum(pool.excluded for _, pool in parts),
        seconds_select=None if spec.select is None else sum(part.seconds_select for part in drawn),
        responses=None if responses is None else np.tile(responses, (times, 1)),
    )
    try:
        _ = found.weights
    except SettingsError as error:  # no token counts
        raise SettingsError(f"source '{spec.source.label}', set {spec.set}: {error}") from None
    return found


def _responses(spec: CalibrationSpec, samples: Sequence[_Sample]) -> np.ndarray | None:
    """Which tokens of the windows an assistant writes, an added BOS not; None where some windows do not know it."""
    marks = [sample.responses for sample in samples if sample.responses is not None]
    if len(marks) < len(samples):
        return None
    return np.pad(np.stack(marks), ((0, 0), (int(spec.add_bos), 0)))


def _in_turn(spec: CalibrationSpec, samples: Sequence[Sequence[_Sample]]) -> list[_Sample]:
    """The samples of the parts in the order in which a mixture takes them."""
    if len(samples) == 1:
        return list(samples[0])
    waiting = [iter(part) for part in samples]
    return [next(waiting[part]) for part in turns(sum(map(len, samples)), _shares(spec))]


def _shares(spec: CalibrationSpec) -> list[float]:
    return [share for _, share in spec.source.components()]


def _parts(spec: CalibrationSpec) -> list[_Part]:
    """What each source gives; every part of a mixture at least one window."""
    sources = [source for source, _ in spec.source.components()]
    if len(sources) == 1:
        return [_Part(sources[0], spec.drawn, spec.max_nsamples)]
    if spec.drawn is None:
        raise SettingsError(f"source '{spec.source.label}': a mixture needs a number of windows; set nsamples")
    most = max(spec.drawn, spec.max_nsamples or 0)
    if most > MAX_MIXED:
        raise SettingsError(
            f"source '{spec.source.label}': a mixture makes sets of at most {MAX_MIXED:,} windows, got {most:,}"
        )
    counts, reserves = (apportion(total, _shares(spec)) for total in (spec.drawn, most))
    for source, share, count in zip(sources, _shares(spec), counts, strict=True):
        if not count:
            raise SettingsError(
                f"source '{spec.source.label}': a share of {share:g} of {spec.drawn} windows leaves none for "
                f"'{source.label}'; ask for more windows or a larger share"
            )
    return [_Part(*part) for part in zip(sources, counts, reserves, strict=True)]


def _draw_of(spec: CalibrationSpec, part: _Part, separator: Sequence[int] = ()) -> Draw:
    """What is drawn for a part: its windows, or all of the room from which they are selected."""
    ids = np.asarray(separator, dtype=np.int32)
    windows, reserve = part.windows, part.reserve
    if spec.select is not None:
        windows = reserve = spec.select.pool * max(windows or 1, reserve or 0)
    return Draw(spec.sampling, spec.set, windows, spec.text_length, spec.seed, ids, reserve)


def _draw(spec: CalibrationSpec, part: _Part, pool: Pool, tools: _Tools, parts: int) -> _Drawn:
    """The windows that a part gives, with the ids of their documents."""
    laid, draw = _laid_out(spec, part, pool, tools)
    try:
        windows = draw_windows(laid, draw)
    except TooLittleText as few:
        longest = int(pool.lengths.max())
        raise TooShort(
            f"source '{part.source.label}': {few.available:,} windows of {spec.seqlen:,} tokens with sampling "
            f"'{spec.sampling}' ({len(pool.ids):,} documents, {len(pool.tokens):,} tokens, the longest document has "
            f"{longest:,}), but {_sets(spec)} of {draw.nsamples or 1} windows need {few.needed:,}{_room(spec, draw)}"
            f"{f', which is enough for {few.sets} sets' if few.sets else ''}; {_remedy(spec, few.sets)}"
        ) from None
    seconds = 0.0
    if spec.select is not None and part.windows is not None:
        target = spec.select.target_source()
        like = None if target is None else _cut(tools.pool_of(target), spec.text_length, target)
        started = time.perf_counter()
        windows = [windows[number] for number in _selected(spec, spec.select, windows, part.windows, tools, like)]
        seconds = time.perf_counter() - started
    responses = [responses_in(window, laid) for window in windows]
    untold = [window for window, marks in zip(windows, responses, strict=True) if marks is None]
    if spec.part != "both" and untold:
        raise SettingsError(_untold(spec, part, untold[0], laid))
    if spec.document_bos:
        windows = [without_lead(window) for window in windows]
    named = "" if parts == 1 else f"{part.source.label}/"
    samples = [
        _Sample(window, tuple(f"{named}{pool.ids[i]}" for i in window.documents), marks)
        for window, marks in zip(windows, responses, strict=True)
    ]
    return _Drawn(samples, seconds)


def _untold(spec: CalibrationSpec, part: _Part, window: Window, pool: Pool) -> str:
    marks = pool.marks or (lambda _: None)
    document = next(pool.ids[number] for number in window.documents if marks(number) is None)
    return (
        f"source '{part.source.label}', {one_line(document)}: part: '{spec.part}' needs to know where the responses "
        "stand, and this chat template or tokenizer does not show it; choose another template, or leave part out"
    )


def _laid_out(spec: CalibrationSpec, part: _Part, pool: Pool, tools: _Tools) -> tuple[Pool, Draw]:
    """The documents as windows are cut out of them, and what is drawn for a part."""
    draw = _draw_of(spec, part, separator_ids(spec, tools.tokenizer))
    check_bos(spec, part.source, pool, tools.tokenizer)
    if spec.ends_twice and part.source.writes:
        pool = without_end(pool, special_id(tools.tokenizer, "eos", "separator 'eos'"))
    led = with_lead(pool, special_id(tools.tokenizer, "bos", "document_bos")) if spec.document_bos else pool
    return led, draw


def _selected(
    spec: CalibrationSpec,
    selector: Selector,
    windows: Sequence[Window],
    count: int,
    tools: _Tools,
    target: np.ndarray | None,
) -> list[int]:
    """The numbers of the windows that the rule keeps, in its order; `target` is the text that they shall resemble."""
    tokens = np.stack([window.tokens for window in windows])
    features = of_target = None
    if selector.needs is not None:
        if tools.measure is None:
            raise SettingsError(spec.no_model())
        features = tools.measure(selector.needs, tokens)
        of_target = None if target is None else tools.measure(selector.needs, _spread(target, len(tokens)))
    candidates = Candidates(tokens, tools.words_of, features, target, of_target)
    return choose(selector, candidates, count, raw_numbers(spec.seed, spec.set + 1, CHOICE)).tolist()


def _cut(pool: Pool, length: int, source: Source) -> np.ndarray:
    """All of a pool's tokens in windows, the tail dropped; (windows, length), int32."""
    windows = len(pool.tokens) // length
    if not windows:
        raise SettingsError(f"source '{source.label}': fewer than {length:,} tokens to resemble; give more text")
    return pool.tokens[: windows * length].reshape(windows, length)


def _spread(windows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the windows, evenly spaced: a model takes its time for each."""
    return windows[np.arange(min(count, len(windows))) * len(windows) // min(count, len(windows))]


def _key(source: Source) -> str:
    return json.dumps(source.to_dict(), sort_keys=True)


def _sets(spec: CalibrationSpec) -> str:
    return "set 0" if spec.set == 0 else f"sets 0 to {spec.set}"

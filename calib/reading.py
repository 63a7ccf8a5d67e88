"""A calibration set for the eye: its windows as text, with the borders of the documents in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from calib.settings import one_line
from calib.spec import CalibrationSet
from calib.specials import separator_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def windows_as_text(
    calibration_set: CalibrationSet, tokenizer: PreTrainedTokenizerBase | None = None, width: int | None = None
) -> Iterator[str]:
    """Each window under a line with its number. `width` cuts each text.

    With the set's tokenizer each piece of a document stands by itself, under its document's id and place; without one
    the window's text follows the list of its pieces.
    """
    separator = None if tokenizer is None else separator_ids(calibration_set.spec, tokenizer)
    for number, text in enumerate(calibration_set.texts):
        pieces = _pieces(calibration_set, number)
        marks = calibration_set.responses
        answers = "" if marks is None else f", {int(marks[number].sum())} tokens of a response"
        yield f"=== window {number} of {len(calibration_set.texts)}, {len(pieces)} pieces{answers}"
        if tokenizer is None or separator is None:
            yield from pieces
            yield _cut(text, width)
            continue
        for line, (before, piece) in zip(pieces, _runs(calibration_set, number, separator), strict=True):
            if before:
                yield f"[{str(tokenizer.decode(before))!r}]"
            yield line
            yield _cut(str(tokenizer.decode(piece)), width)


def told_weights(calibration_set: CalibrationSet) -> str:
    """What share of the tokens a response is, and which count; empty where that is not known and all count once."""
    spec, marks = calibration_set.spec, calibration_set.responses
    told = [] if marks is None else [f"{100 * marks.mean():.1f} % of the tokens are a response"]
    if spec.part != "both":
        told.append(f"the {spec.part} alone counts")
    if spec.length_weights is not None:
        told.append(f"the lengths {', '.join(map(str, spec.length_weights))} count together")
    return "; ".join(told)


def _pieces(calibration_set: CalibrationSet, number: int) -> list[str]:
    rows = zip(
        calibration_set.documents_in[number],
        calibration_set.starts[number],
        calibration_set.lengths[number],
        strict=True,
    )
    return [f"--- {one_line(document)}, tokens {start} to {start + length}" for document, start, length in rows]


def _runs(
    calibration_set: CalibrationSet, number: int, separator: Sequence[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """(ids before a piece, ids of the piece): separators and an added BOS belong to no piece."""
    spec, ids = calibration_set.spec, calibration_set.tokens[number].tolist()
    starts, lengths = calibration_set.starts[number], calibration_set.lengths[number]
    between = [len(separator) + (spec.document_bos and start == 0) for start in starts[1:]]
    outer = len(ids) - sum(lengths) - sum(between) - spec.add_bos  # at both ends of the window
    leading = int(spec.add_bos)
    while starts and starts[0] == 0 and outer and (ids[leading] in separator or spec.document_bos):
        leading, outer = leading + 1, outer - 1
    place = 0
    for before, length in zip([leading, *between], lengths, strict=bool(lengths)):
        yield ids[place : place + before], ids[place + before : place + before + length]
        place += before + length


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[:width]}... ({len(text):,} characters)"

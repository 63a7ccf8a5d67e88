"""A calibration set before and after it is built: what is asked for, its identity, and the tokens with their origin.

The id of a spec is a hash of everything that can change the tokens (the source's settings and revision, set number,
sizes, policy, seed, separator, tokenizer, and the version of the sampling code) and of nothing else, so results that
share an id share their tokens and a changed file or seed can never be mistaken for the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from calib.select import SelectorSetting
from calib.settings import INT32_MAX, INT64_MAX, SettingsError, identity, settings
from calib.source import Source
from calib.weights import Part, length_weights, token_weights

NO_WRITER = "its text is written by a model, and no model is at hand here (`calibsweep calib` takes --model)"
LATER = ("first_token", "document_bos", "max_nsamples", "distinct", "part", "length_weights")  # than ids in use
SAMPLING_VERSION = 1  # raise it when the same spec would give other tokens than before


@settings
class CalibrationSpec:
    """What a calibration set shall be.

    `set` is the number of the disjoint set (0, 1, ...); `nsamples` windows of `seqlen` tokens are drawn by the policy
    `sampling` (see `calib/sampling.py`) and `seed`. Documents that share a window are joined by `separator`: the
    tokenizer's end-of-text or beginning-of-text id, an empty line, or nothing. With `add_bos` each window begins with
    the BOS id (or that of `first_token`), which takes one of its positions; with `document_bos` each document does, as
    tokenizers with special tokens give it. `nsamples: null` means every window, for `sequential` alone.

    Sets of up to `max_nsamples` windows are nested and disjoint: set k of any size begins with set k of every smaller
    size, and shares nothing with another set of any size. Left out, it is the set's own size. With `distinct` it holds
    only so many different windows, each of them `nsamples / distinct` times, and `max_nsamples` counts different ones.
    `select` chooses the windows out of a larger pool (see `calib/select.py`).

    Two settings leave the tokens as they are and say how often each counts in what a method knows of its inputs (see
    `calib/weights.py`): `part`, of a conversation or a trace the prompt or the response alone, and `length_weights`,
    the lengths to which the windows are cut and added up.
    """

    source: Source
    set: Annotated[int, Field(ge=0, le=INT32_MAX)]
    nsamples: Annotated[int | None, Field(ge=1, le=INT32_MAX)]
    seqlen: Annotated[int, Field(ge=1, le=INT32_MAX)]
    sampling: Literal["windows", "packed", "document_start", "long_documents", "sequential"] = "windows"
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    separator: Literal["eos", "bos", "none", "\n\n"] = "eos"
    add_bos: bool = False
    first_token: Literal["bos", "eos"] = "bos"
    document_bos: bool = False
    max_nsamples: Annotated[int | None, Field(ge=1, le=INT32_MAX)] = None
    distinct: Annotated[int | None, Field(ge=1, le=INT32_MAX)] = None
    select: SelectorSetting | None = None
    part: Part = "both"
    length_weights: list[int] | None = None

    def __post_init__(self) -> None:
        if self.nsamples is None and self.sampling != "sequential":
            raise ValueError(
                f"nsamples: needed for sampling '{self.sampling}'; only 'sequential' can take every window"
            )
        if self.nsamples is None and self.set:
            raise ValueError(f"set: with nsamples null there is one set, number 0, got {self.set}")
        if self.add_bos and self.seqlen < 2:
            raise ValueError("seqlen: expected at least 2 with add_bos, got 1")
        if self.first_token != "bos" and not self.add_bos:
            raise ValueError(f"first_token: '{self.first_token}' needs add_bos: true")
        if self.distinct is not None and (self.nsamples is None or self.nsamples % self.distinct):
            raise ValueError(
                f"distinct: {self.distinct} windows cannot each stand equally often among nsamples {self.nsamples}; "
                "choose a divisor"
            )
        if self.max_nsamples is not None and (self.drawn is None or self.max_nsamples < self.drawn):
            raise ValueError(f"max_nsamples: expected at least the {self.drawn} different windows of the set")
        if self.select is not None and self.nsamples is None:
            raise ValueError("select: needs a number of windows; set nsamples")
        if self.length_weights is not None:
            length_weights(self.seqlen, self.length_weights)
            given = sorted(self.length_weights)  # their order means nothing, and whole windows alone are none
            object.__setattr__(self, "length_weights", None if given == [self.seqlen] else given)

    @property
    def text_length(self) -> int:
        """Tokens of text in a window: `seqlen` without the added BOS."""
        return self.seqlen - int(self.add_bos)

    @property
    def drawn(self) -> int | None:
        """Number of different windows; None means every window."""
        return self.nsamples if self.distinct is None else self.distinct

    @property
    def asks_model(self) -> bool:
        """Whether a model writes some of the text or is asked by the rule of selection: the set is that model's own."""
        return self.source.writes or (self.select is not None and self.select.needs is not None)

    @property
    def weighs(self) -> bool:
        """Whether some tokens count more or less than once."""
        return self.part != "both" or self.length_weights is not None

    @property
    def ends_twice(self) -> bool:
        """Whether text that a model ends with EOS would be followed by EOS as a separator: then its own is left out."""
        return self.source.writes and self.separator == "eos" and self.sampling != "long_documents"

    def no_model(self) -> str:
        """What to say where the model is not known that a set is made with."""
        if self.source.writes or self.select is None:
            return f"source '{self.source.label}': {NO_WRITER}"
        return (
            f"select: '{self.select.selector_name}' needs a model's {self.select.needs}, and no model is at hand here "
            "(`calibsweep calib` takes --model)"
        )

    def to_dict(self, revision: str | None = None) -> dict[str, Any]:
        """Plain JSON: every setting, those of the source, and the source's revision (or the one given)."""
        revision = self.source.revision() if revision is None else revision
        return {"source": self.source.to_dict(), "revision": revision, **self._numbers()}

    def id(self, tokenizer_id: str, model_id: str = "") -> str:
        """16 hex digits, equal on every machine for equal tokens. `tokenizer_id` is the tokenizer's fingerprint.

        `model_id` is that of the model which writes the text or is asked which windows to choose, where one is. Raises
        SettingsError when it is not known then.
        """
        source = {"source": self.source.identity(), "revision": self.source.revision()}
        if self.asks_model:
            if not model_id:
                raise SettingsError(self.no_model())
            source["model"] = model_id
        numbers = self._numbers()
        if self.ends_twice:
            numbers["ends"] = "once"
        if self.select is not None:
            numbers["select"] = self.select.identity()
        elif not self.set:  # the room of the sets before this one moves no window
            numbers.pop("max_nsamples", None)
        if self.max_nsamples == self.drawn:
            numbers.pop("max_nsamples", None)
        if self.distinct == self.nsamples:
            numbers.pop("distinct", None)
        return identity({**source, **numbers, "tokenizer": tokenizer_id, "version": SAMPLING_VERSION})

    def policies(self) -> dict[str, Any]:
        """How the windows are chosen and begun, as columns of the results; None where a setting is not used."""
        return {
            "select": None if self.select is None else self.select.label,
            "distinct": self.distinct,
            "document_bos": self.document_bos,
            "first_token": self.first_token if self.add_bos else None,
            "exclude_overlap": self.source.excluded_words,
            "part": None if self.part == "both" else self.part,
            "length_weights": None if self.length_weights is None else ", ".join(map(str, self.length_weights)),
        }

    def _numbers(self) -> dict[str, Any]:
        """Every setting but the source; those that came later only where they are not left out."""
        later = {name: getattr(self, name) for name in LATER}
        return {
            "set": self.set,
            "nsamples": self.nsamples,
            "seqlen": self.seqlen,
            "sampling": self.sampling,
            "seed": self.seed,
            "separator": self.separator,
            "add_bos": self.add_bos,
            **{name: value for name, value in later.items() if value not in ("bos", "both", False, None)},
            **({} if self.select is None else {"select": self.select.to_dict()}),
        }


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """The tokens that a compression method sees, where each of them comes from, and the text they stand for.

    `documents_in`, `starts` and `lengths` tell the pieces of each window: ids of the documents, the first token of the
    piece within its document, and its number of tokens. Separators and an added BOS belong to no piece.
    """

    spec: CalibrationSpec
    id: str
    tokens: np.ndarray  # (nsamples, seqlen), int32
    documents_in: tuple[tuple[str, ...], ...]
    starts: tuple[tuple[int, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    revision: str
    tokenizer_id: str
    pool_documents: int | None = None  # documents that could have been drawn
    pool_tokens: int | None = None
    excluded_documents: int | None = None  # left out of the pool, since they share words with the evaluation
    seconds_select: float | None = None  # wall seconds of the selection; None without one
    responses: np.ndarray | None = None  # (nsamples, seqlen), bool: which an assistant writes; None if not known

    @cached_property
    def hash(self) -> str:
        """sha256 over the token ids as little-endian int32, window after window; where a part of them counts, over the
        marks of the responses as well."""
        return set_hash(self.spec, self.tokens, self.responses)

    @property
    def weights(self) -> np.ndarray | None:
        """How often each token counts, (nsamples, seqlen), float64; None where each counts once.

        Raises SettingsError when no token counts.
        """
        spec = self.spec
        found = token_weights(self.tokens.shape[1], spec.length_weights, spec.part, self.responses)
        return None if found is None else np.broadcast_to(found, self.tokens.shape).copy()

    @cached_property
    def documents(self) -> int:
        """Number of distinct documents in the set."""
        return len({document for window in self.documents_in for document in window})

    def rows(self) -> list[dict[str, Any]]:
        """One row a window, with the columns of the results' `calibration` table."""
        shared = {
            "calibration_id": self.id,
            "hash": self.hash,
            "source": self.spec.source.label,
            "revision": self.revision,
            "spec": json.dumps(self.spec.to_dict(self.revision), sort_keys=True),
            "tokenizer": self.tokenizer_id,
            "set": self.spec.set,
            **self.spec.policies(),
            "excluded_documents": self.excluded_documents,
            "seconds_select": self.seconds_select,
        }
        return [
            {
                **shared,
                "window": number,
                "tokens": self.tokens[number].tolist(),
                "text": self.texts[number],
                "documents": list(self.documents_in[number]),
                "starts": list(self.starts[number]),
                "lengths": list(self.lengths[number]),
                "responses": None if self.responses is None else self.responses[number].tolist(),
            }
            for number in range(len(self.tokens))
        ]


def set_hash(spec: CalibrationSpec, tokens: np.ndarray, responses: np.ndarray | None) -> str:
    """The hash of a set of these tokens and marks of responses."""
    if spec.part == "both" or responses is None:
        return tokens_hash(tokens)
    marks = np.ascontiguousarray(responses, dtype=np.uint8).tobytes()
    return hashlib.sha256(bytes.fromhex(tokens_hash(tokens)) + marks).hexdigest()


def marks_in(rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """The marks of the responses in the rows of a set, window by window; None where they are not known."""
    marks = [row.get("responses") for row in rows]
    if not marks or None in marks:
        return None
    found = np.asarray(marks, dtype=bool)
    found.setflags(write=False)
    return found


def tokens_hash(tokens: np.ndarray) -> str:
    """sha256 over token ids as little-endian int32, row after row."""
    return hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i4").tobytes()).hexdigest()

"""Which scorer a model takes, found out by trying on a few sequences.

The dense model scores them one by one, which is what a request's scores mean, then packed with each attention of
`attention.ways`, and the first way that agrees is taken. Architectures that compute positions themselves, keep a state,
or ignore a given mask agree with none and are scored plain, in batches as large as agree too: of any lengths, of equal
lengths, or of one sequence. The trial's row says which. The hard case is a difference that only long sequences show:
`reach.py` makes the sequences long enough, and what is too long to try is not trusted. With the chosen scorer it is
then tried which modules of the last block can run only where something is predicted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from methods.lazy import torch
from methods.walk.lengths import LengthRule
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.attention import PackedAttention, layer_kinds, ways
from sweep.evaluation.scorer.forward import HeadRule, TokenBudget
from sweep.evaluation.scorer.placewise import Modules, placewise_modules
from sweep.evaluation.scorer.reach import TrialSequences, trial_sequences
from sweep.evaluation.scorer.scoring import (
    EQUAL_LENGTHS,
    ONE_BY_ONE,
    PackedScorer,
    PlainScorer,
    Scorer,
    Sharing,
    any_lengths,
    places_reached,
)
from sweep.evaluation.scorer.states import lengths_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)
TRIAL_ROW = 256
FULL_TOLERANCE, HALF_TOLERANCE = 1e-4, 0.1  # nats a token; in half precision the order of sums alone moves hundredths

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """How sequences are scored: packed with an attention, or plain without; and which of them share a model call."""

    attention: PackedAttention | None
    sharing: Sharing

    def scorer(
        self, requests: Requests, budget: TokenBudget, rule: HeadRule | None, row_length: int | None = None
    ) -> Scorer:
        if self.attention is None or rule is None:
            return PlainScorer(requests, budget, rule, self.sharing)
        return PackedScorer(requests, budget, rule, self.attention, row_length, self.sharing)


@dataclass(frozen=True)
class Probe:
    """The dense model's scores of the trial sequences, one by one, and what other ways are compared with."""

    model: PreTrainedModel
    rule: HeadRule | None
    lengths: LengthRule
    sequences: TrialSequences
    alone: np.ndarray  # (n,), nats
    scores: dict[Way, np.ndarray] = field(default_factory=dict)  # of what was tried

    def scorer(self, way: Way) -> Scorer:
        return way.scorer(self.sequences.requests, TokenBudget(self.model.device), self.rule, TRIAL_ROW)

    def fails(self, way: Way) -> str:
        """What goes wrong in this way; nothing when its scores are those of the sequences one by one."""
        scorer = self.scorer(way)
        try:
            found, _ = scorer.score(self.model)
        except _device_errors():
            raise
        except REFUSALS as error:
            words = " ".join(str(error).split())[:120]
            return f"no {scorer.name.removeprefix('packed, ')} ({type(error).__name__}: {words})"
        self.scores[way] = found
        apart, agree = self.apart(found, self.alone)
        name = scorer.name if way.attention is None else f"packed ({way.attention.name})"
        return "" if agree else f"{name} and single sequences differ by {apart:.2g} nats a token"

    def apart(self, found: np.ndarray, wanted: np.ndarray) -> tuple[float, bool]:
        """(distance of log-likelihoods in nats a token, whether it is no more than rounding).

        The largest mean of a part: the few that reach beyond a window must not drown among the many that do not.
        """
        part = self.sequences.part
        distance = np.abs(found - wanted) / self.sequences.requests.continuation
        apart = float(max(distance[part == number].mean() for number in np.unique(part)))
        single = self.model.dtype in (torch.float32, torch.float64)
        return apart, bool(np.isfinite(found).all()) and apart <= (FULL_TOLERANCE if single else HALF_TOLERANCE)


def choose_scorer(model: PreTrainedModel, requests: Requests, budget: TokenBudget, rule: HeadRule | None) -> Scorer:
    """The packed scorer when it scores trial sequences as the model does one by one, else the plain one.

    Its last block runs only where something is predicted, as far as that agrees too.
    """
    probe = start_probe(model, requests, rule)
    way = choose_way(probe)
    scorer = way.scorer(requests, budget, rule)
    if len(requests):
        scorer.placewise = _placewise(probe, way)
    return scorer


def start_probe(model: PreTrainedModel, requests: Requests, rule: HeadRule | None) -> Probe:
    """Score sequences that reach beyond every switch of the architecture that the requests reach beyond."""
    lengths = lengths_of(model)
    longest = int(np.diff(requests.offsets).max(initial=1)) - 1  # the last token is no input
    sequences = trial_sequences(model.config.get_text_config(), lengths, longest, places_reached(model.device))
    alone, _ = PlainScorer(sequences.requests, TokenBudget(model.device), rule, ONE_BY_ONE).score(model)
    return Probe(model, rule, lengths, sequences, alone)


def choose_way(probe: Probe) -> Way:
    """The fastest way that agrees; what is compared with when none does."""
    reasons: list[str] = []
    for way in _ways(probe):
        if isinstance(way, str):
            reasons.append(way)
            continue
        failed = "" if way.sharing is ONE_BY_ONE else probe.fails(way)
        if not failed:
            if reasons:
                log.warning(
                    "%s is scored %s: %s", type(probe.model).__name__, probe.scorer(way).name, "; ".join(reasons)
                )
            return way
        reasons.append(failed)
    raise AssertionError("unreachable")


def _ways(probe: Probe) -> Iterator[Way | str]:
    """What is tried, the fastest first, or why something is not tried."""
    by_rule = any_lengths(probe.lengths)
    untried = probe.sequences.untried
    if untried is not None:
        yield f"what it does beyond {untried} tokens is too long to try"
    else:
        kinds = set(layer_kinds(probe.model)) - {"full_attention", "sliding_attention"}
        if probe.rule is None:
            yield "its logits are not a function of its final hidden states"
        elif kinds:
            yield f"layers of kind {min(kinds)}"
        else:
            yield from (Way(attention, by_rule) for attention in ways(probe.model.device))
        yield Way(None, by_rule)
    yield Way(None, EQUAL_LENGTHS)
    yield Way(None, ONE_BY_ONE)


def _device_errors() -> tuple[type[Exception], ...]:
    """A full or broken device says nothing of the model."""
    return torch.OutOfMemoryError, torch.AcceleratorError


def _placewise(probe: Probe, way: Way) -> Modules:
    scorer, everywhere = probe.scorer(way), probe.scores.get(way, probe.alone)

    def agrees(modules: Modules, *, poisoned: bool) -> bool:
        scorer.placewise, scorer.poisoned = modules, poisoned
        try:
            found, _ = scorer.score(probe.model)
        except _device_errors():
            raise
        except REFUSALS:
            return False
        return probe.apart(found, everywhere)[1]

    return placewise_modules(probe.model, agrees)

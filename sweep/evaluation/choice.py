"""Which scorer a model takes, found out by trying on a few branching sequences.

The dense model scores them packed and one by one, with each attention of `attention.ways`, and the first way that
agrees with the plain one is taken. Architectures that compute positions themselves, keep a state, or ignore a given
mask agree with none and are scored plain, and the trial's row says so. With the chosen scorer it is then tried which
modules of the last block can run only where something is predicted.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from sweep.evaluation.attention import PackedAttention, layer_kinds, ways
from sweep.evaluation.forward import HeadRule, TokenBudget
from sweep.evaluation.placewise import Modules, placewise_modules
from sweep.evaluation.requests import Requests
from sweep.evaluation.scoring import PackedScorer, PlainScorer, Scorer

REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)  # a full or broken device says nothing of the model
TRIAL_ROW = 256
LONGEST_TRIAL = 8192  # tokens; a window beyond it is not tried
WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")  # as configurations say
FULL_TOLERANCE, HALF_TOLERANCE = 1e-4, 0.1  # nats a token; in half precision the order of sums alone moves hundredths

log = logging.getLogger(__name__)


def choose_scorer(model: Any, requests: Requests, budget: TokenBudget, rule: HeadRule | None) -> Scorer:
    """The packed scorer when it agrees with the plain one on branching trial sequences, else the plain one.

    Its last block runs only where something is predicted, as far as that agrees too.
    """
    if rule is None:
        attention, reason = None, "its logits are not a function of its final hidden states"
    else:
        attention, reason = packed_attention(model, rule)
    if attention is None:
        log.warning("%s is scored one sequence at a time: %s", type(model).__name__, reason)
    scorer = _scorer(requests, budget, rule, attention)
    if len(requests):
        scorer.placewise = _placewise(model, _trial(model, rule, attention))
    return scorer


def packed_attention(model: Any, rule: HeadRule) -> tuple[PackedAttention | None, str]:
    """(the first way in which packed and plain scores agree on trial sequences, "") or (None, what went wrong)."""
    unknown = set(layer_kinds(model)) - {"full_attention", "sliding_attention"}
    if unknown:
        return None, f"layers of kind {min(unknown)}"
    plain, _ = _trial(model, rule, None).score(model)
    reason = ""
    for attention in ways(model.device):
        if reason:
            log.warning("%s asks for another attention than the fastest: %s", type(model).__name__, reason)
        trial = _trial(model, rule, attention)
        try:
            packed, _ = trial.score(model)
        except DEVICE_ERRORS:
            raise
        except REFUSALS as error:
            reason = f"no {attention.name} ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            continue
        apart, agree = _apart(packed, plain, trial.requests, model.dtype)
        if agree:
            return attention, ""
        reason = f"packed ({attention.name}) and single sequences differ by {apart:.2g} nats a token"
    return None, reason


def _placewise(model: Any, trial: Scorer) -> Modules:
    everywhere, _ = trial.score(model)

    def agrees(modules: Modules, poisoned: bool) -> bool:
        trial.placewise, trial.poisoned = modules, poisoned
        try:
            found, _ = trial.score(model)
        except DEVICE_ERRORS:
            raise
        except REFUSALS:
            return False
        return _apart(found, everywhere, trial.requests, model.dtype)[1]

    return placewise_modules(model, agrees)


def _apart(found: np.ndarray, wanted: np.ndarray, requests: Requests, dtype: torch.dtype) -> tuple[float, bool]:
    """(distance of log-likelihoods in nats a token, whether it is no more than rounding).

    The mean over the requests of more than half the longest's length, or over the others, whichever is larger: the few
    that reach beyond a window must not drown among the many that do not.
    """
    distance, length = np.abs(found - wanted) / requests.continuation, np.diff(requests.offsets)
    long = length > length.max() // 2
    apart = float(max(distance[long].mean(), distance[~long].mean() if not long.all() else 0.0))
    tolerance = FULL_TOLERANCE if dtype in (torch.float32, torch.float64) else HALF_TOLERANCE
    return apart, bool(np.isfinite(found).all()) and apart <= tolerance


def _trial(model: Any, rule: HeadRule | None, attention: PackedAttention | None) -> Scorer:
    """A scorer of the trial sequences: packed with an attention, plain without."""
    requests, budget = _trial_requests(model.config.get_text_config()), TokenBudget(model.device)
    return _scorer(requests, budget, rule, attention, row_length=TRIAL_ROW)


def _scorer(
    requests: Requests,
    budget: TokenBudget,
    rule: HeadRule | None,
    attention: PackedAttention | None,
    row_length: int | None = None,
) -> Scorer:
    if attention is None or rule is None:
        return PlainScorer(requests, budget, rule)
    return PackedScorer(requests, budget, rule, attention, row_length)


def _trial_requests(config: Any) -> Requests:
    """Contexts that branch, that share a beginning, of one token, and longer than what a layer's window shows."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> list[int]:
        return [int(token) for token in rng.integers(0, config.vocab_size, count)]

    first, second = draw(12), draw(12)
    second[:5] = first[:5]
    contexts = [first, second, draw(1), draw(30)]
    pairs = [(context, draw(count)) for context in contexts for count in (1, 3, 6, 2)]
    room = min(getattr(config, "max_position_embeddings", None) or LONGEST_TRIAL, LONGEST_TRIAL)
    windows = [size for name in WINDOWS if isinstance(size := getattr(config, name, None), int) and size <= room - 32]
    if windows and max(windows) > len(contexts[-1]):
        context = draw(max(windows) + 16)
        pairs += [(context, draw(count)) for count in (12, 12, 3, 12)]
    return Requests.pack(pairs, room)

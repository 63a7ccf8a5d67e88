"""Log-likelihoods of all requests: packed where the architecture allows it, plain otherwise.

The packed scorer runs the rows of `packing.py` through the model with an attention that keeps branches apart
(`attention.py`) and sends only the positions that predict something through the vocabulary projection. The plain scorer
runs each distinct sequence by itself, right-padded, as lm-eval's HFLM does. Log-softmax is taken in float32 in both.
A request's scores are those of the request alone: sequences whose lengths may not share a model call (`Sharing`) never
do, and no call finds what an earlier one left (`methods/walk/lengths.py`).

Which scorer a model takes is decided in `choice.py`. In the last block, modules that work place by place run only at
those positions (`placewise.py`).

Words of this room: a *trie* is sequences that share their beginnings; *packed* rows hold several tries, *plain* rows
one sequence; *places* are the positions that predict something; *sharing* says which sequences may share a model call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from methods.lazy import torch
from methods.numerics.backend import has_triton
from methods.walk.fused import fused
from methods.walk.lengths import LengthRule, forgetful
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.attention import PackedAttention, layer_kinds
from sweep.evaluation.scorer.forward import HeadRule, TokenBudget, body, log_norm, row_batches
from sweep.evaluation.scorer.packing import Packing, pack
from sweep.evaluation.scorer.placewise import Modules, Reading
from sweep.evaluation.scorer.states import ModelCall, final_states, lengths_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_ROW = 256  # attention with an explicit mask is quadratic in the row
CPU_TRIE = 512  # a long context with its branches: cutting it computes the context again
CUDA_ROW = 4096
CUDA_QUADRATIC_ROW = 1024
KEPT_MASKS = 256 << 20  # bytes of explicit masks kept from trial to trial

Classes = Callable[[np.ndarray], np.ndarray]  # (n,) lengths in tokens -> (n,), int64: equal numbers may share a call


@dataclass(frozen=True)
class Sharing:
    """Which sequences may share a model call, by their lengths in tokens as the model gets them."""

    name: str  # in the trial's row, behind the scorer's; empty where the architecture sets no limit of its own
    classes: Classes


def any_lengths(rule: LengthRule | None = None) -> Sharing:
    """All that `rule` lets share a call; without one all."""
    if rule is None:
        return Sharing("", lambda lengths: np.zeros(len(lengths), np.int64))
    return Sharing("", lambda lengths: np.asarray(rule.classes(lengths.tolist()), np.int64))


def places_reached(device: torch.device) -> int:
    """Places of a row that holds requests of any length; only a request that is longer itself goes beyond."""
    return CUDA_ROW if device.type == "cuda" else CPU_TRIE


EQUAL_LENGTHS = Sharing("equal lengths", lambda lengths: lengths.astype(np.int64))
ONE_BY_ONE = Sharing("one by one", lambda lengths: np.arange(len(lengths)))


@dataclass
class _Batch:
    """One model call, with everything that does not depend on the weights."""

    tokens: torch.Tensor  # (rows, length), int64
    positions: torch.Tensor | None  # (rows, length), int64; None lets the model count
    ends: torch.Tensor | None  # (rows, length), int64
    places: torch.Tensor  # (u,), int64: distinct predicting positions in the flattened batch
    prediction: torch.Tensor  # (p,), int64: which of `places` each prediction reads, ascending
    target: torch.Tensor  # (p,), int64
    order: np.ndarray  # (p,): the predictions' numbers in the whole request set
    bounds: np.ndarray  # (p,): `prediction` as numpy, to cut chunks without asking the device
    mask: Any = None


class Scorer:
    """Scores one request set with any number of models of one architecture."""

    name = "plain"

    def __init__(
        self, requests: Requests, budget: TokenBudget, rule: HeadRule | None, sharing: Sharing | None = None
    ) -> None:
        """sharing: found out of the first model that is scored when none is given."""
        self.requests = requests
        self.budget = budget
        self.rule = rule
        self.sharing = sharing
        self.placewise: Modules = {}  # what of the last block runs only where something is predicted
        self.poisoned = False
        self._batches: list[_Batch] | None = None
        budget.on_change.append(self._forget)

    def score(self, model: PreTrainedModel) -> tuple[np.ndarray, np.ndarray]:
        """(log-likelihoods in nats, is_greedy), one of each for every request."""
        if not len(self.requests):
            return np.zeros(0), np.zeros(0, bool)
        if self.sharing is None:
            self._share(any_lengths(lengths_of(model)))
        with torch.inference_mode(), forgetful(model), self._attention(model), fused(model):
            return self.budget.run(lambda: self._score(model))

    def batches(self) -> list[_Batch]:
        """All model calls, built at the first use and after the token budget has changed."""
        if self._batches is None:
            self._batches = list(self._prepare())
        return self._batches

    def _score(self, model: PreTrainedModel) -> tuple[np.ndarray, np.ndarray]:
        batches = self.batches()
        calls = (ModelCall(batch.tokens, self._arguments(model, batch), self._reading(batch)) for batch in batches)
        states = final_states(model, calls, _logits if self.rule is None else body)
        found = [
            (batch.order, *self._predict(model, batch, next(states).flatten(0, 1)[batch.places])) for batch in batches
        ]
        order = np.concatenate([part[0] for part in found])
        values = torch.cat([part[1] for part in found]).cpu().numpy().astype(np.float64)
        hits = torch.cat([part[2] for part in found]).cpu().numpy()
        request = self._request_of()[order]
        count = len(self.requests)
        loglikelihood = np.bincount(request, weights=values, minlength=count)
        misses = np.bincount(request, weights=~hits, minlength=count)
        return loglikelihood, misses == 0

    def _predict(
        self, model: PreTrainedModel, batch: _Batch, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each target, and whether it is the most likely token.

        hidden: what predicts, at the batch's places: final hidden states, or logits when the head cannot be run alone.
        """
        head = model.get_output_embeddings()
        step = self.budget.logit_rows(int(model.config.get_text_config().vocab_size))
        values, hits = [], []
        for start in range(0, len(batch.places), step):
            first, last = np.searchsorted(batch.bounds, [start, start + step])
            logits = self._logits(head, hidden[start : start + step])
            read, target = batch.prediction[first:last] - start, batch.target[first:last]
            value, hit = read_targets(logits, read, target, self.budget.work_rows(logits.shape[1]))
            values.append(value)
            hits.append(hit)
        return torch.cat(values), torch.cat(hits)

    def _logits(self, head: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden if self.rule is None else self.rule.logits(head, hidden)

    def _reading(self, batch: _Batch) -> Reading | None:
        if not self.placewise:
            return None
        return Reading(self.placewise, batch.places, batch.tokens.numel(), self.poisoned)

    def _arguments(self, model: PreTrainedModel, batch: _Batch) -> dict[str, Any]:
        return {}

    @contextmanager
    def _attention(self, model: PreTrainedModel) -> Iterator[None]:
        yield

    def _forget(self) -> None:
        self._batches = None

    def _share(self, sharing: Sharing) -> None:
        self.sharing = sharing
        self._forget()

    def _classes(self, lengths: np.ndarray) -> np.ndarray:
        return (self.sharing or any_lengths()).classes(lengths)

    def _request_of(self) -> np.ndarray:
        raise NotImplementedError

    def _prepare(self) -> Iterator[_Batch]:
        raise NotImplementedError


class PlainScorer(Scorer):
    """One right-padded row for each distinct sequence; no mask and no positions are passed."""

    def __init__(
        self, requests: Requests, budget: TokenBudget, rule: HeadRule | None, sharing: Sharing | None = None
    ) -> None:
        super().__init__(requests, budget, rule, sharing)
        self.name = f"plain, {sharing.name}" if sharing and sharing.name else "plain"
        distinct: dict[bytes, int] = {}
        self.rows: list[np.ndarray] = []
        self.row_of_request = np.zeros(len(requests), np.int64)
        for number in range(len(requests)):
            tokens = requests.sequence(number)[:-1]
            row = distinct.setdefault(tokens.tobytes(), len(self.rows))
            if row == len(self.rows):
                self.rows.append(tokens)
            self.row_of_request[number] = row

    def _request_of(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.requests)), self.requests.continuation)

    def _prepare(self) -> Iterator[_Batch]:
        count = self.requests.continuation.astype(np.int64)
        request = self._request_of()
        row = self.row_of_request[request]
        lengths = np.asarray([len(tokens) for tokens in self.rows])
        within = np.arange(len(request)) - np.repeat(np.cumsum(count) - count, count)
        place = lengths[row] - count[request] + within
        target = np.concatenate(
            [self.requests.sequence(number)[-count[number] :] for number in range(len(self.requests))]
        )
        for members in row_batches(lengths, self.budget.tokens, self._classes(lengths)):
            yield _batch(members, [self.rows[m] for m in members], row, place, target, self.budget.device)


class PackedScorer(Scorer):
    """Rows of prefix-sharing tries, kept apart by an attention of `attention.py`."""

    def __init__(
        self,
        requests: Requests,
        budget: TokenBudget,
        rule: HeadRule,
        attention: PackedAttention,
        row_length: int | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        super().__init__(requests, budget, rule, sharing)
        on_cuda = budget.device.type == "cuda"
        self.attention = attention
        self.name = f"packed, {attention.name}"
        cuda_row = CUDA_QUADRATIC_ROW if attention.quadratic else CUDA_ROW
        self.row_length = row_length or (cuda_row if on_cuda else CPU_ROW)
        self.trie_length = None if row_length or on_cuda else CPU_TRIE
        self.packing: Packing = pack(requests, self.row_length, self.trie_length, self._request_classes())
        self._kept = 0

    def _request_classes(self) -> np.ndarray:
        return self._classes(np.diff(self.requests.offsets) - 1)  # the last token is no input

    def _share(self, sharing: Sharing) -> None:
        super()._share(sharing)
        classes = self._request_classes()
        if len(np.unique(classes)) > 1:
            self.packing = pack(self.requests, self.row_length, self.trie_length, classes)

    def _request_of(self) -> np.ndarray:
        return self.packing.request_of

    def _forget(self) -> None:
        super()._forget()
        self._kept = 0

    def _prepare(self) -> Iterator[_Batch]:
        packing = self.packing
        lengths = np.asarray([len(row.tokens) for row in packing.rows])
        for members in row_batches(lengths, self.budget.tokens, packing.class_of):
            rows = [packing.rows[member] for member in members]
            batch = _batch(
                members,
                [row.tokens for row in rows],
                packing.row_of,
                packing.place_of,
                packing.target,
                self.budget.device,
                block=self.attention.block,
            )
            length = batch.tokens.shape[1]
            alone = np.arange(1, length + 1)  # a padding position attends to itself
            batch.positions = _padded([row.positions for row in rows], np.zeros(length), self.budget.device)
            batch.ends = _padded([row.ends for row in rows], alone, self.budget.device)
            yield batch

    def _arguments(self, model: PreTrainedModel, batch: _Batch) -> dict[str, Any]:
        mask = batch.mask
        if mask is None:
            mask = self._mask(model, batch)
            size = batch.tokens.numel() * batch.tokens.shape[1] * 4 if self.attention.quadratic else 0
            if self._kept + size <= KEPT_MASKS:
                batch.mask = mask
                self._kept += size
        return {"attention_mask": mask, "position_ids": batch.positions}

    def _mask(self, model: PreTrainedModel, batch: _Batch) -> Any:
        assert batch.ends is not None
        assert batch.positions is not None
        masks = {
            kind: self.attention.mask(batch.ends, batch.positions, window, model.dtype)
            for kind, window in layer_kinds(model).items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    @contextmanager
    def _attention(self, model: PreTrainedModel) -> Iterator[None]:
        with self.attention.of(model):
            yield


def _logits(model: PreTrainedModel, tokens: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """(rows, length, vocabulary), of a model whose head cannot be run alone."""
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False, **arguments).logits
    return logits


def read_targets(
    logits: torch.Tensor, row: torch.Tensor, target: torch.Tensor, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probability of each target in its row of logits, whether `argmax` gives it), `step` rows at a time."""
    if logits.is_cuda and has_triton():
        norm, best = importlib.import_module("sweep.evaluation.scorer.kernels").summarize(logits)
        return logits[row, target].float() - norm[row], best[row] == target
    logits = logits.float()
    norm, top = log_norm(logits, step)
    value = logits[row, target]
    return value - norm[row], _is_best(logits, row, target, value == top[row])


def _is_best(logits: torch.Tensor, row: torch.Tensor, target: torch.Tensor, equals_top: torch.Tensor) -> torch.Tensor:
    """Whether `argmax` gives the target; of equal logits it gives the first. Slow on a CPU, so few rows see it."""
    if logits.is_cuda:
        return logits.argmax(-1)[row] == target
    candidates = torch.nonzero(equals_top)[:, 0]
    found = torch.zeros_like(equals_top)
    if len(candidates):
        found[candidates] = logits[row[candidates]].argmax(-1) == target[candidates]
    return found


def _batch(
    members: np.ndarray,
    rows: list[np.ndarray],
    row_of: np.ndarray,
    place_of: np.ndarray,
    target: np.ndarray,
    device: torch.device,
    block: int = 1,
) -> _Batch:
    """Gather the predictions that lie in these rows; `block` rounds the padded length up."""
    length = -(-max(len(row) for row in rows) // block) * block
    number_of = np.full(int(row_of.max()) + 1, -1, np.int64)
    number_of[members] = np.arange(len(members))
    order = np.flatnonzero(number_of[row_of] >= 0)
    flat = number_of[row_of[order]] * length + place_of[order]
    places, prediction = np.unique(flat, return_inverse=True)
    by_place = np.argsort(prediction, kind="stable")
    prediction, order = prediction[by_place], order[by_place]
    return _Batch(
        tokens=_padded(rows, np.zeros(length), device),
        positions=None,
        ends=None,
        places=torch.as_tensor(places, device=device),
        prediction=torch.as_tensor(prediction, device=device),
        target=torch.as_tensor(target[order].astype(np.int64), device=device),
        order=order,
        bounds=prediction,
    )


def _padded(rows: list[np.ndarray], fill: np.ndarray, device: torch.device) -> torch.Tensor:
    """(rows, len(fill)), int64: each row, then what `fill` holds from there on."""
    whole = np.tile(fill.astype(np.int64), (len(rows), 1))
    for number, row in enumerate(rows):
        whole[number, : len(row)] = row
    return torch.as_tensor(whole, device=device)

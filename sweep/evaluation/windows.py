"""Perplexity of held-out windows, and divergence from the dense model on the same positions, in one forward pass.

Perplexity follows the convention of GPTQ and Wanda: non-overlapping windows, exp of the mean negative log-likelihood
over the L - 1 predictions of each. The dense model is remembered by its final hidden states and its vocabulary
projection, in the model's own dtype: a thousandth of what its logits would take at a vocabulary of 128 thousand. Both
sides' logits are made again a chunk of positions at a time, so the comparison is exact over the whole vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.settings import SettingsError
from methods.lazy import torch
from methods.walk.fused import fused
from methods.walk.lengths import forgetful
from sweep.evaluation.metrics.aggregation import finite
from sweep.evaluation.metrics.divergence import divergences
from sweep.evaluation.metrics.outcomes import Number, metric_row
from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.scorer.forward import HeadRule, TokenBudget, dense_head, log_norm, window_batches
from sweep.evaluation.scorer.states import ModelCall, final_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTILES = (90, 95, 99)


@dataclass(frozen=True)
class WindowScores:
    """One text's numbers, per predicted position; the divergences are None without a dense model."""

    nll: np.ndarray  # (windows, seqlen - 1), float32, nats
    js: np.ndarray | None = None
    kl: np.ndarray | None = None
    kl_reverse: np.ndarray | None = None
    agree: np.ndarray | None = None  # bool: no token is more likely than the dense model's most likely one


class WindowScorer:
    """Scores the held-out windows; made from the dense model before anything is compressed."""

    def __init__(
        self,
        texts: Sequence[HeldOut],
        model: PreTrainedModel,
        budget: TokenBudget,
        rule: HeadRule | None,
        *,
        divergence: bool,
        alone: bool = False,
    ) -> None:
        """`model` is the dense one. alone: one window a model call, for a model in which windows meet each other."""
        if texts and rule is None:
            raise SettingsError(
                f"{type(model).__name__}: its logits are not a function of its final hidden states, so held-out "
                "texts cannot be scored; leave `heldout` empty for this model"
            )
        self.texts = texts
        self.budget = budget
        self.rule = rule
        self.alone = alone
        self.dense: list[_Dense] = []
        if divergence and texts:
            self.head = dense_head(model)
            with torch.inference_mode(), forgetful(model), fused(model):
                self.dense = budget.run(lambda: self._remember(model))

    def score(self, model: PreTrainedModel) -> list[WindowScores]:
        """The numbers of every text, in order."""
        with torch.inference_mode(), forgetful(model), fused(model):
            return self.budget.run(lambda: self._score(model))

    def score_dense(self, model: PreTrainedModel) -> list[WindowScores]:
        """The dense model's own numbers, from what is remembered of it; `model` runs only when nothing is."""
        if not self.dense:
            return self.score(model)
        with torch.inference_mode():
            return [self.budget.run(partial(self._dense_text, number)) for number in range(len(self.texts))]

    def _dense_text(self, number: int) -> WindowScores:
        tokens, dense = self.texts[number].tokens, self.dense[number]
        target = torch.as_tensor(tokens[:, 1:].astype(np.int64), device=dense.hidden.device).flatten()
        return _joined(self._positions(self.head, dense.hidden, target, dense), tokens)

    def _score(self, model: PreTrainedModel) -> list[WindowScores]:
        states = self._states(model)
        return [self._text(model, number, states) for number in range(len(self.texts))]

    def _states(self, model: PreTrainedModel) -> Iterator[torch.Tensor]:
        """Final hidden states (windows, length, width) of all texts, text by text, in one pass over the model."""
        batches = (
            tokens for text in self.texts for tokens in window_batches(text.tokens, self.budget, alone=self.alone)
        )
        return final_states(model, (ModelCall(tokens) for tokens in batches))

    def _remember(self, model: PreTrainedModel) -> list[_Dense]:
        states = self._states(model)
        return [self._remember_text(text, states) for text in self.texts]

    def _remember_text(self, text: HeldOut, states: Iterator[torch.Tensor]) -> _Dense:
        parts: list[torch.Tensor] = []
        while sum(map(len, parts)) < len(text.tokens) * (text.tokens.shape[1] - 1):
            parts.append(next(states)[:, :-1].flatten(0, 1))
        hidden = torch.cat(parts)
        norms, best = [], []
        for _, logits in self._logits(self.head, hidden):
            norms.append(log_norm(logits, self.budget.work_rows(logits.shape[1]))[0])
            best.append(logits.argmax(-1))
        return _Dense(hidden, torch.cat(norms), torch.cat(best))

    def _text(self, model: PreTrainedModel, number: int, states: Iterator[torch.Tensor]) -> WindowScores:
        tokens = self.texts[number].tokens
        parts: list[list[torch.Tensor]] = []
        start = 0
        while start < len(tokens):
            hidden = next(states)
            windows = slice(start, start + len(hidden))
            positions = slice(start * (tokens.shape[1] - 1), (start + len(hidden)) * (tokens.shape[1] - 1))
            start += len(hidden)
            target = torch.as_tensor(tokens[windows, 1:].astype(np.int64), device=hidden.device).flatten()
            dense = self.dense[number].part(positions) if self.dense else None
            parts += self._positions(model.get_output_embeddings(), hidden[:, :-1].flatten(0, 1), target, dense)
        return _joined(parts, tokens)

    def _positions(
        self, head: torch.nn.Module, hidden: torch.Tensor, target: torch.Tensor, dense: _Dense | None
    ) -> list[list[torch.Tensor]]:
        """Numbers of a run of positions, a chunk of the vocabulary's logits at a time."""
        parts = []
        for chunk, logits in self._logits(head, hidden):
            against = None if dense is None else dense.part(chunk)
            dense_logits = None if against is None else self._head_logits(self.head, against.hidden)
            step = self.budget.work_rows(logits.shape[1])
            for start in range(0, len(logits), step):
                rows = slice(start, start + step)
                norm, top = log_norm(logits[rows])
                nll = norm - logits[rows].gather(1, target[chunk][rows, None])[:, 0]
                if against is None or dense_logits is None:
                    parts.append([nll])
                    continue
                agree = logits[rows].gather(1, against.best[rows, None])[:, 0] == top
                apart = divergences(dense_logits[rows], against.norm[rows], logits[rows], norm)
                parts.append([nll, *apart, agree])
        return parts

    def _logits(self, head: torch.nn.Module, hidden: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """(positions, their logits in float32), as many at a time as memory is meant for."""
        step = self.budget.logit_rows(int(head.weight.shape[0]))  # type: ignore[index,arg-type,union-attr]
        for start in range(0, len(hidden), step):
            chunk = slice(start, start + step)
            yield chunk, self._head_logits(head, hidden[chunk])

    def _head_logits(self, head: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        assert self.rule is not None
        return self.rule.logits(head, hidden).float()


def _joined(parts: list[list[torch.Tensor]], tokens: np.ndarray) -> WindowScores:
    """One array (windows, seqlen - 1) of each number, from runs of positions in order."""
    shape = (len(tokens), tokens.shape[1] - 1)
    return WindowScores(*(torch.cat(column).cpu().numpy().reshape(shape) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Dense:
    """The dense model on one text: what its distributions can be made from again."""

    hidden: torch.Tensor  # (positions, width), the model's dtype
    norm: torch.Tensor  # (positions,), float32: log-sum-exp of its logits
    best: torch.Tensor  # (positions,), int64: its most likely token

    def part(self, positions: slice) -> _Dense:
        return _Dense(self.hidden[positions], self.norm[positions], self.best[positions])


def window_rows(text: HeldOut, scores: WindowScores) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of the metrics table, rows of the samples table) for one text; n counts windows.

    A number that overflows, or is NaN because the model's logits are, is null with its reason and costs no other.
    """
    nll = scores.nll.astype(np.float64).mean(1)
    metrics = [_perplexity(text.label, nll)]
    samples: list[dict[str, Any]] = [
        {"task": text.label, "doc_id": number, "nll": finite(value)} for number, value in enumerate(nll)
    ]
    if scores.js is None or scores.kl is None or scores.kl_reverse is None or scores.agree is None:
        return metrics, samples
    # a NaN is never equal to the most likely token, which would count as disagreement
    agree = np.where(np.isfinite(scores.nll) & np.isfinite(scores.js), scores.agree, np.nan)
    for name, values in (
        ("js_divergence", scores.js),
        ("kl_divergence", scores.kl),
        ("kl_divergence_reverse", scores.kl_reverse),
        ("top1_agreement", agree),
    ):
        per_window = values.astype(np.float64).mean(1)
        metrics.append(mean_row("divergence", text.label, name, per_window))
        if name == "js_divergence":
            metrics.append(mean_row("divergence", text.label, "js_divergence_bits", per_window, math.log2(math.e)))
            for sample, value in zip(samples, per_window, strict=True):
                sample["js"] = finite(value)
        if name in ("js_divergence", "kl_divergence"):
            metrics += _quantiles(text.label, name, values)
    return metrics, samples


def _perplexity(label: str, nll: np.ndarray) -> dict[str, Any]:
    """exp of the mean over windows (windows,) of nats per token; its error by the delta method."""
    row = mean_row("perplexity", label, "perplexity", nll)
    mean, error = row["value"], row["stderr"]
    if mean is None:
        return row
    try:
        value = math.exp(mean)
    except OverflowError:
        return {**row, "value": None, "stderr": None, "reason": f"exp({mean:.6g} nats per token) overflows"}
    return {**row, "value": value, "stderr": None if error is None else finite(value * error)}


def mean_row(kind: str, label: str, metric: str, per_window: np.ndarray, unit: float = 1.0) -> dict[str, Any]:
    """A row of the mean over windows (windows,) times `unit`, with its standard error, null for a single window."""
    windows = len(per_window)
    if reason := unusable(per_window):
        return metric_row(kind, label, metric, Number(None, None, windows, reason))
    error = float(per_window.std(ddof=1) / math.sqrt(windows)) * unit if windows > 1 else None
    return metric_row(kind, label, metric, Number(float(per_window.mean()) * unit, finite(error), windows))


def _quantiles(label: str, metric: str, values: np.ndarray) -> list[dict[str, Any]]:
    """Rows of the quantiles over all positions (windows, seqlen - 1)."""
    windows, reason = len(values), unusable(values.astype(np.float64).mean(1))
    found = [None] * len(QUANTILES) if reason else map(float, np.percentile(values, QUANTILES))
    return [
        metric_row("divergence", label, f"{metric}_q{quantile}", Number(value, None, windows, reason))
        for quantile, value in zip(QUANTILES, found, strict=True)
    ]


def unusable(per_window: np.ndarray) -> str | None:
    """Why there is no mean over these windows; None when there is."""
    bad = ~np.isfinite(per_window)
    if not bad.any():
        return None
    what = "NaN" if np.isnan(per_window).any() else "infinite"
    return f"{what} in {int(bad.sum())} of {len(bad)} windows (first: window {int(bad.argmax())})"

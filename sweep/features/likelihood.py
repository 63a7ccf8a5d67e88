"""How likely a model finds the tokens of windows: perplexity, and whether it has seen such text in training.

Min-K% (https://arxiv.org/abs/2310.16789) is the mean log-probability of a text's least likely tokens; Min-K%++
(https://arxiv.org/abs/2404.02936) takes a token's log-probability less its mean under the model's own distribution at
that place, in standard deviations of it, so a token that is unlikely because nothing is likely there does not count.
The hard case is memory: a window's logits over a large vocabulary fill gigabytes, so rows go a chunk at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from methods.lazy import torch

SHARE = 0.2  # of a window's tokens, the least likely ones: the middle of what Min-K%++ tries
CHUNK = {"cpu": 1 << 21, "cuda": 1 << 27}  # logits of one run of element-wise steps: 8 and 512 MiB in float32
LOWEST = -1e4  # of a log-probability in a mean: its probability is zero in every floating point number
LEAST_SPREAD = 1e-6  # where the model sees one token alone


@dataclass(frozen=True)
class Likelihood:
    """What a model says of every token but the first of each window, in nats; each (windows, length - 1), float32.

    log_probs: of the token that stands there. means, spreads: mean and standard deviation of the log-probability of
    tokens drawn from the model's own distribution at that place.
    """

    log_probs: np.ndarray
    means: np.ndarray
    spreads: np.ndarray

    @property
    def perplexity(self) -> np.ndarray:
        """Of each window, (windows,), float64."""
        return np.exp(-self.log_probs.mean(axis=1, dtype=np.float64))

    @property
    def entropy(self) -> np.ndarray:
        """Mean entropy of the model's predictions in each window, in nats; (windows,), float64."""
        return -self.means.mean(axis=1, dtype=np.float64)

    def min_k(self, share: float = SHARE) -> np.ndarray:
        """Min-K% of each window, (windows,), float64: larger means more like what the model was trained on."""
        return _mean_of_lowest(self.log_probs, share)

    def min_k_plus(self, share: float = SHARE) -> np.ndarray:
        """Min-K%++ of each window, (windows,), float64: larger means more like what the model was trained on."""
        return _mean_of_lowest((self.log_probs - self.means) / np.maximum(self.spreads, LEAST_SPREAD), share)


def window_likelihood(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log_probs, means, spreads) of one window, each [length - 1], float32: `logits` [length, vocabulary]."""
    rows = max(1, CHUNK.get(logits.device.type, CHUNK["cpu"]) // logits.shape[1])
    parts = [
        _row_likelihood(some, following[:, None])
        for some, following in zip(logits[:-1].split(rows), tokens[1:].split(rows), strict=True)
    ]
    log_probs, means, spreads = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_probs, means, spreads


def _row_likelihood(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    log_probs = logits.float().log_softmax(-1)
    of_tokens = log_probs.gather(1, tokens)[:, 0]
    probabilities = log_probs.exp()
    log_probs = log_probs.clamp_min_(LOWEST)
    means = (probabilities * log_probs).sum(-1)
    spreads = (probabilities * log_probs.sub_(means[:, None]).square_()).sum(-1).sqrt()
    return of_tokens, means, spreads


def _mean_of_lowest(scores: np.ndarray, share: float) -> np.ndarray:
    if not 0 < share <= 1:
        raise ValueError(f"share: expected more than 0 and at most 1, got {share}")
    count = max(1, int(share * scores.shape[1]))
    return np.partition(scores, count - 1, axis=1)[:, :count].mean(axis=1, dtype=np.float64)

"""One forward pass of a causal language model, cut where evaluation needs it: body, head, and a token budget.

The body gives final hidden states, the head turns chosen ones into logits, so that only positions that predict
something reach the vocabulary. Some architectures do more to the logits than one linear map (Gemma 2 caps them,
Cohere and Granite scale them); the rule is read from the configuration and confirmed against the model's own logits.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from methods.lazy import torch
from methods.walk.lengths import forgetful

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
log = logging.getLogger(__name__)

CPU_TOKENS = 2048  # a batch whose activations stay in the cache of one core
CUDA_TOKENS = 65536  # enough rows to fill one H200 at 7B; halved when memory is short
CPU_LOGITS = 1 << 21  # logits of one matrix product: 256 rows of the bundled models, where it becomes efficient
CPU_WORK = 1 << 16  # logits of one run of element-wise steps: 256 KB a buffer, so that a core's cache holds them all
CUDA_LOGITS_PER_TOKEN = 1 << 13  # at the full token budget 2 GB in float32, 1 GB as a kernel reads them


@dataclass
class TokenBudget:
    """Tokens of one batch. Halves when the device runs out of memory, and remembers."""

    device: torch.device
    tokens: int = 0
    smallest: int = 256
    on_change: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = self.tokens or (CUDA_TOKENS if self.device.type == "cuda" else CPU_TOKENS)

    def logit_rows(self, vocabulary: int) -> int:
        """Positions that go through the vocabulary projection together."""
        elements = self.tokens * CUDA_LOGITS_PER_TOKEN if self.device.type == "cuda" else CPU_LOGITS
        return max(1, elements // vocabulary)

    def work_rows(self, vocabulary: int) -> int:
        """Rows of logits that go through element-wise steps together."""
        return self.logit_rows(vocabulary) if self.device.type == "cuda" else max(1, CPU_WORK // vocabulary)

    def run(self, work: Callable[[], T]) -> T:
        """`work()`, again with half the tokens each time the device is out of memory. `work` must be repeatable."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.tokens <= self.smallest:
                    raise
                self.tokens //= 2
                log.warning("out of memory: evaluation goes on with %d tokens a batch", self.tokens)
            for changed in self.on_change:
                changed()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


@dataclass(frozen=True)
class HeadRule:
    """How logits follow from the final hidden states: `softcap(scale * head(hidden))`."""

    scale: float = 1.0
    softcap: float | None = None

    def logits(self, head: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """(n, vocabulary), in the model's dtype."""
        logits = head(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def head_rule(model: PreTrainedModel) -> HeadRule | None:
    """The rule that reproduces the model's own logits on a few tokens, or None when ours does not."""
    head = model.get_output_embeddings()
    if head is None:
        return None
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    rule = HeadRule(scale, getattr(config, "final_logit_softcapping", None))
    tokens = torch.arange(8, device=model.device)[None] % config.vocab_size
    with torch.inference_mode(), forgetful(model):
        own = model(input_ids=tokens, use_cache=False).logits.float()
        try:
            ours = rule.logits(head, body(model, tokens)).float()
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            log.warning("%s: the head cannot be run alone (%s)", type(model).__name__, error)
            return None
    same = ours.shape == own.shape and torch.allclose(ours, own, rtol=1e-3, atol=1e-3 * own.abs().max().item())
    return rule if same else None


def body(model: PreTrainedModel, tokens: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """Final hidden states (batch, length, width) of token ids (batch, length), in the model's dtype."""
    return model.get_decoder()(input_ids=tokens, use_cache=False, **arguments)[0]


def log_norm(logits: torch.Tensor, rows: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-sum-exp, largest logit) of each row of float32 logits (n, vocabulary), `rows` of them at a time."""
    if rows is not None and rows < len(logits):
        norms, tops = zip(*(log_norm(part) for part in logits.split(rows)), strict=True)
        return torch.cat(norms), torch.cat(tops)
    top = logits.amax(-1)
    return (logits - top[:, None]).exp_().sum(-1).log_().add_(top), top


def dense_head(model: PreTrainedModel) -> torch.nn.Module:
    """A copy of the vocabulary projection, so that compressing the model in place leaves it alone."""
    return copy.deepcopy(model.get_output_embeddings()).requires_grad_(False)


def row_batches(lengths: np.ndarray, budget: int, classes: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Row numbers grouped into batches of at most `budget` positions after padding, the longest rows first.

    A batch with a quarter of the budget ends where the rows become shorter than 95 % of its longest: two smaller
    batches cost less than the padding. Rows of different `classes` share no batch.
    """
    if classes is None:
        classes = np.zeros(len(lengths), np.int64)
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        yield from (members[batch] for batch in _class_batches(lengths[members], budget))


def _class_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        members = order[start : start + max(1, budget // longest)]
        alike = int((lengths[members] >= 0.95 * longest).sum())
        members = members[: max(alike, budget // (4 * longest), 1)]
        yield members
        start += len(members)


def window_batches(windows: np.ndarray, budget: TokenBudget, *, alone: bool = False) -> Iterator[torch.Tensor]:
    """Token ids (windows, length) of full windows on the device, a batch at a time, in order; `alone`: one window."""
    count = 1 if alone else max(1, budget.tokens // windows.shape[1])
    for start in range(0, len(windows), count):
        yield torch.as_tensor(windows[start : start + count].astype(np.int64), device=budget.device)

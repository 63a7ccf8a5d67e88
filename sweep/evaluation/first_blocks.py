"""The evaluation of trials that end after their first blocks: how far what leaves these is from the dense model's.

It costs a few blocks instead of all blocks and a vocabulary, and says nearly as much of a calibration set
(docs/adviser.md). The error of a token is ‖ŷ − y‖² / ‖y‖², where y and ŷ leave the last of the first blocks in the
dense and the compressed model. The hard case is the scale of hidden states: a few tokens (mostly the first of a window)
are hundreds of times as large as the others and carry nearly all of a sum of squares, so the mean over tokens of each
one's own error stands beside the error of the sums.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.settings import SettingsError
from methods.lazy import torch
from methods.target_error import errors_of_windows, hidden_after
from methods.walk.decoder import decoder_blocks
from sweep.evaluation.metrics.outcomes import Number, metric_row
from sweep.evaluation.suite import EvaluationData, EvaluationResult, Evaluator, Judge
from sweep.evaluation.windows import mean_row, unusable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KIND, ERROR, TOTAL = "blocks", "block_error", "block_error_total"


def make_judge(
    data: EvaluationData, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: torch.device | str
) -> Judge:
    """What evaluates copies of the dense `model` on `device`, as the settings of the evaluation ask."""
    if data.settings.first_blocks is None:
        return Evaluator(data, model, tokenizer, device)
    return BlockEvaluator(data, model, device)


@dataclass(frozen=True)
class BlockErrors:
    """Of every window of all texts: sums of squares of the difference and of the dense states, and the mean error of
    its tokens, float64 [windows, 3]; and the seconds that it took."""

    windows: np.ndarray
    seconds: float


class BlockEvaluator:
    """Keeps what leaves the first blocks of the dense model on the held-out windows, and compares with it."""

    def __init__(self, data: EvaluationData, model: PreTrainedModel, device: torch.device | str) -> None:
        """`model` is the dense one. Raises SettingsError where the first blocks are all that it has."""
        assert data.settings.first_blocks is not None
        self.data, self.first, self.device = data, data.settings.first_blocks, torch.device(device)
        if self.first >= (count := len(decoder_blocks(model))):
            raise SettingsError(
                f"evaluation.first_blocks: {self.first}, and the model has {count} in all; choose fewer"
            )
        self.tokens = np.concatenate([text.tokens for text in data.heldout])  # (windows, length), text by text
        self.dense = hidden_after(model, self.first, self.tokens)

    def score(self, model: PreTrainedModel) -> BlockErrors:
        """The errors of a model whose first blocks are compressed; what its other blocks hold plays no part."""
        begin = time.perf_counter()
        found = errors_of_windows(self.dense, hidden_after(model, self.first, self.tokens), self.device)
        return BlockErrors(found.cpu().numpy(), time.perf_counter() - begin)

    def score_dense(self, model: PreTrainedModel, weights_hash: str) -> BlockErrors:
        """The same of the dense model: no error."""
        return self.score(model)

    def result(self, scored: BlockErrors) -> EvaluationResult:
        """Rows of the metrics table, two for each text."""
        metrics: list[dict[str, Any]] = []
        start = 0
        for text in self.data.heldout:
            windows = scored.windows[start : start + len(text.tokens)]
            start += len(windows)
            metrics += [mean_row(KIND, text.label, ERROR, windows[:, 2]), _total(text.label, windows)]
        return EvaluationResult(metrics, [], {"tasks": 0.0, "windows": scored.seconds}, None, 0)


def _total(label: str, windows: np.ndarray) -> dict[str, Any]:
    """The row of the error of the sums over all tokens of a text; windows: (windows, 3)."""
    reason = unusable(windows.sum(axis=1))
    apart, size = windows[:, 0].sum(), windows[:, 1].sum()
    value = None if reason else 0.0 if apart == 0 else float(apart / size)
    return metric_row(KIND, label, TOTAL, Number(value, None, len(windows), reason))

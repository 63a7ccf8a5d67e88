"""Held-out texts: windows of tokens that every model reads, made once as plain numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from calib.build import build
from calib.settings import SettingsError
from sweep.evaluation.questions.asked import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HeldOut:
    """Windows of one text."""

    label: str
    tokens: np.ndarray  # (windows, seqlen), int32


def build_windows(
    settings: Asked, tokenizer: PreTrainedTokenizerBase, max_length: int, path: str = "evaluation"
) -> list[HeldOut]:
    """Tokenize the held-out texts. Raises SettingsError when one holds too little text.

    Documents that share a window are joined by EOS, or by an empty line when the tokenizer has no EOS.
    """
    if not settings.heldout:
        return []
    if settings.heldout_seqlen > max_length:
        raise SettingsError(
            f"{path}.heldout_seqlen: {settings.heldout_seqlen} tokens do not fit the model's context of "
            f"{max_length}; choose at most {max_length}"
        )
    specs = settings.heldout_specs(path)
    if tokenizer.eos_token_id is None:
        specs = [replace(spec, separator="\n\n") for spec in specs]
    return [HeldOut(spec.source.label, build(spec, tokenizer).tokens) for spec in specs]

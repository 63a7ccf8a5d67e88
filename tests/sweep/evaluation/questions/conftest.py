"""The tasks of the metrics: how they are asked and replayed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sweep.evaluation.metrics.conftest import data

__all__ = ["data"]  # a fixture


@pytest.fixture(scope="module")
def bare(tokenizer: Any) -> Any:
    """The tiny tokenizer without BOS and EOS."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")

"""UltraChat 200k: conversations of several turns, written by a language model (https://arxiv.org/abs/2305.14233).

The training split for fine-tuning, which is the calibration set of several quantization tools.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.instructions import InstructionSource
from calib.settings import settings
from calib.source import register


@register("ultrachat")
@settings
class UltraChat(InstructionSource):
    """HuggingFaceH4/ultrachat_200k."""

    licence: ClassVar[str] = "MIT"

    repository: str = "HuggingFaceH4/ultrachat_200k"
    pinned: str = Field(default="8049631c405ae6576f93f445c6b8166f76f5505a", alias="revision")

    def patterns(self) -> list[str]:
        return ["data/train_sft-*.parquet"]

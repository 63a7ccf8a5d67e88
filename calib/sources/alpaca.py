"""Alpaca: 52,002 instructions with answers, written by a language model (https://github.com/tatsu-lab/stanford_alpaca).

The instruction, its input where there is one, and the answer; not the prompt around them, which a template adds.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from calib.instructions import InstructionSource, exchange
from calib.settings import settings
from calib.source import Record, register


@register("alpaca")
@settings
class Alpaca(InstructionSource):
    """tatsu-lab/alpaca."""

    licence: ClassVar[str] = "CC-BY-NC-4.0"

    repository: str = "tatsu-lab/alpaca"
    pinned: str = Field(default="dce01c9b08f87459cf36a430d809084718273017", alias="revision")
    limit: int = Field(default=60_000, ge=1, alias="documents")

    def patterns(self) -> list[str]:
        return ["data/train-*.parquet"]

    def messages_of(self, record: Record) -> Any:
        return exchange(record, ("instruction", "input"), "output")

"""Open-Platypus (https://arxiv.org/abs/2308.07317): 25,000 questions of science and logic with worked answers."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from calib.instructions import InstructionSource, exchange
from calib.settings import settings
from calib.source import Record, register


@register("open_platypus")
@settings
class OpenPlatypus(InstructionSource):
    """garage-bAInd/Open-Platypus."""

    licence: ClassVar[str] = "as its parts (some CC-BY-NC)"

    repository: str = "garage-bAInd/Open-Platypus"
    pinned: str = Field(default="37141edbdb7826378cce118c46a109b813e1f038", alias="revision")
    limit: int = Field(default=30_000, ge=1, alias="documents")

    def patterns(self) -> list[str]:
        return ["data/train-*.parquet"]

    def messages_of(self, record: Record) -> Any:
        return exchange(record, ("instruction", "input"), "output")

"""The Pile (https://arxiv.org/abs/2101.00027): its first 10,000 documents, as one Parquet file.

The Pile itself is no longer served; of the copies that are, this one is small enough to be read whole.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("pile")
@settings
class Pile(HubSource):
    """NeelNanda/pile-10k."""

    licence: ClassVar[str] = "as its parts (the Pile states none)"

    repository: str = "NeelNanda/pile-10k"
    pinned: str = Field(default="127bfedcd5047750df5ccf3a12979a47bfa0bafa", alias="revision")

    def patterns(self) -> list[str]:
        return ["data/train-*.parquet"]

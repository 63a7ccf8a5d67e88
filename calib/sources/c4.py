"""C4, the cleaned Common Crawl text of T5 (https://arxiv.org/abs/1910.10683), first shard of the English part.

The first shard (about 356,000 documents) is what GPTQ, SparseGPT and Wanda calibrate on, and what published
studies mean by C4.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("c4")
@settings
class C4(HubSource):
    """allenai/c4. `files`: the shards to read."""

    licence: ClassVar[str] = "ODC-BY"

    repository: str = "allenai/c4"
    pinned: str = Field(default="1588ec454efa1a09f29cd18ddd04fe05fc8653a2", alias="revision")
    files: list[str] = Field(default_factory=lambda: ["en/c4-train.00000-of-01024.json.gz"])

    def patterns(self) -> list[str]:
        return self.files

"""RefinedWeb, the filtered web text of Falcon (https://arxiv.org/abs/2306.01116), first of 5,534 Parquet files."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("refinedweb")
@settings
class RefinedWeb(HubSource):
    """tiiuae/falcon-refinedweb. `files`: the Parquet files to read."""

    licence: ClassVar[str] = "ODC-By-1.0"

    repository: str = "tiiuae/falcon-refinedweb"
    pinned: str = Field(default="c735840575b629292b41da8dde11dcd523d4f91c", alias="revision")
    column: str = "content"
    files: list[str] = Field(default_factory=lambda: ["data/train-00000-of-05534-b8fc5348cbe605a5.parquet"])

    def patterns(self) -> list[str]:
        return self.files

"""SlimPajama, the deduplicated RedPajama (https://arxiv.org/abs/2309.10818): a sample of six billion tokens."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("slimpajama")
@settings
class SlimPajama(HubSource):
    """DKYoon/SlimPajama-6B. `files`: the Parquet files to read."""

    licence: ClassVar[str] = "as its parts (Common Crawl terms, CC-BY-SA, MIT/BSD/Apache code)"

    repository: str = "DKYoon/SlimPajama-6B"
    pinned: str = Field(default="b5f90f419b7489cdba26fdbc8c022fcb5562f968", alias="revision")
    files: list[str] = Field(default_factory=lambda: ["data/train-00000-of-*.parquet"])

    def patterns(self) -> list[str]:
        return self.files

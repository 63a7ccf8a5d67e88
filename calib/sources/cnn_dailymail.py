"""CNN/DailyMail news articles (https://arxiv.org/abs/1602.06023), version 3.0.0, training split, without the summaries.

Most articles are shorter than 2,048 tokens, so `long_documents` sampling would see only the longest of them.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("cnn_dailymail")
@settings
class CnnDailymail(HubSource):
    """abisee/cnn_dailymail. `config`: the version of the data set."""

    licence: ClassVar[str] = "Apache-2.0 (the collection; the articles are their publishers')"

    repository: str = "abisee/cnn_dailymail"
    pinned: str = Field(default="96df5e686bee6baa90b8bee7c28b81fa3fa6223d", alias="revision")
    column: str = "article"
    config: str = "3.0.0"

    def patterns(self) -> list[str]:
        return [f"{self.config}/train-*.parquet"]

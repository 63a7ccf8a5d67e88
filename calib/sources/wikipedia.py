"""English Wikipedia articles, cleaned. The dump of 2023-11-01; published studies used the one of 2022-03-01.

The files are sorted by the age of the article, so the pool takes documents from all files in turn. The older dump is
`{source: wikipedia, repository: legacy-datasets/wikipedia, revision: main, config: data/20220301.en}`.
"""

from __future__ import annotations

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("wikipedia")
@settings
class Wikipedia(HubSource):
    """wikimedia/wikipedia. `config`: date and language of the dump, the folder of its files."""

    repository: str = "wikimedia/wikipedia"
    pinned: str = Field(default="b04c8d1ceb2f5cd4588862100d08de323dccfbaa", alias="revision")
    interleave: bool = True
    config: str = "20231101.en"

    def patterns(self) -> list[str]:
        return [f"{self.config}/train-*.parquet"]

"""Wikipedia articles of one language, cleaned; English unless another is asked for.

The dump of 2023-11-01; published studies used the one of 2022-03-01. Another language is another folder, and is called
by it: `{source: wikipedia, config: 20231101.de}` is `wikipedia-de`. The files are sorted by the age of the article, so
the pool takes documents from all files in turn. The older dump is
`{source: wikipedia, repository: legacy-datasets/wikipedia, revision: main, config: data/20220301.en}`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("wikipedia")
@settings
class Wikipedia(HubSource):
    """wikimedia/wikipedia. `config`: date and language of the dump, the folder of its files."""

    licence: ClassVar[str] = "CC-BY-SA-3.0 and GFDL"

    repository: str = "wikimedia/wikipedia"
    pinned: str = Field(default="b04c8d1ceb2f5cd4588862100d08de323dccfbaa", alias="revision")
    interleave: bool = True
    config: str = "20231101.en"

    def default_label(self) -> str:
        language = self.config.rpartition(".")[2]
        return self.source_name if language == "en" else f"{self.source_name}-{language}"

    def patterns(self) -> list[str]:
        return [f"{self.config}/train-*.parquet"]

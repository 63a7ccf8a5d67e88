"""DCLM-Baseline (https://arxiv.org/abs/2406.11794): the filtered Common Crawl text of DataComp for language models."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import settings
from calib.source import register

SHARD = (
    "filtered/OH_eli5_vs_rw_v2_bigram_200k_train/fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train/"
    "processed_data/global-shard_01_of_10/local-shard_0_of_10"
)


@register("dclm")
@settings
class DCLM(HubSource):
    """mlfoundations/dclm-baseline-1.0-parquet. `files`: the Parquet files to read."""

    licence: ClassVar[str] = "CC-BY-4.0"

    repository: str = "mlfoundations/dclm-baseline-1.0-parquet"
    pinned: str = Field(default="817d6752765f6a41261085171dd546b104f60626", alias="revision")
    files: list[str] = Field(default_factory=lambda: [f"{SHARD}/shard_00000000_*.parquet"])

    def patterns(self) -> list[str]:
        return self.files

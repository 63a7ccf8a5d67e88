"""RedPajama-Data-1T-Sample: one billion tokens drawn from the open copy of LLaMA's training mix.

The sample is one JSON-lines file a slice (web, code, books, papers, ...), so a slice is a ready-made domain. By default
all slices are read and one document in forty is kept (about 23,000 of 930,000), so that the pool has the sample's
mix and not its first slice. That reads about 3 GB; a single slice is cheaper.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from calib.hub import HubSource
from calib.settings import INT32_MAX, settings, suggestion
from calib.source import register

SLICES = (
    "arxiv",
    "book",
    "c4",
    "cc_2019-30",
    "cc_2020-05",
    "cc_2021-04",
    "cc_2022-05",
    "cc_2023-06",
    "github",
    "stackexchange",
    "wikipedia",
)


@register("redpajama")
@settings
class RedPajama(HubSource):
    """togethercomputer/RedPajama-Data-1T-Sample. `slices`: which of its parts to read."""

    licence: ClassVar[str] = "as its slices (Common Crawl terms, MIT/BSD/Apache code, arXiv, CC-BY-SA, books)"

    repository: str = "togethercomputer/RedPajama-Data-1T-Sample"
    pinned: str = Field(default="98f93b765c118b999b1af570c3e399c207d08da7", alias="revision")
    slices: list[str] = Field(default_factory=lambda: list(SLICES))
    limit: int = Field(default=30_000, ge=1, le=INT32_MAX, alias="documents")
    every: int = Field(default=40, ge=1, le=INT32_MAX)

    def __post_init__(self) -> None:
        if not self.slices:
            raise ValueError("slices: expected at least one")
        for name in self.slices:
            if name not in SLICES:
                raise ValueError(f"slices: no slice '{name}'{suggestion(name, SLICES)}")
        super().__post_init__()

    def default_label(self) -> str:
        return self.source_name if len(self.slices) > 1 else f"{self.source_name}-{self.slices[0]}"

    def patterns(self) -> list[str]:
        return [f"{name}_sample.jsonl" for name in self.slices]

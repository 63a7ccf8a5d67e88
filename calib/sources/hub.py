"""Any text data set of the Hugging Face hub, by its repository and files: instruction data, code, other languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from calib.files import format_of
from calib.hub import HubSource
from calib.settings import settings
from calib.source import register


@register("hub")
@settings
class Hub(HubSource):
    """`repository` (OWNER/NAME) and `files` in it (.jsonl, .json, .json.gz, .parquet; `*` for any characters)."""

    example: ClassVar[Mapping[str, Any]] = {"repository": "owner/name", "files": ["data.jsonl"]}

    files: list[str]

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files: expected at least one file of the repository")
        for name in self.files:
            if format_of(name) not in ("json", "parquet"):
                raise ValueError(f"files: expected JSON or Parquet files, got '{name}'")
        super().__post_init__()

    def default_label(self) -> str:
        return self.repository.rpartition("/")[2]

    def patterns(self) -> list[str]:
        return self.files

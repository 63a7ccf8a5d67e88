"""Reads the JSON lines that lie beside the task files; lm-eval calls it for every task of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load_items(file: str, **_: Any) -> Any:
    """The items of `file` (a name in this folder) as the `test` split of a dataset."""
    from datasets import Dataset, DatasetDict

    with open(Path(__file__).parent / file, encoding="utf-8") as lines:
        return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})

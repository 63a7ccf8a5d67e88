"""Files of records: which column holds the text."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from calib.files import text_column


@pytest.mark.parametrize(
    ("record", "column"),
    [({"body": "a", "id": 1}, "body"), ({"text": "a", "title": "b"}, "text"), ({"title": "a", "body": "b"}, "text")],
)
def test_a_column_is_found_where_there_is_no_choice(tmp_path: Path, record: dict[str, object], column: str) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps(record) + "\n")
    pl.DataFrame([record]).write_parquet(tmp_path / "some.parquet")
    assert text_column(str(tmp_path / "some.jsonl")) == text_column(str(tmp_path / "some.parquet")) == column
    (tmp_path / "some.txt").write_text("plain")
    assert text_column(str(tmp_path / "some.txt")) == text_column(str(tmp_path / "nowhere.jsonl")) == "text"

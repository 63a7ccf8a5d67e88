"""What a reader sees of a folder: rows of trials that ended well, in the order of their keys, each key once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sweep.results import DETAILS, TABLES, Results, ResultsError, TrialRows


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A trial that ended well, one that failed, and one that was killed before its row was written."""
    made = Results(tmp_path / "r")
    for trial_id, status in (("2e", "ok"), ("1f", "failed"), ("0d", None)):
        rows = TrialRows(
            {"trial_id": trial_id, "status": status, "study": "tiny"},
            [{"kind": "task", "task": task, "metric": "acc", "value": 0.5} for task in ("b", "a")],
            [{"task": "a", "doc_id": number, "score": 1.0} for number in (1, 0)],
            [{"step": 0, "block": 0, "linear": "q", "relative_error": 0.1}],
        )
        if status:
            made.write_trial(rows)
        else:
            made.write_details(rows)
    return made


@pytest.mark.parametrize("name", DETAILS)
def test_only_rows_of_trials_that_ended_well_are_seen(results: Results, name: str) -> None:
    read, scanned = results.read(name), results.scan(name).collect()
    assert set(read.get_column("trial_id")) == {"2e"}
    assert scanned.sort(pl.all()).equals(read.sort(pl.all()))


def test_rows_come_in_the_order_of_their_key(results: Results) -> None:
    assert results.read("trials").get_column("trial_id").to_list() == ["1f", "2e"]
    assert results.read("metrics").get_column("task").to_list() == ["a", "b"]
    assert results.read("samples").get_column("doc_id").to_list() == [0, 1]


def test_all_columns_are_there_in_an_empty_folder(tmp_path: Path) -> None:
    for name, schema in TABLES.items():
        frame = Results(tmp_path).read(name)
        assert frame.is_empty() and frame.columns == schema.names
        assert Results(tmp_path).scan(name).collect().columns == schema.names


def test_a_key_in_two_files_is_named(results: Results) -> None:
    folder = Path(results.path) / "trials"
    shutil.copy(folder / "2e.parquet", folder / "copy.parquet")
    with pytest.raises(ResultsError, match=r"trials: \{'trial_id': '2e'\} occurs twice"):
        results.read("trials")
    assert results.read("trials", without=[f"{folder}/copy.parquet"]).height == 2


def test_status_is_that_of_the_committed_row(results: Results) -> None:
    (Path(results.path) / "trials" / "ab.parquet").write_bytes(b"PAR1 and nothing else")
    found: dict[str, Any] = {trial_id: results.status(trial_id) for trial_id in ("2e", "1f", "0d", "ab", "never")}
    assert found == {"2e": "ok", "1f": "failed", "0d": None, "ab": None, "never": None}


def test_keys_and_sizes_are_those_of_the_files(results: Results) -> None:
    assert results.keys("metrics") == set(results.sizes("metrics")) == {"2e", "1f", "0d"}
    path = Path(results.path) / "metrics" / "2e.parquet"
    assert results.sizes("metrics")["2e"] == path.stat().st_size
    assert results.sizes("metrics", without=[str(path)]).keys() == {"1f", "0d"}


def test_hidden_files_of_writers_are_not_seen(results: Results) -> None:
    before = results.files("trials")
    (Path(results.path) / "trials" / ".2e.parquet.1.aa.tmp").write_bytes(b"half")
    (Path(results.path) / "trials" / ".hidden.parquet").write_bytes(b"half")
    assert results.files("trials") == before


def test_file_with_a_foreign_column_is_read_unless_it_must_be_exact(results: Results) -> None:
    path = f"{results.path}/trials/2e.parquet"
    pl.read_parquet(path).with_columns(pl.lit(1).alias("colour")).write_parquet(path)
    assert "colour" not in results.read_file("trials", path).columns
    with pytest.raises(ResultsError, match="damaged or of another version"):
        results.read_exactly("trials", [path])

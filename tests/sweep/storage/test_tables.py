"""What a table takes: known columns, keys that are there and differ, and one commit a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sweep.results import KEYS, TABLES, Results, ResultsError, TrialRows


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "r")


def metric(value: float, **changes: Any) -> dict[str, Any]:
    return {"kind": "task", "task": "t", "metric": "acc", "value": value, **changes}


def trial(trial_id: str, status: str = "ok") -> dict[str, Any]:
    return {"trial_id": trial_id, "status": status, "study": "tiny"}


def test_column_that_is_not_defined_is_refused(results: Results) -> None:
    with pytest.raises(ResultsError, match=r"trials: unknown columns \['colour'\]; define them in"):
        results.commit({**trial("1f"), "colour": "red"})
    assert not results.files("trials")


def test_two_rows_of_one_key_are_refused(results: Results) -> None:
    with pytest.raises(ResultsError, match="metrics: two rows share the key"):
        results.write_trial(TrialRows(trial("1f"), [metric(0.5), metric(0.6)]))
    assert results.status("1f") is None


@pytest.mark.parametrize("column", ["task", "metric"])
def test_key_without_a_value_is_refused(results: Results, column: str) -> None:
    with pytest.raises(ResultsError, match=f"metrics: {column} is a key and must not be null"):
        results.write_trial(TrialRows(trial("1f"), [metric(0.5, **{column: None})]))


def test_table_of_another_schema_is_refused(results: Results) -> None:
    with pytest.raises(ResultsError, match="trials: columns differ from the schema"):
        results.put_table("trials", "1f", pa.table({"trial_id": ["1f"]}))


def test_trial_that_is_written_again_replaces_its_rows(results: Results) -> None:
    for value in (0.25, 0.75):
        results.write_trial(TrialRows(trial("1f"), [metric(value)]))
    assert results.read("metrics").get_column("value").to_list() == [0.75]


def test_a_row_states_the_bytes_of_the_other_files(results: Results) -> None:
    rows = TrialRows(trial("1f"), [metric(0.5)], [{"task": "t", "doc_id": 0, "score": 1.0}])
    sizes = results.write_details(rows)
    assert sizes == {name: results.sizes(name)["1f"] for name in ("metrics", "samples", "layers")}


def test_a_trial_that_is_taken_back_is_missing(results: Results) -> None:
    for trial_id in ("1f", "2e"):
        results.write_trial(TrialRows(trial(trial_id), [metric(0.5)]))
    results.remove_trials(["1f", "never there"])
    assert results.status("1f") is None
    assert results.read("metrics").get_column("trial_id").to_list() == ["2e"]


def test_every_table_has_its_key_among_its_columns() -> None:
    assert all(set(key) <= set(TABLES[name].names) for name, key in KEYS.items())

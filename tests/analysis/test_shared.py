from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis.evidence import Evidence
from analysis.findings import findings
from analysis.frames import load
from analysis.pages.calibration import section
from analysis.shared import most_shared, overlap_table
from sweep.results import Results


@pytest.fixture
def folder(simulated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simulated, tmp_path / "study"))


def write_overlap(folder: Path, shared: dict[str, int]) -> None:
    """A comparison with one task for each calibration set: `shared` texts by source."""
    results = Results(folder)
    trials = results.read("trials").drop_nulls("calibration_id").unique("calibration_id")
    for key, source in trials.select("calibration_id", "source").iter_rows():
        texts = shared.get(source, 0)
        row: dict[str, Any] = {"calibration_id": key, "kind": "task", "name": "piqa", "unit": "words", "n": 8}
        row |= {"texts": 60, "short": 5, "texts_shared": texts, "largest_share": texts / 100}
        results.write_table("overlap", key, [{**row, "windows": 16, "windows_shared": min(texts, 1), "seconds": 0.1}])


def test_shared_text_is_added_up_by_source_and_told(folder: Path) -> None:
    write_overlap(folder, {"code": 3})
    study = load(str(folder))
    rows = {row["source"]: row for row in overlap_table(study).iter_rows(named=True)}
    sets = study.trials.filter(source="code")["calibration_id"].n_unique()
    assert (rows["code"]["sets"], rows["code"]["sets_shared"], rows["code"]["windows_shared"]) == (sets, sets, sets)
    assert (rows["code"]["texts"], rows["code"]["texts_shared"], rows["code"]["short"]) == (60, 3, 5)
    assert rows["legal"]["sets_shared"] == 0
    assert most_shared(overlap_table(study))["source"].to_list() == ["code"]
    [told] = [finding for finding in findings(Evidence(study)) if finding.table == "table-overlap"]
    assert f"{sets} of {sets} sets of code share 8 words in a row with piqa, up to 3 of its 60 texts." in told.text
    assert "1 share text (8 words in a row)" in section(Evidence(study)).text[0]


def test_nothing_shared_is_no_finding(folder: Path) -> None:
    write_overlap(folder, {})
    study = load(str(folder))
    assert not most_shared(overlap_table(study)).height
    assert all(finding.table != "table-overlap" for finding in findings(Evidence(study)))


def test_folder_without_comparisons_has_an_empty_table(simulated: Path) -> None:
    assert overlap_table(load(str(simulated))).is_empty()
    assert not section(Evidence(load(str(simulated)))).items

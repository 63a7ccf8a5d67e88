"""Files that are lost or damaged after their trials committed: named, and made again."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sweep.results import Results

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A place for one finished study, so that it is run once."""
    return [tmp_path_factory.mktemp("finished") / "r"]


@pytest.fixture
def study(launch: Callable[..., Any], write_study: Any, document: dict[str, Any], finished: list[Path]) -> Any:
    """(launch of the study, its results folder), finished."""
    document["methods"] = ["rtn", {"method": "wanda"}]
    file = write_study(document)
    if not finished[0].exists():
        assert launch(file, "--local", "--results", str(finished[0])).exit_code == 0
    shutil.copytree(finished[0], "r")
    return lambda *more: launch(file, "--local", "--results", "r", *more), Path("r")


def tables(root: Path) -> list[Any]:
    results = Results(root)
    hashes = results.read("trials").select("trial_id", "status", "weights_hash", "achieved_sparsity").rows()
    layers = results.read("layers").drop("seconds").rows()
    return [hashes, layers, *(results.read(name).rows() for name in ("metrics", "samples", "calibration"))]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    pl.DataFrame({"x": [1]}).write_parquet(file)


def no_rows(file: Path) -> None:
    pl.read_parquet(file).head(0).write_parquet(file)


@pytest.mark.parametrize("table", ["trials", "metrics", "samples", "layers", "calibration"])
@pytest.mark.parametrize("damage", [cut, empty, foreign, no_rows, Path.unlink], ids=lambda damage: damage.__name__)
def test_damaged_file_is_named_and_its_trial_made_again(study: Any, table: str, damage: Damage) -> None:
    run, root = study
    before = tables(root)
    file = max((root / table).glob("*.parquet"), key=lambda file: file.stat().st_size)
    damage(file)
    result = run()
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    if table == "calibration":
        assert "0 to run" in result.output
    elif table == "trials" and damage is Path.unlink:
        assert "1 to run" in result.output
    else:
        assert f"r/{table}/{file.name} " in result.output
        assert "the trial is made again" in result.output
        assert "1 to run" in result.output
    assert tables(root) == before


def test_disk_that_fails_is_no_reason_to_delete_a_set(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, root = study

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    files = {file: file.stat().st_mtime_ns for file in root.rglob("*.parquet")}
    monkeypatch.setattr("sweep.runs.repair.pq.read_metadata", fail)
    run()
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.parquet")} == files


def test_sound_folder_is_left_as_it_is(study: Any) -> None:
    run, root = study
    files = {file: file.stat().st_mtime_ns for file in root.rglob("*.parquet")}
    result = run()
    assert result.exit_code == 0
    assert "made again" not in result.output
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.parquet")} == files


def test_dry_run_names_damage_and_changes_nothing(study: Any) -> None:
    run, root = study
    cut(next((root / "metrics").glob("*.parquet")))
    files = sorted(root.rglob("*"))
    result = run("--dry-run")
    assert result.exit_code == 0
    assert "the trial is made again" in result.output
    assert sorted(root.rglob("*")) == files


def test_rows_of_earlier_versions_do_not_say_how_long_files_are(study: Any) -> None:
    run, root = study
    for file in (root / "trials").glob("*.parquet"):
        pl.read_parquet(file).drop("files").write_parquet(file)
    result = run()
    assert "0 to run" in result.output
    next((root / "metrics").glob("*.parquet")).unlink()
    result = run()
    assert "is lost; the trial is made again" in result.output


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("files", "{", "has a broken list of files"),
        ("files", "[1]", "has a broken list of files"),
        ("files", "null", "has a broken list of files"),
        ("files", "[" * 100_000, "has a broken list of files"),
        ("files", '{"metrics": "a"}', "has a broken list of files"),
        ("status", "weird", "has the status 'weird'"),
        ("status", None, "has the status None"),
        ("study", None, "names no study"),
    ],
)
def test_row_that_does_not_say_how_its_trial_ended_is_made_again(
    study: Any, column: str, value: str | None, said: str
) -> None:
    run, root = study
    file = next((root / "trials").glob("*.parquet"))
    pl.read_parquet(file).with_columns(pl.lit(value, pl.String).alias(column)).write_parquet(file)
    result = run("--dry-run")
    assert result.exit_code == 0, result.output
    assert f"r/trials/{file.name} {said}" in " ".join(result.output.split("\n"))
    assert "1 to run" in result.output


@pytest.mark.parametrize("rows", [1, 2])
def test_parquet_of_another_program_among_the_rows_is_named(study: Any, rows: int) -> None:
    run, root = study
    pl.DataFrame({"x": range(rows)}).write_parquet(root / "trials" / "mine.parquet")
    result = run("--dry-run")
    assert result.exit_code == 2
    assert "trials/mine.parquet has no column trial_id, and belongs to no trial of this study" in result.stderr


def test_marks_that_are_none_are_not_counted(study: Any) -> None:
    run, root = study
    for name in ("x", ".5", "1f.²", f"1f.{'9' * 30}", "1f.-1"):
        (root / "started").mkdir(exist_ok=True)
        (root / "started" / name).touch()
    assert Results(root).started() == {}
    assert run("--dry-run").exit_code == 0


def test_leftovers_of_killed_writers_are_removed_when_they_are_old(study: Any) -> None:
    run, root = study
    old, new = root / "samples" / ".1.parquet.77.abc.tmp", root / ".study.yaml.77.abc.tmp"
    for file in (old, new):
        file.write_bytes(b"x")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    assert run().exit_code == 0
    assert not old.exists()
    assert new.exists()


def test_starts_that_no_row_counts_are_counted_in_the_next_one(study: Any) -> None:
    run, root = study
    file = next((root / "trials").glob("*.parquet"))
    file.unlink()
    results = Results(root)
    for attempt in (1, 2):  # two drivers and their workers were killed in this trial
        results.mark_started(file.stem, attempt)
    assert run().exit_code == 0
    rows = {row["trial_id"]: row["attempts"] for row in results.read("trials").iter_rows(named=True)}
    assert rows[file.stem] == 3
    assert results.started() == {}


@pytest.mark.parametrize(
    "root", ["s3://KEY:hunter2@bucket/x", "s3://bucket/x?access_key=KEY&secret_key=hunter2", "gs://hunter2@bucket"]
)
def test_secrets_in_a_results_uri_are_refused_and_not_repeated(study: Any, root: str) -> None:
    result = study[0]("--results", root)
    assert result.exit_code == 2
    assert "holds a key or a secret" in result.stderr
    assert "hunter2" not in result.output + result.stderr
    assert "KEY:" not in result.output + result.stderr


@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=lambda damage: damage.__name__)
def test_what_describes_a_set_is_made_again(study: Any, damage: Damage) -> None:
    """As after a launch that was killed between a trial and the table that it did not wait for."""
    launch_again, root = study
    before = Results(root).read("overlap").drop("seconds")
    damage(next((root / "overlap").glob("*.parquet")))
    result = launch_again()
    assert result.exit_code == 0, result.output
    assert "0 to run" in result.output
    assert_frame_equal(Results(root).read("overlap").drop("seconds"), before, check_row_order=False)


@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=lambda damage: damage.__name__)
def test_descriptors_that_are_damaged_or_lost_are_made_again(study: Any, damage: Damage) -> None:
    launch_again, root = study
    before = Results(root).read("descriptors").drop("seconds")
    damage(next((root / "descriptors").glob("*.parquet")))
    result = launch_again()
    assert result.exit_code == 0, result.output
    assert_frame_equal(Results(root).read("descriptors").drop("seconds"), before, check_row_order=False)


@pytest.mark.parametrize("looked", [1, 200])
def test_descriptors_that_a_finished_study_asks_for_later_are_made_once(
    study: Any, looked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.runs.repair.LOOKED", looked)
    launch_again, root = study
    before = Results(root).read("descriptors")
    asked = sorted({*before["descriptor"].unique().to_list(), "perplexity"})
    added = f"evaluation.descriptors=[{', '.join(asked)}]"
    result = launch_again("--set", added)
    assert result.exit_code == 0, result.output
    assert "2 calibration sets lack their file, or what describes them" in result.output
    after = Results(root).read("descriptors")
    assert set(after["descriptor"]) == set(asked)
    assert after.filter(after["descriptor"] == "perplexity")["calibration_id"].n_unique() == 2
    assert_frame_equal(after.filter(after["descriptor"] != "perplexity"), before, check_row_order=False)
    assert "lack their file" not in launch_again("--set", added).output

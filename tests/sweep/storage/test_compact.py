"""Packing: readers notice nothing, whatever is killed, and damage is still found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sweep.results import DETAILS, Results, ResultsError, TrialRows, main
from sweep.runs.repair import read_trials, take_back, told
from sweep.storage.compact import compact
from sweep.storage.lease import Lease

IDS = [f"{number:02x}" for number in range(7)]
TABLES = ("trials", *DETAILS)


def write(results: Results, trial_id: str, status: str = "ok", value: float = 0.5) -> None:
    rows = TrialRows(
        {"trial_id": trial_id, "status": status, "study": "tiny"},
        [{"kind": "task", "task": task, "metric": "acc", "value": value} for task in ("a", "b")],
        [{"task": "a", "doc_id": number, "score": value} for number in range(3)],
        [{"step": 0, "block": 0, "linear": linear, "relative_error": value} for linear in ("q", "k")],
    )
    results.write_trial(rows)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Seven trials, of which one failed."""
    made = Results(tmp_path / "r")
    for number, trial_id in enumerate(IDS):
        write(made, trial_id, "failed" if number == 3 else "ok", number / 8)
    return made


def tables(results: Results) -> list[Any]:
    fresh = Results(results.root)
    return [fresh.read(name).rows() for name in TABLES]


def scanned(results: Results) -> list[Any]:
    return [results.scan(name).collect().sort(pl.all()).rows() for name in TABLES]


def test_readers_see_the_same_before_and_after(results: Results) -> None:
    before, sizes, lazily = tables(results), [results.sizes(name) for name in TABLES], scanned(results)
    done = compact(results, trials_a_file=4)
    assert (done.trials, done.before, done.after) == (6, 28, 4 * 2 + 4)  # two packed files a table, one trial failed
    again = Results(results.root)
    assert tables(results) == before
    assert scanned(again) == lazily
    assert [again.sizes(name) for name in TABLES] == sizes
    assert [again.status(trial_id) for trial_id in (*IDS, "ff")] == ["ok"] * 3 + ["failed"] + ["ok"] * 3 + [None]
    assert again.keys("samples") == set(IDS)
    assert not any(again.own_files(name).keys() - {f"{again.path}/{name}/03.parquet"} for name in TABLES)
    assert read_trials(again, set(IDS))[1] == []


def test_large_trials_are_packed_in_smaller_portions(results: Results) -> None:
    before = tables(results)
    assert compact(results, bytes_a_file=1).trials == 6
    assert len(results.packed_files("trials")) == 6
    assert tables(results) == before


def test_trial_that_is_made_again_counts_before_its_packed_rows(results: Results) -> None:
    compact(results)
    write(results, "01", value=7.0)
    write(results, "03")
    for step in range(2):
        values = dict(Results(results.root).read("metrics").select("trial_id", "value").iter_rows())
        assert values["01"] == 7.0
        assert values["02"] == 2 / 8
        assert values["03"] == 0.5
        assert len(values) == 7
        assert step or compact(results).trials == 2
    assert not results.own_files("trials")


class Killed(BaseException):
    """Stands for a kill: nothing may run after it but `finally`."""


@pytest.mark.parametrize("step", range(0, 33, 2))
def test_kill_at_any_step_loses_and_doubles_nothing(
    results: Results, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, left = tables(results), [step]

    def dying(action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return action(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Results, "put", dying(Results.put))
        patch.setattr(Results, "delete_if_there", dying(Results.delete_if_there))
        try:
            compact(results, trials_a_file=4)
        except Killed:
            pass
        else:
            assert step >= 32  # 8 packed files are put, 24 own ones deleted
    assert tables(results) == before
    assert read_trials(Results(results.root), set(IDS))[1] == []
    compact(Results(results.root))
    assert tables(results) == before
    assert [len(results.own_files(name)) for name in TABLES] == [1, 1, 1, 1]


def test_reader_that_listed_the_files_before_reads_on(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    before, listed = tables(results), Results.files
    packed = []

    def files_and_then_packed(self: Results, name: str) -> list[str]:
        found = listed(self, name)
        if name == "samples" and not packed:
            packed.append(True)
            compact(Results(results.root))
        return found

    monkeypatch.setattr(Results, "files", files_and_then_packed)
    assert Results(results.root).read("samples").rows() == before[2]
    assert packed


@pytest.mark.parametrize(
    ("table", "cut"),
    [*((table, cut) for table in TABLES for cut in (0.5, 0.0)), ("trials", None)],  # None: as long as it was
)
def test_damaged_packed_file_is_named_and_its_trials_are_missing(
    results: Results, table: str, cut: float | None
) -> None:
    compact(results, trials_a_file=4)
    path = Path(results.packed_files(table)[0])  # trials 00, 01, 02 and 04
    content = path.read_bytes()
    if cut is None:
        path.write_bytes(content[:20] + bytes(60) + content[80:])
    else:
        path.write_bytes(content[: int(cut * len(content))])
    store = Results(results.root)
    rows, damages = read_trials(store, set(IDS))
    assert sorted(rows.get_column("trial_id")) == ["03", "05", "06"]
    assert f"r/{table}/packed/{path.name} " in told(store, damages)[0]
    assert told(store, damages)[0].endswith("its trials are made again")
    take_back(store, damages)
    for again in (store, Results(results.root)):
        assert again.status("00") is None
        assert again.status("05") == "ok"
    assert set(Results(results.root).read("metrics").get_column("trial_id")) == {"05", "06"}
    assert Path(f"{path}.damaged").exists()
    for trial_id in ("00", "01", "02", "04"):
        write(store, trial_id)
    assert read_trials(Results(results.root), set(IDS))[1] == []
    assert Results(results.root).read("samples").height == 6 * 3


def test_trial_with_a_damaged_file_is_left_for_the_repair(results: Results) -> None:
    file = Path(results.path) / "samples" / "01.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    done = compact(results)
    assert done.trials == 5
    assert "2 trials keep files of their own" in done.left[0]
    assert [damage.file for damage in read_trials(Results(results.root), set(IDS))[1]] == ["samples/01.parquet"]


def test_files_with_unknown_columns_are_not_packed(results: Results) -> None:
    file = Path(results.path) / "trials" / "01.parquet"
    pl.read_parquet(file).with_columns(new=1).write_parquet(file)
    with pytest.raises(ResultsError, match="damaged or of another version"):
        compact(results)
    assert len(results.own_files("trials")) == 7


def test_command_packs_and_keeps_out_of_the_way_of_a_launch(
    results: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.storage.lease.SETTLE", (0.0, 0.0))
    holder = Lease(Results(results.root))
    holder.acquire()
    assert main(["compact", results.root]) == 2
    assert "another launch writes there" in capsys.readouterr().err
    assert len(results.own_files("trials")) == 7
    holder.release()
    assert main(["compact", results.root]) == 0
    assert "6 trials packed: 28 files -> 8 in" in capsys.readouterr().out
    assert results.read_text("lease.json") is None
    shutil.rmtree(results.path)
    Path(results.path).write_text("")
    assert main(["compact", results.root]) == 2
    assert "error: " in capsys.readouterr().err

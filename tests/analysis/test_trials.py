"""Rows of trials/: what counts, what is left out, and what is said of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import polars as pl
import pytest

from analysis.trials import (
    elsewhere_notes,
    known_versions,
    one_trial_per_cell,
    with_conditions,
    with_distinct_labels,
    with_numbered_draws,
    with_one_name_each,
    without_copies,
)
from sweep.results import SCHEMA_VERSION, ResultsError

START = datetime(2025, 1, 1)


def rows(*trials: dict[str, object]) -> pl.DataFrame:
    """Trials that differ from a plain one in what is given."""
    plain: dict[str, object] = {
        "trial_id": "a",
        "schema_version": SCHEMA_VERSION,
        "status": "ok",
        "model": "m",
        "method": "wanda",
        "method_label": "Wanda 50%",
        "settings": '{"sparsity": 0.5}',
        "source": "books",
        "set": 0,
        "nsamples": 16,
        "planned_nsamples": 16,
        "seqlen": 256,
        "sampling": "windows",
        "separator": "eos",
        "add_bos": False,
        "calibration_seed": 0,
        "calibration_hash": "one",
        "started": START,
    }
    return pl.DataFrame([{**plain, **trial} for trial in trials], schema_overrides={"set": pl.Int32})


def test_trials_of_known_versions_stay_and_nothing_is_said() -> None:
    trials = rows({"trial_id": "a"}, {"trial_id": "b"})
    kept, notes = known_versions(trials, "folder")
    assert kept.equals(trials)
    assert notes == ()


def test_newer_trials_are_left_out_and_alone_they_are_refused() -> None:
    newer = {"trial_id": "b", "schema_version": SCHEMA_VERSION + 1}
    kept, (note,) = known_versions(rows({"trial_id": "a"}, newer), "folder")
    assert kept["trial_id"].to_list() == ["a"]
    assert note.text.startswith("1 trials have a newer schema")
    with pytest.raises(ResultsError, match=r"folder: written by a newer version"):
        known_versions(rows(newer), "folder")


def test_of_copies_the_latest_successful_one_counts() -> None:
    later = START.replace(day=2)
    kept, (note,) = without_copies(
        rows({"set": 1}, {"set": 2, "started": later}, {"status": "failed", "started": None})
    )
    assert kept["set"].to_list() == [2]
    assert note.text.startswith("2 rows of trials/ repeat")
    assert without_copies(rows({}))[1] == ()


def test_a_condition_names_the_policies_that_a_study_varies() -> None:
    same = with_conditions(rows({}, {"source": None}))
    assert same["condition"].to_list() == ["16×256 windows", None]
    varied = with_conditions(rows({}, {"separator": "none"}, {"add_bos": True, "planned_nsamples": None}))
    assert varied["condition"].to_list() == [
        "16×256 windows, separator eos, without BOS",
        "16×256 windows, no separator, without BOS",
        "all×256 windows, separator eos, with BOS",
    ]


def test_sets_of_a_second_seed_are_numbered_on() -> None:
    trials = rows({"set": 0}, {"set": 2}, {"set": 1, "calibration_seed": 7})
    numbered, (note,) = with_numbered_draws(trials)
    assert numbered["set"].to_list() == [0, 2, 4]
    assert "sets 0 to 2 are seed 0, 3 to 5 are seed 7" in note.text
    alone, nothing = with_numbered_draws(trials.head(2))
    assert alone.equals(trials.head(2))
    assert nothing == ()


def test_one_label_of_two_settings_gets_what_differs() -> None:
    trials = with_distinct_labels(
        rows({}, {"settings": '{"sparsity": 0.5, "percdamp": 0.1}'}, {"method_label": "other"})
    )
    assert trials["method_label"].to_list() == ["Wanda 50% (percdamp=None)", "Wanda 50% (percdamp=0.1)", "other"]


def test_two_trials_of_a_cell_are_repeats_only_on_the_same_calibration_set() -> None:
    first = {"trial_id": "a"}
    again = {"trial_id": "b", "started": START.replace(day=2)}
    kept, repeats, (note,) = one_trial_per_cell(with_conditions(rows(first, again)))
    assert kept["trial_id"].to_list() == ["b"]
    assert sorted(repeats["trial_id"]) == ["a", "b"]
    assert note.subject == "duplicate trials"
    kept, repeats, (note,) = one_trial_per_cell(with_conditions(rows(first, {**again, "calibration_hash": "two"})))
    assert kept["trial_id"].to_list() == ["b"]
    assert repeats.is_empty()
    assert note.subject == "unlike trials of a cell"


def spec(label: str, path: str, content: str, column: str = "text", number: int = 0, seed: int = 0) -> str:
    source = {"source": "file", "path": path, "column": column, "label": label}
    return json.dumps({"source": source, "revision": content, "set": number, "seed": seed})


def test_a_text_that_was_renamed_has_its_latest_name_everywhere() -> None:
    trials = rows(
        {"trial_id": "a", "source": "old", "calibration_id": "1", "started": START},
        {"trial_id": "b", "source": "new", "calibration_id": "2", "started": START + timedelta(hours=1)},
        {"trial_id": "c", "source": "other", "calibration_id": "3"},
        {"trial_id": "d", "source": "old", "calibration_id": "4"},
        {"trial_id": "e", "source": "kept", "calibration_id": "5"},
        {"trial_id": "f", "source": None, "calibration_id": None},
        {"trial_id": "g", "source": "same text, other seed", "calibration_id": "7"},
    )
    specs = {
        "7": spec("same text, other seed", "/a/old.jsonl", "one", seed=1),
        "1": spec("old", "/a/old.jsonl", "one"),
        "2": spec("new", "/b/new.jsonl", "one", number=1),
        "3": spec("other", "/a/old.jsonl", "one", column="title"),
        "4": spec("old", "/a/old.jsonl", "two"),
    }
    frame = pl.DataFrame({"calibration_id": list(specs), "spec": list(specs.values())})
    named, (note,) = with_one_name_each(trials, frame)
    assert named["source"].to_list() == ["new", "new", "other", "old", "kept", None, "same text, other seed"]
    assert named.drop("source").equals(trials.drop("source"))
    assert note.text == "new and old are the same text, and are called new here."


def test_sources_that_were_never_renamed_keep_their_rows_as_they_are() -> None:
    trials = rows({"calibration_id": "1"}, {"trial_id": "b", "calibration_id": "2"})
    unknown = json.dumps({"source": {"source": "of another version"}, "revision": "r"})
    specs = pl.DataFrame({"calibration_id": ["1", "2"], "spec": [spec("books", "a", "one"), unknown]})
    damaged = specs.with_columns(spec=pl.Series(['{"source": ', None]))
    for known in (specs, damaged, specs.clear()):
        named, notes = with_one_name_each(trials, known)
        assert named.equals(trials)
        assert notes == ()


def test_sources_without_a_trial_under_the_main_condition_are_named() -> None:
    chat = {"source": "chat", "separator": "none"}
    trials = rows({}, {"trial_id": "b", "set": 1}, {"trial_id": "c", "source": "code"}, {"trial_id": "d", **chat})
    (note,) = elsewhere_notes(with_conditions(trials))
    assert note.text.startswith("chat is compared with no other source: there are no trials under 16×256 windows, sepa")
    assert elsewhere_notes(with_conditions(trials.filter(pl.col("source") != "chat"))) == ()
    assert elsewhere_notes(with_conditions(rows({"source": None}))) == ()

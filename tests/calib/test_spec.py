"""Identity: a spec's id changes with everything that can change the tokens, and with nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calib.build import build
from calib.settings import SettingsError, parse
from calib.source import get_source
from calib.spec import CalibrationSpec


@pytest.fixture
def spec(text_file: Path) -> CalibrationSpec:
    source = get_source({"source": "file", "path": str(text_file)})
    return CalibrationSpec(source=source, set=0, nsamples=4, seqlen=16)


@pytest.mark.parametrize(
    "changes",
    [
        {"set": 1},
        {"nsamples": 5},
        {"seqlen": 17},
        {"sampling": "packed"},
        {"seed": 1},
        {"separator": "none"},
        {"add_bos": True},
        {"document_bos": True},
        {"distinct": 2},
        {"set": 2, "max_nsamples": 8},
        {"add_bos": True, "first_token": "eos"},
    ],
)
def test_id_changes_with_every_setting(spec: CalibrationSpec, changes: dict[str, Any]) -> None:
    assert replace(spec, **changes).id("tokenizer") != spec.id("tokenizer")


def test_id_changes_with_the_tokenizer(spec: CalibrationSpec) -> None:
    assert spec.id("one") != spec.id("other")


def test_id_changes_with_the_content_of_the_file(spec: CalibrationSpec, text_file: Path) -> None:
    before = spec.id("tokenizer")
    text_file.write_text(text_file.read_text().replace("document 3", "document three"))
    assert spec.id("tokenizer") != before


def test_id_ignores_where_the_file_lies_and_what_it_is_called(
    spec: CalibrationSpec, text_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "other.jsonl"
    copy.parent.mkdir()
    copy.write_bytes(text_file.read_bytes())
    moved = replace(spec, source=get_source({"source": "file", "path": str(copy), "label": "mine"}))
    assert moved.id("tokenizer") == spec.id("tokenizer")
    assert moved.to_dict() != spec.to_dict()


def test_id_is_the_same_on_every_machine() -> None:
    source = get_source({"source": "c4", "revision": "0" * 40})
    spec = CalibrationSpec(source=source, set=2, nsamples=128, seqlen=2048)
    assert spec.id("llama") == "837b0773ed2b5e8c"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nsamples": 0}, "calibration.nsamples: expected at least 1, got 0"),
        ({"set": -1}, "calibration.set: expected at least 0, got -1"),
        ({"seqlen": 2.5}, "calibration.seqlen: expected"),
        ({"sampling": "windos"}, "calibration.sampling: expected 'windows', 'packed'"),
        ({"nsamples": None}, "calibration.nsamples: needed for sampling 'windows'"),
        ({"nsamples": None, "sampling": "sequential", "set": 1}, "calibration.set: with nsamples null"),
        ({"seqlen": 1, "add_bos": True}, "calibration.seqlen: expected at least 2 with add_bos"),
        ({"distinct": 3}, "calibration.distinct: 3 windows cannot each stand equally often among nsamples 4"),
        ({"max_nsamples": 3}, "calibration.max_nsamples: expected at least the 4 different windows of the set"),
        ({"nsamples": None, "sampling": "sequential", "select": "random"}, "calibration.select: needs a number of"),
        ({"select": "randon"}, "calibration.select.by: unknown selection 'randon', did you mean 'random'?"),
        ({"first_token": "eos"}, "calibration.first_token: 'eos' needs add_bos: true"),
        ({"nsample": 3}, "calibration.nsample: unknown key 'nsample', did you mean 'nsamples'?"),
        ({"separator": "tab"}, "calibration.separator: expected"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], message: str) -> None:
    base = {"source": get_source("c4"), "set": 0, "nsamples": 4, "seqlen": 16}
    with pytest.raises(SettingsError) as caught:
        parse(CalibrationSpec, {**base, **values}, "calibration")
    assert str(caught.value).startswith(message)


def test_spec_and_set_survive_pickling(spec: CalibrationSpec, tokenizer: Any) -> None:
    built = build(spec, tokenizer, "tiny")
    again = pickle.loads(pickle.dumps(built))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert again.hash == built.hash == pickle.loads(pickle.dumps(again)).hash
    assert again.rows() == built.rows()


def test_rows_have_the_columns_of_the_results(spec: CalibrationSpec, tokenizer: Any) -> None:
    from sweep.results import CALIBRATION

    rows = build(spec, tokenizer, "tiny").rows()
    assert len(rows) == 4
    assert all(list(row) == CALIBRATION.names for row in rows)


def test_label_of_a_source_can_be_chosen(text_file: Path, text_of: Callable[..., str]) -> None:
    assert get_source({"source": "file", "path": str(text_file)}).label == "my"
    assert get_source({"source": "file", "path": str(text_file), "label": "notes"}).label == "notes"

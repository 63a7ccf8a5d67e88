"""A published calibration set is read back as it was, and a changed file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from calib.build import build
from calib.export import main, read_set, write_set
from calib.settings import SettingsError
from calib.source import get_source
from calib.spec import CalibrationSet, CalibrationSpec
from calib.tokenizer import find_tokenizer, tokenizer_id


@pytest.fixture
def built(text_file: Path, tokenizer: Any) -> CalibrationSet:
    source = get_source({"source": "file", "path": str(text_file)})
    return build(CalibrationSpec(source=source, set=1, nsamples=6, seqlen=24, add_bos=True), tokenizer, "tiny")


@pytest.mark.parametrize("name", ["set.parquet", "set.json", "set.jsonl", "set"])
def test_published_set_is_read_back(built: CalibrationSet, tmp_path: Path, text_file: Path, name: str) -> None:
    path = write_set(built, tmp_path / "published" / name)
    rows = built.rows()
    text_file.unlink()  # the reader of a published set does not have the source
    again = read_set(path)
    assert np.array_equal(again.tokens, built.tokens) and again.tokens.dtype == np.int32
    assert (again.id, again.hash, again.texts, again.revision) == (built.id, built.hash, built.texts, built.revision)
    assert (again.pool_documents, again.pool_tokens) == (built.pool_documents, built.pool_tokens)
    assert again.spec == built.spec
    assert again.rows() == rows
    assert [entry.name for entry in path.parent.iterdir()] == [name]  # no temporary file stays


def test_set_of_a_mixture_is_read_back(text_file: Path, tokenizer: Any, tmp_path: Path) -> None:
    parts = [{"source": "file", "path": str(text_file), "share": 0.5}, {"source": "random_tokens", "share": 0.5}]
    source = get_source({"source": "mixture", "parts": parts})
    mixed = build(CalibrationSpec(source=source, set=0, nsamples=4, seqlen=16), tokenizer, "tiny")
    assert read_set(write_set(mixed, tmp_path / "set.json")).spec == mixed.spec


def test_calibration_file_of_a_results_folder_is_a_published_set(built: CalibrationSet, tmp_path: Path) -> None:
    from sweep.results import Results

    results = Results(tmp_path / "results")
    results.write_table("calibration", built.id, built.rows())
    assert read_set(tmp_path / "results" / "calibration" / f"{built.id}.parquet").hash == built.hash


def test_changed_tokens_are_refused(built: CalibrationSet, tmp_path: Path) -> None:
    path = write_set(built, tmp_path / "set.json")
    document = json.loads(path.read_text())
    document["windows"][2]["tokens"][5] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match="it was changed"):
        read_set(path)


def test_missing_window_is_refused(built: CalibrationSet, tmp_path: Path) -> None:
    path = write_set(built, tmp_path / "set.parquet")
    pq.write_table(pq.read_table(path).slice(0, 5), path)
    with pytest.raises(SettingsError, match="5 windows for a set of 6; the file is not whole"):
        read_set(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.parquet", b"plain", "not a Parquet file"),
        ("no.json", b"plain", "not a JSON file, or not whole"),
        ("list.json", b"[1]", "not a calibration set"),
        ("other.json", b'{"windows": [{"text": "a"}]}', "not a calibration set (it has no column 'calibration_id')"),
        ("void.json", b'{"windows": []}', "holds no window"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_set(path)
    assert message in str(caught.value)


def test_missing_file_and_unknown_format_are_refused(built: CalibrationSet, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        read_set(tmp_path / "none.parquet")
    with pytest.raises(SettingsError, match="expected a name that ends in .parquet, .jsonl or .json, or a folder"):
        write_set(built, tmp_path / "set.csv")


def test_command_writes_a_set(
    text_file: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = ["--tokenizer", str(tmp_path / "tokenizer"), "--nsamples", "3", "--seqlen", "20"]
    out = tmp_path / "set.parquet"
    code = main(["--source", f"{{source: file, path: {text_file}}}", *arguments, "--out", str(out)])
    assert code == 0 and read_set(out).tokens.shape == (3, 20)
    assert read_set(out).hash in capsys.readouterr().out


def test_command_gives_a_folder_the_id_of_its_content(text_file: Path, tokenizer: Any, tmp_path: Path) -> None:
    entry = f"{{source: file, path: {text_file}}}"
    ids = []
    for name in ("here", "there"):
        tokenizer.save_pretrained(tmp_path / name)
        out = tmp_path / f"{name}.json"
        arguments = ["--tokenizer", str(tmp_path / name), "--nsamples", "2", "--seqlen", "20", "--out", str(out)]
        assert main(["--source", entry, *arguments]) == 0
        ids.append((read_set(out).tokenizer_id, read_set(out).id))
    assert ids[0] == ids[1]
    assert ids[0][0] == tokenizer_id(tmp_path / "here")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("org/name", "org/name@main"), ("o/n@v1.0", "o/n@v1.0"), ("a.b-c/d", "a.b-c/d@main")],
)
def test_tokenizer_of_the_hub_is_known_by_name_and_revision(name: str, expected: str) -> None:
    assert find_tokenizer(name).id == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--source": "bokks"}, "did you mean 'books'?"),
        ({"--nsamples": "0"}, "calibration.nsamples: expected at least 1, got 0"),
        (
            {"--tokenizer": "/no/such/folder"},
            "--tokenizer: there is no tokenizer '/no/such/folder' (give",
        ),
        ({"--tokenizer": "reference-2m"}, "calibsweep calib knows the models that ship"),
        ({"--tokenizer": str(Path(__file__).parent)}, "holds no tokenizer"),
        ({"--nsamples": "99999"}, "ask for fewer sets"),
    ],
)
def test_command_refuses_wrong_settings(
    text_file: Path,
    tokenizer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    message: str,
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = {
        "--source": f"{{source: file, path: {text_file}}}",
        "--tokenizer": str(tmp_path / "tokenizer"),
        "--out": str(tmp_path / "set.parquet"),
        "--seqlen": "20",
        **changes,
    }
    assert main([part for pair in arguments.items() for part in pair]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set.parquet").exists()

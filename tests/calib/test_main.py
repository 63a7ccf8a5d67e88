"""`python -m calib`: each command on a small set, and what it answers when a set is not what it should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.__main__ import main
from calib.build import build
from calib.compare import compare, domains
from calib.export import read_set, write_set
from calib.reading import windows_as_text
from calib.source import get_source
from calib.spec import CalibrationSpec

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def folder(tokenizer: Any, tmp_path: Path) -> str:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def written(text_file: Path, folder: str, tmp_path: Path, run: Run) -> Path:
    out = tmp_path / "set.parquet"
    assert _build(run, text_file, folder, out)[0] == 0
    return out


def _build(run: Run, text_file: Path, folder: str, out: Path, *more: str) -> tuple[int, str, str]:
    source = f"{{source: file, path: {text_file}}}"
    return run(
        *("build", "--source", source, "--tokenizer", folder, "--out", str(out)),
        *("--nsamples", "4", "--seqlen", "40", "--max-nsamples", "8", *more),
    )


def test_build_writes_what_was_asked_for(text_file: Path, folder: str, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "set.jsonl"
    more = ("--distinct", "2", "--select", "{by: lexical, pool: 3}", "--document-bos", "--set", "1")
    code, printed, _ = _build(run, text_file, folder, out, *more)
    built = read_set(out)
    assert code == 0 and built.hash in printed
    spec = built.spec
    assert (spec.nsamples, spec.distinct, spec.max_nsamples, spec.document_bos, spec.set) == (4, 2, 8, True, 1)
    assert spec.select is not None and spec.select.to_dict() == {"by": "lexical", "pool": 3}


def test_count_is_the_number_of_sets_that_can_be_built(text_file: Path, folder: str, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "set.json"
    source = f"{{source: file, path: {text_file}}}"
    asked = ("--source", source, "--tokenizer", folder, "--nsamples", "4", "--seqlen", "40", "--max-nsamples", "8")
    code, printed, _ = run("build", *asked, "--count")
    assert code == 0 and not out.exists()
    assert run("build", *asked)[::2] == (
        2,
        "--out: required, but not given; name a file (.parquet, .jsonl or .json), or a folder\n",
    )
    count = int(printed.split("': ")[1].split()[0])
    assert _build(run, text_file, folder, out, "--set", str(count - 1))[0] == 0
    code, _, err = _build(run, text_file, folder, out, "--set", str(count))
    assert code == 2 and f"which is enough for {count} sets" in err


def test_show_has_the_text_with_its_borders(written: Path, folder: str, run: Run) -> None:
    built = read_set(written)
    code, printed, _ = run("show", str(written))
    assert code == 0 and all(text in printed for text in built.texts)
    code, printed, _ = run("show", str(written), "--tokenizer", folder, "--window", "1")
    assert printed.count("=== window") == 1
    for document, start, length in zip(built.documents_in[1], built.starts[1], built.lengths[1], strict=True):
        assert f"--- {document}, tokens {start} to {start + length}" in printed
    assert run("show", str(written), "--window", "4")[0] == 2


@pytest.mark.parametrize("changes", [{}, {"add_bos": True}, {"separator": "\n\n"}, {"document_bos": True}])
def test_pieces_that_are_shown_are_those_of_the_documents(text_file: Path, tokenizer: Any, changes: Any) -> None:
    source = get_source({"source": "file", "path": str(text_file)})
    texts = {document.id: document.text for document in source.documents()}
    built = build(CalibrationSpec(source=source, set=0, nsamples=6, seqlen=150, **changes), tokenizer)
    lines = list(windows_as_text(built, tokenizer))
    shown = [lines[i + 1] for i, line in enumerate(lines) if line.startswith("--- ")]
    expected = []
    for window in range(6):
        for document, start, length in zip(
            built.documents_in[window], built.starts[window], built.lengths[window], strict=True
        ):
            ids = tokenizer(texts[document], add_special_tokens=False)["input_ids"][start : start + length]
            expected.append(tokenizer.decode(ids))
    assert shown == expected
    assert list(windows_as_text(built, None, 5))[-1].startswith(built.texts[-1][:5] + "... (")


def test_diff_says_what_two_sets_share(text_file: Path, folder: str, tmp_path: Path, run: Run, written: Path) -> None:
    larger = tmp_path / "larger.json"
    assert _build(run, text_file, folder, larger, "--nsamples", "8")[0] == 0
    code, printed, _ = run("diff", str(written), str(larger))
    assert code == 1
    rows = {line.split("  ")[0]: line for line in printed.splitlines()}
    assert "4 (4 in both)" in rows["windows"] and "8 (4 in both)" in rows["windows"]
    assert "100.0 % in the other" in rows["13-grams of tokens"]
    assert "token_entropy" in rows
    assert run("diff", str(written), str(written))[0] == 0


def test_sets_of_two_tokenizers_are_compared_by_text(text_file: Path, tokenizer: Any) -> None:
    source = get_source({"source": "file", "path": str(text_file)})
    spec = CalibrationSpec(source=source, set=0, nsamples=4, seqlen=40)
    rows = {
        what: (one, other) for what, one, other in compare(build(spec, tokenizer, "a"), build(spec, tokenizer, "b"))
    }
    assert "8-grams of words" in rows and rows["tokenizer"] == ("a", "b")


def test_domains_count_the_windows_of_each_part(tokenizer: Any) -> None:
    parts = {"random_tokens": 0.75, "code": 0.25}
    source = get_source({"source": "mixture", "parts": parts})
    built = build(CalibrationSpec(source=source, set=0, nsamples=8, seqlen=16), tokenizer)
    assert domains(built) == {"code": 2, "random_tokens": 6}


@pytest.mark.parametrize("name", ["again.parquet", "again.jsonl", "again.json", "again"])
def test_export_keeps_the_set(written: Path, tmp_path: Path, run: Run, name: str) -> None:
    out = tmp_path / name
    assert run("export", str(written), str(out))[0] == 0
    assert read_set(out).rows() == read_set(written).rows()
    assert run("verify", str(out))[0] == 0


def test_folder_is_a_data_set_with_a_card(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset

    built = build(CalibrationSpec(source=get_source("dialogue_qa"), set=0, nsamples=4, seqlen=64), tokenizer, "tiny")
    path = write_set(built, tmp_path / "published")
    card = (path / "README.md").read_text()
    assert built.hash in card and built.documents_in[0][0] in card
    assert all(licence in card for licence in built.spec.source.licences())
    loaded = load_dataset(str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["tokens"][:] == built.tokens.tolist()
    assert run_export_again(path) == 2


def run_export_again(path: Path) -> int:
    return main(["export", str(path), str(path)])


def test_verify_builds_the_set_again(written: Path, text_file: Path, folder: str, run: Run) -> None:
    code, printed, _ = run("verify", str(written), "--tokenizer", folder)
    assert code == 0 and "the source gives these tokens" in printed
    moved = text_file.rename(text_file.with_name("moved.jsonl"))
    assert run("verify", str(written), "--tokenizer", folder)[0] == 2
    assert run("verify", str(written), "--tokenizer", folder, "--path", str(moved))[0] == 0
    moved.write_text(moved.read_text().replace("the", "a"))
    code, _, err = run("verify", str(written), "--tokenizer", folder, "--path", str(moved))
    assert code == 1 and "the source gives other tokens now" in err


def test_verify_goes_by_the_tokens_of_a_tokenizer_and_not_by_its_files(written: Path, folder: str, run: Run) -> None:
    config = Path(folder) / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 9}))
    code, printed, _ = run("verify", str(written), "--tokenizer", folder)
    assert code == 0 and "gives these tokens" in printed and "the tokenizer's files are others" in printed
    words = Path(folder) / "tokenizer.json"
    document = json.loads(words.read_text())
    document["model"]["vocab"] = _upside_down(document["model"]["vocab"])
    words.write_text(json.dumps(document))
    code, _, err = run("verify", str(written), "--tokenizer", folder)
    assert code == 1 and "other tokens now" in err and "the tokenizer's files are others" in err


def _upside_down(vocabulary: dict[str, int]) -> dict[str, int]:
    """The same pieces with their ids in reverse, but for the first ten, among which special tokens are."""
    last = max(vocabulary.values())
    return {piece: number if number < 10 else last + 10 - number for piece, number in vocabulary.items()}


def test_verify_refuses_a_changed_file(written: Path, tmp_path: Path, run: Run) -> None:
    changed = tmp_path / "changed.json"
    assert run("export", str(written), str(changed))[0] == 0
    document = json.loads(changed.read_text())
    document["windows"][0]["tokens"][0] += 1
    changed.write_text(json.dumps(document))
    code, _, err = run("verify", str(changed))
    assert code == 2 and "it was changed" in err

"""One command, or one call, turns a model and a text into a folder that loads, and whose recipe measures it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from calib.export import read_set
from calib.settings import SettingsError
from methods.base import get_method
from methods.blockwise import compress_model
from sweep.compress import compress, main, save_compressed
from sweep.config import parse_study
from sweep.formats import factored, loading
from sweep.formats.format import FormatError
from sweep.models import MODELS
from sweep.plan import expand

GPTQ = {"method": "gptq", "bits": 4, "group_size": 16}


def load(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def logits(model: Any) -> torch.Tensor:
    tokens = torch.from_numpy(np.random.default_rng(0).integers(3, 257, size=(2, 24)))
    with torch.no_grad():
        found: torch.Tensor = model(tokens, use_cache=False).logits
    return found


def test_a_call_writes_a_folder_whose_recipe_is_its_trial(
    tiny_model: Path, tiny_texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("compressed_tensors")
    text = tiny_texts / "rivers.jsonl"
    written = compress(str(tiny_model), {**GPTQ, "sym": True}, text, tmp_path / "out", nsamples=4, seqlen=32)
    assert (written.folder, written.format) == (tmp_path / "out", "compressed-tensors")
    monkeypatch.chdir(tmp_path / "out")
    study = parse_study(yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text()))
    (trial,) = (trial for trial in expand(study) if trial.method)
    card = (tmp_path / "out" / "README.md").read_text()
    assert trial.id in card
    assert "Nothing was evaluated." in card
    assert "those that were evaluated" not in card
    assert trial.method.scale_dtype == "float32"  # the checkpoint's type, so that scales can be stored
    assert read_set(tmp_path / "out" / "calibration.parquet").id == trial.calibration_id
    model = load(tiny_model)
    tokens = read_set(tmp_path / "out" / "calibration.parquet").tokens
    compress_model(model, trial.method, tokens.copy())
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))


@pytest.mark.parametrize("counted", [{"length_weights": [4, 32]}, {"part": "response"}], ids=["lengths", "part"])
def test_tokens_that_count_otherwise_make_other_weights_and_stand_in_the_recipe(
    counted: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [{"role": "user", "content": "where does the river end?"}, {"role": "assistant", "content": "in the sea"}]
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({'messages': talk})}\n" * 20)
    data = {"source": "chat", "of": {"source": "file", "path": str(tmp_path / "a.jsonl")}, "template": "chatml"}
    compress(str(tiny_model), GPTQ, data, tmp_path / "out", nsamples=4, seqlen=32, format="dense", **counted)
    monkeypatch.chdir(tmp_path / "out")
    study = parse_study(yaml.safe_load(Path("recipe.yaml").read_text()))
    (trial,) = (trial for trial in expand(study) if trial.method)
    calibration = read_set(tmp_path / "out" / "calibration.parquet")
    assert trial.calibration_id == calibration.id
    for key, value in counted.items():
        assert getattr(trial.spec, key) == value
    weighted, plain = load(tiny_model), load(tiny_model)
    compress_model(weighted, trial.method, calibration.tokens.copy(), token_weights=calibration.weights)
    compress_model(plain, trial.method, calibration.tokens.copy())
    assert torch.equal(logits(load(tmp_path / "out")), logits(weighted))
    assert not torch.equal(logits(weighted), logits(plain))


def test_a_part_of_text_that_tells_none_is_refused_before_anything_is_written(
    tiny_model: Path, tiny_texts: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"part: 'response' needs text that tells"):
        compress(str(tiny_model), GPTQ, tiny_texts / "rivers.jsonl", tmp_path / "out", seqlen=32, part="response")
    assert not (tmp_path / "out").exists()


def test_relative_texts_are_found_again_from_the_folder(
    tiny_model: Path, tiny_texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_texts)
    compress(str(tiny_model), {"method": "wanda"}, "rivers.jsonl", tmp_path / "out", nsamples=2, seqlen=32)
    recipe = (tmp_path / "out" / "recipe.yaml").read_text()
    document = yaml.safe_load(recipe)
    (entry,) = document["calibration"]
    for path, there in [
        (entry["source"]["path"], tiny_texts / "rivers.jsonl"),
        (document["models"][0]["model"], tiny_model),
    ]:
        assert not Path(path).is_absolute()
        assert (tmp_path / "out" / path).resolve() == there.resolve()
    monkeypatch.chdir(tmp_path / "out")
    (trial,) = (trial for trial in expand(parse_study(document)) if trial.method)
    assert f"# {trial.id} as long as they hold the same: model {trial.model.fingerprint}, text " in recipe


def test_a_word_that_is_a_source_is_not_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "mine.txt").write_text("a text of my own, which is long enough for a window or two. " * 40)
    (tmp_path / "mine").write_text("not a text")
    common = ["reference-2m", "--method", "wanda", "--nsamples", "1", "--seqlen", "16", "--data"]
    assert main([*common, "books", "--out", "source"]) == 0
    assert (
        capsys.readouterr().err
        == "note: --data books is the source of that name; write ./books for the file or folder here\n"
    )
    assert main([*common, "./books", "--out", "folder"]) == 0
    assert capsys.readouterr().err == ""
    sources = [
        yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())["calibration"][0]["source"]
        for name in ("source", "folder")
    ]
    assert sources[0]["source"] == "books"
    assert (sources[1]["source"], sources[1]["path"]) == ("file", "../books")


def test_the_length_is_that_of_the_context_where_none_is_given(
    tiny_model: Path, tiny_texts: Path, tmp_path: Path
) -> None:
    compress(str(tiny_model), "wanda", tiny_texts / "rivers.jsonl", tmp_path / "out", nsamples=2)
    assert read_set(tmp_path / "out" / "calibration.parquet").tokens.shape == (2, 64)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ("rtn", "compressed-tensors"),
        ({"method": "svd", "ratio": 0.7}, "factored"),
        ("magnitude", "dense"),
        (["magnitude", {"method": "rtn", "bits": 8}], "compressed-tensors"),
    ],
)
def test_methods_without_data_need_none(entry: Any, kind: str, tiny_model: Path, tmp_path: Path) -> None:
    assert compress(str(tiny_model), entry, None, tmp_path / "out").format == kind
    assert not (tmp_path / "out" / "calibration.parquet").exists()
    loaded = factored.load(tmp_path / "out") if kind == "factored" else None
    assert loaded is None or torch.isfinite(logits(loaded)).all()


def test_a_flag_turns_the_model_before_the_method(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(tiny_model), "--rotate", "--method", "rtn", "--bits", "8", "--out", str(out)]) == 0
    assert [step["method"] for step in yaml.safe_load((out / "recipe.yaml").read_text())["methods"][0]] == [
        "rotation",
        "rtn",
    ]


def test_a_model_that_was_compressed_by_hand_is_saved(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model = load(tiny_model)
    method = get_method("rtn", bits=4, group_size=16, sym=True)
    report = compress_model(model, method, None)
    written = save_compressed(model, method, report, tmp_path / "out")
    assert written.bits_per_weight is not None
    assert torch.equal(logits(load(tmp_path / "out")), logits(model))
    with pytest.raises(FormatError, match="--format awq cannot hold RTN .*measured in float32"):
        save_compressed(model, method, report, tmp_path / "awq", format="awq")


def test_the_snippet_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("compressed_tensors")
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    (snippet,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.S) if "from_pretrained" in text)
    assert sum(" import " not in line and bool(line.strip()) for line in snippet.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    shutil.copytree(MODELS / "reference-2m", "my-model")
    Path("my.txt").write_text("The river ran slowly through the valley, past the old mill. " * 200)
    made: dict[str, Any] = {}
    exec(snippet, made)
    assert torch.equal(logits(load(tmp_path / "my-model-4bit")), logits(made["model"]))


def test_groups_that_follow_the_order_are_written_and_their_loaders_told(
    tiny_model: Path, tiny_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "out", str(tiny_texts / "rivers.jsonl")
    flags = ["--method", "gptq", "--bits", "4", "--set", "group_size=16", "--set", "static_groups=false"]
    assert main([str(tiny_model), *flags, "--nsamples", "2", "--seqlen", "32", "--data", data, "--out", str(out)]) == 0
    assert "note: groups of inputs that do not stand together are read by" in capsys.readouterr().err
    method = get_method("gptq", bits=4, group_size=16, static_groups=False)
    model = load(tiny_model)
    report = compress_model(model, method, read_set(out / "calibration.parquet").tokens.copy())
    assert torch.equal(logits(loading.load(out)), logits(model))
    save_compressed(model, method, report, tmp_path / "by hand")
    assert torch.equal(logits(loading.load(tmp_path / "by hand")), logits(model))


def test_the_command_says_what_it_wrote(
    tiny_model: Path, tiny_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--method", "gptq", "--bits", "3", "--set", "group_size=16", "--nsamples", "2", "--seqlen", "32"]
    data = str(tiny_texts / "rivers.jsonl")
    assert main([str(tiny_model), *flags, "--data", data, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{out}: compressed-tensors, ")
    assert "(the method counts 5.188)" in told  # 3 bits, and 32 + 3 for 16 weights
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["config_groups"]["group_0"]["weights"]["num_bits"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "gptq"], "--data: GPTQ 4-bit needs calibration text"),
        (["--method", "gtpq"], "unknown method 'gtpq', did you mean 'gptq'?"),
        (["--method", "rtn", "--bits", "99"], "methods[0].bits: expected 2 to 8, got 99"),
        (["--method", "rtn", "--set", "bits"], "--set 'bits': expected key=value, such as bits=4"),
        (["--method", "rtn", "--format", "gguf"], "--format: unknown format 'gguf'"),
        (["--method", "rtn", "--format", "awq"], "measured in float32"),
        (["--method", "gptq", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--method", "gptq", "--data", "boks"], "unknown source 'boks', did you mean 'books'?"),
        (["--method", "rtn", "--speed", "9"], "No such option: --speed"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_model), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_everything_wrong_with_the_text_has_a_line_of_its_own(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = "{source: noisy, of: boks, kind: casin}"
    assert main([str(tiny_model), "--method", "gptq", "--data", data, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") and "\\n" not in line for line in lines)


def test_a_target_that_is_there_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(SettingsError, match="is there already and not empty"):
        compress("no such model", "rtn", None, tmp_path)


def test_text_may_be_an_entry_and_is_told_where_no_method_looks_at_it(
    tiny_model: Path,
    tiny_texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tiny_texts)
    entry = "{source: noisy, of: {source: file, path: rivers.jsonl}, kind: casing}"
    common = ["--nsamples", "2", "--seqlen", "32", "--data", entry]
    assert main([str(tiny_model), "--method", "wanda", *common, "--out", str(tmp_path / "used")]) == 0
    assert capsys.readouterr().err == ""
    (calibration,) = yaml.safe_load((tmp_path / "used" / "recipe.yaml").read_text())["calibration"]
    assert calibration["source"]["source"] == "noisy"
    assert (tmp_path / "used" / calibration["source"]["of"]["path"]).resolve() == tiny_texts / "rivers.jsonl"
    assert main([str(tiny_model), "--method", "rtn", *common, "--out", str(tmp_path / "unused")]) == 0
    assert capsys.readouterr().err == f"note: the method looks at no text, so --data {entry} was not used\n"

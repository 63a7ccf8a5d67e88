"""What a person has to see to before the first trial, as the plan says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.runs.cautions import cautions


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def told(model: Any, tasks: list[str], **evaluation: Any) -> list[str]:
    document = {
        "study": "tiny",
        "models": [model],
        "methods": [{"method": "rtn", "bits": 4}],
        "evaluation": {"tasks": tasks, **evaluation},
    }
    return cautions(plan.expand(parse_study(document)))


def test_nothing_is_said_of_what_is_here() -> None:
    assert told("reference-2m", ["reference_lambada"]) == []


def test_data_to_fetch_by_hand_are_said_unless_a_local_task_has_them(tmp_path: Path) -> None:
    (line,) = told("reference-2m", ["paper_a"])
    assert line.startswith("the data of task storycloze_2016 is not on the hub: ask for it at https://")
    assert told("reference-2m", ["paper_a_without_storycloze"]) == []
    (tmp_path / "storycloze.yaml").write_text(
        "task: storycloze_2016\ndataset_path: json\ndataset_kwargs: {data_files: {test: mine.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: a\ndoc_to_choice: [b, c]\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc}]\n",
        encoding="utf-8",
    )
    assert told("reference-2m", ["paper_a"], task_path=str(tmp_path)) == []


def test_models_to_download_and_terms_to_accept_are_said(empty_cache: Path) -> None:
    size, terms = told({"model": "meta-llama/Llama-2-7b-hf", "revision": "main"}, ["piqa"])
    assert size == "1 of 1 models are not on this machine and will be downloaded, about 14 GB: Llama-2-7b-hf"
    assert terms.startswith("accept the terms of meta-llama/Llama-2-7b-hf on the hub")
    assert told({"model": "org/free", "revision": "main"}, ["piqa"]) == [
        "1 of 1 models are not on this machine and will be downloaded: free"
    ]
    snapshot = empty_cache / "models--meta-llama--Llama-2-7b-hf" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    assert told({"model": "meta-llama/Llama-2-7b-hf", "revision": "main"}, ["piqa"]) == []


@pytest.mark.parametrize(
    ("entry", "said"), [({}, True), ({"placement": "streamed"}, False), ({"dtype": "float32"}, True)]
)
def test_weights_beyond_a_gpu_are_said_unless_they_are_to_be_streamed(entry: dict[str, str], said: bool) -> None:
    lines = told({"model": "org/Giant-70B", "revision": "main", **entry}, ["piqa"])
    assert any("more than one GPU of 80 GB holds" in line for line in lines) == said
    assert ("about 280 GB" in lines[0]) == ("dtype" in entry)


def test_a_small_download_is_told_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.runs.cautions._bytes", lambda trial: 269_000_000)
    (line,) = told({"model": "org/small", "revision": "main"}, ["piqa"])
    assert line.endswith("will be downloaded, about 269 MB: small")

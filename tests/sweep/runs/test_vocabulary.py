"""Ids that are used must have a row in the embedding; tokens that nobody uses need none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from calib.settings import SettingsError
from sweep import plan
from sweep.config import parse_study
from sweep.results import Results
from sweep.runs.local import LocalRunner


@pytest.fixture
def larger(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with two tokens in its tokenizer that it has no embedding for."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "larger"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(folder)
    return folder


def prepare(document: dict[str, Any], tmp_path: Path) -> None:
    trials = plan.expand(parse_study(document))
    runner = LocalRunner(str(tmp_path / "results"), {})
    runner.prepare(plan.pools(trials), plan.request_sets(trials))


def with_token(folder: Path, token: str) -> str:
    path = folder / "extra.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{token} the old house " * 40}) for _ in range(40)))
    return str(path)


def test_tokens_that_nobody_uses_are_no_fault(larger: Path, document: dict[str, Any], tmp_path: Path) -> None:
    document["models"] = [str(larger)]
    prepare(document, tmp_path)
    assert Results(tmp_path / "results").keys("calibration")


def test_calibration_text_is_looked_at(larger: Path, document: dict[str, Any], tmp_path: Path) -> None:
    document["models"] = [str(larger)]
    document["calibration"]["source"][1]["path"] = with_token(tmp_path, "<two>")
    with pytest.raises(
        SettingsError,
        match=r"calibration: source 'extra': the tokenizer of larger makes the id 258 \('<two>'\) of it, .* 0 to 256",
    ):
        prepare(document, tmp_path)


def test_held_out_text_is_looked_at(larger: Path, document: dict[str, Any], tmp_path: Path) -> None:
    document["models"] = [str(larger)]
    document["evaluation"]["heldout"][0]["path"] = with_token(tmp_path, "<one>")
    with pytest.raises(SettingsError, match=r"evaluation.heldout: 'extra': .* makes the id 257 \('<one>'\)"):
        prepare(document, tmp_path)


def test_random_tokens_of_a_larger_tokenizer_are_refused(
    larger: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    document["models"] = [str(larger)]
    document["calibration"] |= {"source": "random_tokens", "nsamples": 64, "seqlen": 64}
    with pytest.raises(SettingsError, match=r"calibration: source 'random_tokens': .* makes the id 258"):
        prepare(document, tmp_path)


@pytest.mark.parametrize("kind", ["multiple_choice", "generate_until"])
def test_requests_of_tasks_are_looked_at(
    larger: Path, document: dict[str, Any], tiny_tasks: Path, tmp_path: Path, kind: str
) -> None:
    import yaml

    folder = Path(shutil.copytree(tiny_tasks, tmp_path / "tasks"))
    task = yaml.safe_load((folder / "tiny_b.yaml").read_text())
    task["doc_to_text"] = "<one> {{question}}"
    if kind == "generate_until":
        del task["doc_to_choice"]
        task |= {
            "output_type": kind,
            "doc_to_target": "house",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 8},
        }
        task["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    (folder / "tiny_b.yaml").write_text(yaml.safe_dump(task))
    document["models"] = [str(larger)]
    document["evaluation"] |= {"tasks": ["tiny_a", "tiny_b"], "task_path": str(folder)}
    with pytest.raises(SettingsError, match=r"evaluation.tasks: task 'tiny_b': .* makes the id 257 \('<one>'\)"):
        prepare(document, tmp_path)

"""What a set shares with the evaluation is what a plain search finds, by task and text, and none is counted twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from calib.spec import CalibrationSet
from sweep import plan
from sweep.config import parse_study
from sweep.describe.base import DESCRIPTORS as MODEL_DESCRIPTORS
from sweep.descriptor import of_a_model
from sweep.evaluation.suite import EvaluationData
from sweep.models import load_tokenizer
from sweep.results import Results
from sweep.runs.contamination import Asked, asked_of, asked_texts
from sweep.runs.prepare import make_calibration_sets, make_requests
from tests.sweep.conftest import changed


@pytest.fixture
def leaky(document: dict[str, Any], tiny_tasks: Path, tmp_path: Path) -> dict[str, Any]:
    """Calibration text of 16 documents, of which numbers 3 and 5 begin with a question and its choices."""
    questions = [json.loads(line) for line in (tiny_tasks / "tiny_a.jsonl").read_text().splitlines()]
    lines = [f"{number} bottles " + "stand on the wall " * 12 for number in range(16)]
    for number in (3, 5):
        asked = questions[number]
        lines[number] = " ".join([asked["question"], *asked["choices"], lines[number]])
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    document["calibration"] |= {"source": {"source": "file", "path": str(path)}, "sampling": "document_start"}
    return changed(document, "calibration.nsamples=14", "calibration.sets=1", "calibration.seqlen=64")


def made(document: dict[str, Any], root: Path) -> tuple[EvaluationData, CalibrationSet, Any]:
    """The requests, the one set of the study, and its tokenizer."""
    trials = plan.expand(parse_study(document))
    data = make_requests(trials[0], str(root))
    [pool] = plan.pools(trials)
    [calibration] = make_calibration_sets(pool, str(root), data=data)
    return data, calibration, load_tokenizer(trials[0].model)


def test_shared_text_is_found_in_its_task_alone(leaky: dict[str, Any], tmp_path: Path) -> None:
    data, calibration, _ = made(leaky, tmp_path / "results")
    rows = Results(tmp_path / "results").read("overlap").rows(named=True)
    found = {(row["kind"], row["name"], row["unit"]): row for row in rows}
    assert {key for key in found if key[2] == "words"} == {
        ("task", "tiny_a", "words"),
        ("task", "tiny_b", "words"),
        ("heldout", "heldout", "words"),
    }
    row = found["task", "tiny_a", "words"]
    shared = {3, 5} & {int(document.rpartition(":")[2]) for window in calibration.documents_in for document in window}
    assert (row["texts"], row["texts_shared"], row["n"]) == (6, len(shared), 8)
    assert row["windows_shared"] == len(shared) >= 1
    assert 0 < row["largest_share"] <= 1
    assert row["windows"] == len(calibration.tokens) == 14
    assert found["task", "tiny_b", "words"]["texts_shared"] == 0
    assert found["heldout", "heldout", "tokens"]["texts"] == len(data.heldout[0].tokens)


def test_documents_that_share_are_left_out_of_a_study_and_counted(leaky: dict[str, Any], tmp_path: Path) -> None:
    leaky["calibration"]["exclude_overlap"] = True
    _, calibration, _ = made(leaky, tmp_path / "results")
    assert calibration.excluded_documents == 2
    store = Results(tmp_path / "results")
    assert store.read("overlap").filter(unit="words", kind="task")["texts_shared"].sum() == 0
    stored = store.read("calibration")
    assert set(stored["excluded_documents"]) == {2}
    assert set(stored["exclude_overlap"]) == {8}


def test_prompts_are_compared_with_their_few_shot_examples(document: dict[str, Any], tmp_path: Path) -> None:
    def prompts(shots: int) -> tuple[EvaluationData, list[Asked], list[str]]:
        study = changed(document, "calibration.source=books", f"evaluation.num_fewshot={shots}")
        data, _, tokenizer = made(study, tmp_path / str(shots))
        found = [asked for asked in asked_of(data, tokenizer) if asked.kind == "prompt"]
        return data, found, asked_texts(data, tokenizer)

    data, [zero, *_], plain = prompts(0)
    _, [two, *_], more = prompts(2)
    assert len(zero.tokens) == len(two.tokens) == len(two.texts) == 6
    assert not zero.texts
    assert all(len(few) > len(none) for few, none in zip(two.tokens, zero.tokens, strict=True))
    assert [len(plain), len(more)] == [12 + len(data.heldout[0].tokens), 24 + len(data.heldout[0].tokens)]


def test_what_is_there_is_not_written_again(leaky: dict[str, Any], tmp_path: Path) -> None:
    made(leaky, tmp_path / "results")
    store = Results(tmp_path / "results")
    before = {name: store.read(name) for name in ("overlap", "descriptors")}
    made(leaky, tmp_path / "results")
    assert all(store.read(name).equals(frame) for name, frame in before.items())


def test_descriptors_of_a_study_are_chosen_by_name(leaky: dict[str, Any], tmp_path: Path) -> None:
    leaky["evaluation"]["descriptors"] = ["token_entropy", "unigram_divergence"]
    made(leaky, tmp_path / "results")
    rows = Results(tmp_path / "results").read("descriptors")
    assert rows.select("descriptor", "target", "model").rows() == [
        ("token_entropy", "", ""),
        ("unigram_divergence", "heldout", ""),
    ]
    assert rows["value"].is_between(0, 8).all()


def test_descriptors_change_no_trial(document: dict[str, Any]) -> None:
    named = changed(document, "evaluation.descriptors=[token_entropy]")
    ids = [[trial.id for trial in plan.expand(parse_study(each))] for each in (document, named)]
    assert ids[0] == ids[1]


def test_what_a_set_is_to_each_model_is_written_once(
    document: dict[str, Any], other_model: Path, tmp_path: Path
) -> None:
    document["models"].append(str(other_model))
    document["evaluation"]["descriptors"] = ["token_entropy", "perplexity", "activation_distance"]
    trials = plan.expand(parse_study(document))
    pools = plan.pools(trials)
    assert [[model.name for model in pool.describers] for pool in pools] == [["tiny", "other"]] * 2
    assert all(pool.needs_device and not pool.asks_model for pool in pools)
    data = make_requests(trials[0], str(tmp_path))
    for pool in [*pools, *pools]:
        make_calibration_sets(pool, str(tmp_path), data=data)
    rows = Results(tmp_path).read("descriptors").sort("descriptor", "model")
    assert len(rows) == 2 * (1 + 2 + 2)
    assert rows.filter(descriptor="perplexity")["value"].n_unique() == 4
    assert set(rows.filter(descriptor="activation_distance")["target"]) == {"heldout"}
    assert set(rows.filter(descriptor="token_entropy")["model"]) == {""}
    assert not any(
        pool.describers
        for pool in plan.pools(plan.expand(parse_study(changed(document, "evaluation.descriptors=[token_entropy]"))))
    )


def test_unknown_descriptor_is_refused_while_planning(document: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"evaluation.descriptors: unknown descriptor 'perplexty', did you mean"):
        plan.check(parse_study(changed(document, "evaluation.descriptors=[perplexty]")))


def test_descriptors_are_called_as_their_files() -> None:
    assert MODEL_DESCRIPTORS.names() == of_a_model()

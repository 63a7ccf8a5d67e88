"""One folder holds numbers of one evaluation, one set of requests, and one version of each model."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from calib.settings import SettingsError
from sweep import plan
from sweep.config import apply_override, parse_study
from sweep.models import at_commit, hub_commit, resolve_model
from sweep.results import Results, TrialRows
from sweep.runs.folder import check_evaluation, read_study
from sweep.runs.local import LocalRunner
from sweep.runs.prepare import make_calibration_sets, make_requests
from sweep.runs.schedule import Job
from sweep.trial import describe

Document = dict[str, Any]


def planned(document: Document, *overrides: str) -> list[plan.Trial]:
    changed = copy.deepcopy(document)
    for override in overrides:
        apply_override(changed, override)
    return plan.expand(parse_study(changed))


def folder_of(document: Document, path: Path, **columns: Any) -> Results:
    store = Results(path)
    for trial in planned(document):
        store.write_trial(TrialRows({**describe(trial), "status": "ok", **columns}))
    store.write_text("study.yaml", parse_study(document).to_yaml())
    return store


@pytest.fixture
def refusal(document: Document, other_model: Path, tmp_path: Path) -> Callable[..., str]:
    """What is said of the trials of another model beside those of the study; nothing when they are let in."""

    def call(*overrides: str, **columns: Any) -> str:
        store = folder_of(document, tmp_path / "results", **columns)
        trials = planned(document, f"models=[{other_model}]", *overrides)
        try:
            check_evaluation(trials, store.read("trials"), store)
        except SettingsError as error:
            return str(error)
        return ""

    return call


def test_another_evaluation_is_refused_also_for_a_new_model(refusal: Callable[..., str]) -> None:
    assert refusal() == ""
    message = refusal("evaluation.limit=3", "evaluation.divergence=false")
    assert "6 trials there have another evaluation: limit was 6 and is 3, divergence was True and is False;" in message


def test_changed_data_of_a_task_is_another_evaluation(
    refusal: Callable[..., str], document: Document, tmp_path: Path
) -> None:
    tasks = Path(shutil.copytree(document["evaluation"]["task_path"], tmp_path / "tasks"))
    assert refusal(f"evaluation.task_path={tasks}") == ""
    (tasks / "tiny_a.jsonl").write_text((tasks / "tiny_b.jsonl").read_text())
    assert "its settings are the same, but a task's files" in refusal(f"evaluation.task_path={tasks}")


def test_rows_that_do_not_state_their_evaluation_are_let_through(refusal: Callable[..., str]) -> None:
    assert refusal("evaluation.limit=3", evaluation_id=None) == ""


@pytest.fixture
def hub(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts the tiny model into a cache of the hub as `org/tiny`, and points its branch `main` at a commit."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def point(commit: str) -> None:
        folder = cache / "models--org--tiny"
        if not (folder / "snapshots" / commit).exists():
            shutil.copytree(tiny_model, folder / "snapshots" / commit)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)

    return point


OLD, NEW = "a" * 40, "b" * 40


def test_branch_of_the_hub_means_a_commit(hub: Callable[[str], None], document: Document) -> None:
    hub(OLD)
    ref = resolve_model("org/tiny", "models[0]")
    assert hub_commit(ref) == OLD
    assert at_commit(ref, OLD).revision == OLD
    assert at_commit(ref, OLD).identity() == ref.identity()
    assert hub_commit(resolve_model(f"org/tiny@{NEW}", "models[0]")) == NEW  # says so itself, nothing is looked up
    folder = resolve_model(document["models"][0], "models[0]")
    assert hub_commit(folder) is None
    assert at_commit(folder, None) == folder


def test_hub_model_of_another_commit_is_refused(
    hub: Callable[[str], None], launch: Callable[..., Result], write_study: Callable[..., str], document: Document
) -> None:
    document["models"] = ["org/tiny"]
    document["methods"] = document["methods"][:2]
    study = write_study(document)
    hub(OLD)
    assert launch(study, "--local", "--set", "methods=[rtn]").exit_code == 0
    assert Results("results/tiny").read("trials")["model_commit"].to_list() == [OLD] * 2
    hub(NEW)
    result = launch(study, "--local")
    assert result.exit_code == 2
    assert f"org/tiny@main is the commit {NEW} now, and was {OLD} for the trials in" in result.stderr
    assert not Results("results/tiny").keys("calibration")
    pool = plan.pools(planned(document))[0]
    with pytest.raises(SettingsError, match="choose another --results folder"):
        make_calibration_sets(pool, "results/tiny")
    hub(OLD)
    assert launch(study, "--local").exit_code == 0


def test_workers_load_the_commit_that_the_requests_were_made_with(
    hub: Callable[[str], None], document: Document, tmp_path: Path
) -> None:
    document["models"] = ["org/tiny"]
    trial = planned(document)[0]
    runner = LocalRunner(str(tmp_path / "results"), {})
    runner.start()
    hub(OLD)
    runner.prepare([], plan.request_sets([trial]))
    hub(NEW)  # the branch moves on, to weights that cannot be read
    weights = next((tmp_path / "hub").rglob(f"{NEW}/model.safetensors"))
    weights.write_bytes(b"broken")
    outcomes = list(runner.run([Job(trial)]))
    assert [(outcome.status, outcome.error) for outcome in outcomes] == [("ok", None)]
    assert Results(tmp_path / "results").read("trials")["model_commit"].to_list() == [OLD]


@pytest.fixture
def outside(document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data of the only task of the study, which code reads from a place that no file names."""
    tasks = Path(shutil.copytree(document["evaluation"]["task_path"], tmp_path / "tasks"))
    data = (tasks / "tiny_a.jsonl").rename(tmp_path / "outside.jsonl")
    code = "import json, os, pathlib\nfrom datasets import Dataset, DatasetDict\n\ndef load(**_):\n"
    code += "    items = [json.loads(line) for line in pathlib.Path(os.environ['OUTSIDE']).read_text().splitlines()]\n"
    (tasks / "code.py").write_text(code + "    return DatasetDict({'test': Dataset.from_list(items)})\n")
    task = yaml.safe_load((tasks / "tiny_a.yaml").read_text())
    del task["dataset_path"], task["dataset_kwargs"]
    (tasks / "tiny_a.yaml").write_text(yaml.safe_dump(task) + "custom_dataset: !function code.load\n")
    document["evaluation"].update(tasks=["tiny_a"], task_path=str(tasks), allow_code=True)
    monkeypatch.setenv("OUTSIDE", str(data))
    return data


def test_requests_that_changed_behind_the_same_settings_are_refused(
    outside: Path, launch: Callable[..., Result], write_study: Callable[..., str], document: Document
) -> None:
    study = write_study(document)
    assert launch(study, "--local", "--set", "methods=[rtn]").exit_code == 0
    stated = Results("results/tiny").read("trials").select("requests_id", "requests_hash").unique()
    assert stated.height == 1
    assert stated.null_count().row(0) == (0, 0)
    content = outside.read_text()
    outside.write_text(content.replace("river", "brook"))
    result = launch(study, "--local")
    assert result.exit_code == 2
    assert "the trials in" in result.stderr
    assert "were asked something else than the same settings give now" in result.stderr
    assert Results("results/tiny").read("trials").height == 2
    outside.write_text(content)
    assert launch(study, "--local").exit_code == 0


def test_hash_of_requests_is_of_their_content(outside: Path, document: Document, tmp_path: Path) -> None:
    trial = planned(document)[0]

    def hashed() -> str:
        return make_requests(trial, str(tmp_path / "empty")).requests_hash

    before = hashed()
    assert hashed() == before
    first, *others = outside.read_text().splitlines()
    answer = first[first.index('"answer"') :]
    other = '"answer": 0}' if answer != '"answer": 0}' else '"answer": 1}'
    outside.write_text("\n".join([first.replace(answer, other), *others]))  # the tokens stay the same
    assert hashed() != before


def test_a_resolved_study_may_hold_more_than_one_that_people_write(tmp_path: Path) -> None:
    from calib.yamltext import MAX_VALUES

    store = Results(tmp_path)
    store.write_text("study.yaml", f"study: big\nmethods: [{'1, ' * MAX_VALUES}]\n")
    found = read_study(store)
    assert found is not None and found["study"] == "big"

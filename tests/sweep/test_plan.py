from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError, identity
from sweep import plan
from sweep.config import apply_override, parse_study
from sweep.models import resolve_model

Document = dict[str, Any]


def trials_of(document: Document, *overrides: str) -> list[plan.Trial]:
    changed = copy.deepcopy(document)
    for override in overrides:
        apply_override(changed, override)
    return plan.expand(parse_study(changed))


def ids(trials: list[plan.Trial]) -> dict[str, str]:
    return {f"{trial.label} {trial.spec.source.label if trial.spec else '-'}": trial.id for trial in trials}


def test_dense_comes_first_and_data_free_methods_run_once_per_model(document: Document, other_model: Path) -> None:
    document["models"].append(str(other_model))
    trials = trials_of(document, "calibration.sets=2")
    names = [trial.method_name for trial in trials]
    one_model = ["dense", "rtn", *["gptq", "wanda"] * 4]
    assert names == one_model * 2
    assert [trial.model.name for trial in trials] == ["tiny"] * 10 + ["other"] * 10


def test_same_study_gives_same_ids(document: Document) -> None:
    assert [trial.id for trial in trials_of(document)] == [trial.id for trial in trials_of(document)]
    assert len({trial.id for trial in trials_of(document)}) == 6


def test_ids_do_not_depend_on_names_places_and_order(document: Document, tmp_path: Path) -> None:
    moved = copy.deepcopy(document)
    moved["study"] = "another"
    moved["models"] = [{"model": str(shutil.copytree(document["models"][0], tmp_path / "copy")), "name": "else"}]
    moved["methods"].reverse()
    moved["calibration"]["source"].reverse()
    for entry in moved["calibration"]["source"]:
        entry["path"] = shutil.copy(entry["path"], tmp_path)
    moved["evaluation"]["task_path"] = str(shutil.copytree(document["evaluation"]["task_path"], tmp_path / "mytasks"))
    assert ids(trials_of(moved)) == ids(trials_of(document))


@pytest.mark.parametrize(
    ("override", "stays"),
    [
        ("seed=1", {"dense -", "RTN 3-bit g16 -"}),
        ("calibration.nsamples=5", {"dense -", "RTN 3-bit g16 -"}),
        ("calibration.separator=none", {"dense -", "RTN 3-bit g16 -"}),
        ("methods[1].percdamp=0.02", {"dense -", "RTN 3-bit g16 -", "Wanda 50 % rivers", "Wanda 50 % stones"}),
        ("evaluation.limit=5", set()),
        ("evaluation.heldout_windows=1", set()),
    ],
)
def test_what_can_change_the_numbers_changes_the_id(document: Document, override: str, stays: set[str]) -> None:
    before, after = ids(trials_of(document)), ids(trials_of(document, override))
    assert {name for name in before if after.get(name) == before[name]} == stays


def test_dtype_and_context_are_part_of_the_id(document: Document) -> None:
    model = document["models"][0]
    plain = trials_of(document)[0].id
    document["models"] = [{"model": model, "dtype": "bfloat16"}]
    assert trials_of(document)[0].id != plain
    document["models"] = [{"model": model, "max_length": 32}]
    assert trials_of(document)[0].id != plain
    document["models"] = [{"model": model, "max_length": 64}]  # the model's own
    assert trials_of(document)[0].id == plain


def test_id_of_a_hub_model_does_not_depend_on_what_is_in_the_cache(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    entry = {"model": "org/tiny", "max_length": 64}
    before = resolve_model(entry, "m")
    shutil.copytree(tiny_model, tmp_path / "models--org--tiny" / "snapshots" / "main")
    after = resolve_model(entry, "m")
    assert (before.parameters, after.parameters is None) == (None, False)
    assert before.identity() == after.identity()


def test_content_of_text_tasks_and_weights_counts(document: Document, tmp_path: Path) -> None:
    before = ids(trials_of(document))
    tasks = shutil.copytree(document["evaluation"]["task_path"], tmp_path / "tasks")
    data = tasks / "tiny_a.jsonl"
    data.write_text(data.read_text().replace("river", "brook"))
    changed = {**document, "evaluation": {**document["evaluation"], "task_path": str(tasks)}}
    assert not set(ids(trials_of(changed)).values()) & set(before.values())

    text = Path(shutil.copy(document["calibration"]["source"][0]["path"], tmp_path))
    text.write_text(text.read_text().replace("river", "brook"))
    changed = copy.deepcopy(document)
    changed["calibration"]["source"][0]["path"] = str(text)
    after = ids(trials_of(changed))
    assert {name for name in before if before[name] != after[name]} == {"GPTQ 3-bit g16 rivers", "Wanda 50 % rivers"}

    model = shutil.copytree(document["models"][0], tmp_path / "tiny")
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not set(ids(trials_of({**document, "models": [str(model)]})).values()) & set(before.values())


def test_a_file_that_no_task_uses_changes_no_id_and_data_elsewhere_does(document: Document, tmp_path: Path) -> None:
    tasks = shutil.copytree(document["evaluation"]["task_path"], tmp_path / "tasks")
    document["evaluation"]["task_path"] = str(tasks)
    before = ids(trials_of(document))
    (tasks / "notes.txt").write_text("unrelated")
    assert ids(trials_of(document)) == before

    task = tasks / "tiny_a.yaml"
    data = (tasks / "tiny_a.jsonl").rename(tmp_path / "elsewhere.jsonl")
    task.write_text(task.read_text().replace("tiny_a.jsonl", "../elsewhere.jsonl"))
    before = ids(trials_of(document))
    data.write_text(data.read_text().replace("river", "brook"))
    assert not set(ids(trials_of(document)).values()) & set(before.values())


def test_raised_version_of_a_method_changes_its_ids(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.base import METHODS

    before = ids(trials_of(document))
    monkeypatch.setattr(METHODS.get("wanda"), "version", 99)
    after = ids(trials_of(document))
    assert {name for name in before if before[name] != after[name]} == {"Wanda 50 % rivers", "Wanda 50 % stones"}


def test_finished_trials_are_skipped_and_failed_ones_only_retried_when_asked(document: Document) -> None:
    trials = trials_of(document)
    done, failed = [trials[0].id, trials[1].id], [trials[2].id]
    assert plan.pending(trials, done, failed, retry_failed=False) == trials[3:]
    assert plan.pending(trials, done, failed, retry_failed=True) == trials[2:]


def test_trials_that_share_a_set_share_its_id_and_each_set_is_built_once(document: Document, other_model: Path) -> None:
    document["models"].append(str(other_model))
    trials = trials_of(document, "calibration.sets=3")
    pools = plan.pools(trials)
    built = [calibration_id for pool in pools for calibration_id in pool.ids]
    assert len(pools) == 2  # one pass over each source
    assert len(built) == len(set(built)) == 6
    assert set(built) == {trial.calibration_id for trial in trials if trial.calibration_id}
    assert all(pool.ids == tuple(spec.id(pool.model.tokenizer_id) for spec in pool.specs) for pool in pools)


def test_models_with_one_tokenizer_share_their_requests(document: Document, other_model: Path) -> None:
    document["models"].append(str(other_model))
    assert len(plan.request_sets(trials_of(document))) == 1
    document["models"][1] = {"model": str(other_model), "max_length": 32}
    assert len(plan.request_sets(trials_of(document))) == 2


def test_same_model_files_under_two_names_are_refused(document: Document, tmp_path: Path) -> None:
    document["models"].append(str(shutil.copytree(document["models"][0], tmp_path / "copy")))
    with pytest.raises(SettingsError, match=r"models: .* are the same thing under two names"):
        trials_of(document)


def test_same_text_under_two_labels_is_refused(document: Document) -> None:
    first = document["calibration"]["source"][0]
    document["calibration"]["source"][1] = {**first, "label": "again"}
    with pytest.raises(SettingsError, match=r"calibration: .* are the same thing under two names"):
        trials_of(document)


def test_windows_longer_than_the_context_are_refused(document: Document) -> None:
    for override, place in (
        ("calibration.seqlen=65", "calibration.seqlen"),
        ("evaluation.heldout_seqlen=65", "heldout_seqlen"),
    ):
        changed = copy.deepcopy(document)
        apply_override(changed, override)
        with pytest.raises(SettingsError) as error:
            plan.check(parse_study(changed))
        assert place in str(error.value)
        assert "65" in str(error.value)
        assert "64" in str(error.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("evaluation.heldout_windows=100000", "(heldout_windows 100000, heldout_seqlen 32): source 'heldout'"),
        ("evaluation.heldout=[books]", ""),
        ("evaluation={heldout: [books], heldout_windows: 100000, heldout_seqlen: 64}", "source 'books'"),
        ("evaluation={heldout: [books], heldout_seqlen: 64}", ""),
    ],
)
def test_too_little_heldout_text_is_found_before_anything_starts(document: Document, override: str, told: str) -> None:
    apply_override(document, override)
    study = parse_study(document)
    if not told:
        plan.check(study)
        return
    with pytest.raises(SettingsError) as error:
        plan.check(study)
    assert "evaluation.heldout (" in str(error.value)
    assert told in str(error.value)
    assert "fewer or shorter windows" in str(error.value)


def test_planning_loads_neither_torch_nor_ray_nor_much_else(
    document: Document, write_study: Callable[[Document], str], run_python: Any
) -> None:
    script = (
        "import sys, json\n"
        "from sweep.launch import app\n"
        f"app(['{write_study(document)}', '--dry-run'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'transformers', 'datasets', 'lm_eval', 'pandas'} & set(sys.modules)\n"
        "print(json.dumps([sorted(heavy), len(sys.modules)]))\n"
    )
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr
    heavy, modules = json.loads(result.stdout.splitlines()[-1])
    assert heavy == []
    assert modules < 1700  # torch alone brings as many again; how long they take is the machine's


def test_id_is_the_hash_of_what_can_change_the_numbers(document: dict[str, Any]) -> None:
    study = parse_study(document)
    evaluation = identity(plan.evaluation_identity(study.evaluation))
    for trial in plan.expand(study):
        parts = {
            "model": trial.model.identity(),
            "method": trial.method.identity() if trial.method else "dense",
            "calibration": trial.spec.id(trial.model.tokenizer_id) if trial.spec else None,
            "evaluation": evaluation,
        }
        assert trial.id == identity(parts)


def test_methods_that_cannot_weigh_tokens_are_refused(document: Document) -> None:
    document["calibration"] |= {"length_weights": [None, [8, 16]]}
    plan.check(parse_study(document))
    document["methods"] = [{"method": "fwsvd", "ratio": 0.5}]
    with pytest.raises(SettingsError, match=r"^calibration\.length_weights: .* looks at gradients of the loss"):
        plan.check(parse_study(document))
    document["calibration"] |= {"length_weights": None}
    plan.check(parse_study(document))


def test_a_trial_says_how_much_text_it_sees_where_that_varies(document: Document) -> None:
    sizes = {str(trial).partition(" set 0")[2] for trial in trials_of(document, "calibration.nsamples=[2,4]")}
    assert {" · 2 windows", " · 4 windows"} <= sizes
    assert not any("windows" in str(trial) for trial in trials_of(document, "calibration.nsamples=2"))


def test_trials_that_are_done_are_not_counted_as_uses_of_a_model(document: Document) -> None:
    trials = trials_of(document)
    (asked,) = plan.request_sets(trials[:1], trials[1:]).values()
    (counted,) = plan.request_sets(trials).values()
    assert [use.trials for use in asked.uses] == [1]
    assert [use.trials for use in counted.uses] == [len(trials)]
    assert [use.calibration_ids for use in asked.uses] == [use.calibration_ids for use in counted.uses]

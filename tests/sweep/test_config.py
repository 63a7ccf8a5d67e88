from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from calib.settings import SettingsError
from sweep import plan
from sweep.config import apply_override, load_study, parse_study, read_document


def changed(document: dict[str, Any], *overrides: str) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for override in overrides:
        apply_override(result, override)
    return result


def test_override_reaches_nested_keys_and_list_items(document: dict[str, Any]) -> None:
    result = changed(document, "calibration.sets=2", "methods[1].bits=4", "calibration.source[0].label=mine")
    assert result["calibration"]["sets"] == 2
    assert result["methods"][1]["bits"] == 4
    assert result["calibration"]["source"][0]["label"] == "mine"


def test_override_values_are_yaml(document: dict[str, Any]) -> None:
    result = changed(document, "methods=[{method: wanda, pattern: 2:4}]", "seed=7", "evaluation.limit=null")
    assert result["methods"] == [{"method": "wanda", "pattern": "2:4"}]
    assert result["seed"] == 7
    assert result["evaluation"]["limit"] is None


def test_override_makes_missing_mappings(document: dict[str, Any]) -> None:
    del document["calibration"]
    assert changed(document, "calibration.sets=2")["calibration"] == {"sets": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods[9].bits=4", "methods has 3 items, [0] to [2]"),
        ("methods.bits=4", "so it has no key 'bits' (items are methods[0] to methods[2])"),
        ("study.name=x", "study is 'tiny', so it has no key 'name'"),
        ("calibration[0]=x", "calibration is not a list"),
        ("calibration.sets", "expected key=value"),
        ("a..b=1", "expected key=value"),
        ("seed=[1", "line 1"),
    ],
)
def test_override_that_leads_nowhere_is_explained(document: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        apply_override(document, override)
    assert message in str(error.value)
    assert override in str(error.value)


def test_yaml_is_read_as_people_mean_it(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("pattern: 2:4\nsmall: 1e-3\nwhole: -12\nreal: .5\nflag: true\n")
    assert read_document(path) == {"pattern": "2:4", "small": 1e-3, "whole": -12, "real": 0.5, "flag": True}


def test_yaml_anchors_work(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("base: &base {bits: 3}\nother: {<<: *base, group_size: 8}\n")
    assert read_document(path)["other"] == {"bits": 3, "group_size": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "expected a mapping"),
        ("study: a\nstudy: b\n", "line 1: the key 'study' is there twice"),
        ("study: a\nmodels: [x\n", "line 3"),
    ],
)
def test_unusable_study_file_is_named_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_document(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_study_is_found_by_name_or_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown study 'refrence', did you mean 'reference'"):
        load_study("refrence")
    (tmp_path / "mine.yaml").write_text("study: mine\n")
    with pytest.raises(SettingsError, match=r"does not exist, did you mean .*mine\.yaml"):
        load_study(str(tmp_path / "mime.yaml"))
    with pytest.raises(SettingsError, match="is a folder"):
        load_study(f"{tmp_path}/")


def test_list_value_of_a_scalar_setting_expands(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "methods=[{method: gptq, bits: [3, 4], group_size: [16, 32]}, rtn]"))
    settings = [(method.name, method.bits, method.group_size) for method in study.methods]
    assert settings == [("gptq", 3, 16), ("gptq", 3, 32), ("gptq", 4, 16), ("gptq", 4, 32), ("rtn", 4, None)]


def test_list_value_of_a_list_setting_stays_one_value(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "methods=[{method: rtn, linears: ['mlp.*', 'self_attn.*']}]"))
    assert [method.linears for method in study.methods] == [["mlp.*", "self_attn.*"]]


def test_composition_expands_part_by_part(document: dict[str, Any]) -> None:
    entry = "methods=[[{method: wanda, sparsity: 0.5}, {method: gptq, bits: [3, 4]}]]"
    study = parse_study(changed(document, entry))
    assert [[step.name for step in method.steps] for method in study.methods] == [["wanda", "gptq"]] * 2
    assert [method.steps[1].bits for method in study.methods] == [3, 4]


def test_labels_of_a_study_are_distinct(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "methods=[{method: gptq, bits: 3, percdamp: [0.01, 0.1]}]"))
    assert len(set(study.labels)) == 2
    assert any("percdamp 0.1" in label for label in study.labels)


def test_axes_of_the_calibration_multiply(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "calibration.nsamples=[2, 4]", "calibration.sets=[0, 5]"))
    found = [(spec.source.label, spec.nsamples, spec.set) for spec in study.calibration]
    assert found == [(source, n, k) for source in ("rivers", "stones") for n in (2, 4) for k in (0, 5)]


def test_several_grids_of_calibration_add_up(document: dict[str, Any]) -> None:
    grid = document["calibration"]
    document["calibration"] = [grid, {**grid, "source": grid["source"][0], "nsamples": 2}]
    assert [spec.nsamples for spec in parse_study(document).calibration] == [4, 4, 2]


def test_calibration_follows_the_seed_of_the_study(document: dict[str, Any]) -> None:
    assert {spec.seed for spec in parse_study(changed(document, "seed=5")).calibration} == {5}
    assert {spec.seed for spec in parse_study(changed(document, "seed=5", "calibration.seed=6")).calibration} == {6}


def test_data_free_study_needs_no_calibration(document: dict[str, Any]) -> None:
    del document["calibration"]
    assert parse_study(changed(document, "methods=[rtn]")).calibration == ()
    with pytest.raises(SettingsError, match="calibration: required, but not given: GPTQ"):
        parse_study(document)


def test_resolved_study_reads_back_as_the_same_study(document: dict[str, Any]) -> None:
    document["methods"].append([{"method": "wanda"}, {"method": "gptq", "bits": 3}])
    study = parse_study(document)
    again = parse_study(yaml.safe_load(study.to_yaml()))
    assert again.methods == study.methods
    assert again.calibration == study.calibration
    assert again.evaluation == study.evaluation
    assert again.models == study.models


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sets=3", "sets: unknown key 'sets'"),
        ("calibration.set=3", "calibration.set: unknown key 'set', did you mean 'sets'?"),
        ("methods[1].bit=3", "methods[1].bit: unknown key 'bit', did you mean 'bits'?"),
        ("methods[1].bits=1", "methods[1].bits: expected 2 to 8, got 1"),
        ("methods[1].bits=[3, 9]", "methods[1].bits: expected 2 to 8, got 9"),
        ("methods[1].bits=[]", "methods[1].bits: expected at least one value, got []"),
        ("methods[1].bits=[3, 3]", "methods[1].bits[1]: 3 is there twice"),
        ("methods[1].method=gptp", "methods[1].method: unknown method 'gptp', did you mean 'gptq'?"),
        ("methods[0]=dense", "methods[0]: the dense model is always a trial"),
        ("methods=[]", "methods: expected at least one method"),
        ("methods=[rtn, {method: rtn, bits: 4}]", "methods[1]: the same method with the same settings as methods[0]"),
        ("models=[]", "models: expected at least one model"),
        ("models[0]=refrence-2m", "models[0]: unknown model 'refrence-2m'"),
        ("models[0]=./nowhere", "models[0]: there is no model folder './nowhere'"),
        ("calibration.source[0]=boks", "calibration.source[0]: unknown source 'boks', did you mean 'books'?"),
        ("calibration.source=[]", "calibration.source: expected at least one value, got []"),
        ("calibration.sets=0", "calibration.sets: expected at least 1, got 0"),
        ("calibration.sets=[]", "calibration.sets: expected at least one value, got []"),
        ("calibration.sets=[0, -1]", "calibration.sets: expected set numbers from 0, got -1"),
        ("calibration.sets=many", "calibration.sets: expected a number of sets"),
        ("calibration.sampling=random", "calibration.sampling: expected 'windows'"),
        ("calibration.nsamples=0", "calibration.nsamples: expected at least 1, got 0"),
        ("evaluation.task=[tiny]", "evaluation.task: unknown key 'task', did you mean 'tasks'?"),
        ("evaluation={}", "nothing to evaluate"),
        ("study=../x", "study: expected"),
        ("seed=-1", "seed: expected at least 0, got -1"),
    ],
)
def test_wrong_value_is_named_with_path_and_remedy(document: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_study(changed(document, override))
    assert message in str(error.value)


def test_same_source_twice_is_refused(document: dict[str, Any]) -> None:
    document["calibration"]["source"][1] = document["calibration"]["source"][0]
    with pytest.raises(SettingsError, match=r"calibration.source\[1\].*is there twice"):
        parse_study(document)


def test_two_sources_with_one_label_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="two different sources are labelled 'rivers'"):
        parse_study(changed(document, "calibration.source[1].label=rivers"))


def test_same_model_twice_is_refused(document: dict[str, Any]) -> None:
    document["models"].append(document["models"][0])
    with pytest.raises(SettingsError, match=r"models\[1\].*is there twice"):
        parse_study(document)


def test_relative_paths_mean_the_folder_where_the_study_was_read(
    document: dict[str, Any], tiny_texts: Path, tiny_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plan.expand(parse_study(document))
    monkeypatch.chdir(tiny_texts)
    near = {"source": "file", "path": "rivers.jsonl"}
    mixture = {"source": "mixture", "parts": [{**near, "share": 0.5}, {"source": "code", "share": 0.5}]}
    document["calibration"]["source"] = [near, {"source": "file", "path": ["stones.jsonl"]}, mixture]
    document["evaluation"].update(heldout=[{"source": "file", "path": "heldout.jsonl"}], task_path="../here")
    (tiny_texts.parent / "here").symlink_to(tiny_tasks)
    study = parse_study(document)
    monkeypatch.chdir(tmp_path)  # where a worker of a cluster may be
    read_again = parse_study(yaml.safe_load(study.to_yaml()))
    for one in (study, read_again):
        plan.check(one)
        trials = plan.expand(one)
        assert {trial.id for trial in expected} < {trial.id for trial in trials}
        sources = {trial.spec.source.label: trial.spec.source for trial in trials if trial.spec}
        assert sorted(sources) == ["rivers", "rivers+code", "stones"]
        assert all(next(source.documents()).text for source in sources.values())


def test_label_of_a_pattern_does_not_depend_on_the_working_directory(
    document: dict[str, Any], tiny_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_texts)
    document["calibration"]["source"] = {"source": "file", "path": "*.jsonl"}
    assert parse_study(document).calibration[0].source.label == "file"

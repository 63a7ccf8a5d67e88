from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from calib.settings import SettingsError
from sweep.config import load_study, parse_study
from tests.sweep.conftest import changed


def test_study_is_found_by_name_or_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown study 'refrence', did you mean 'reference'"):
        load_study("refrence")
    (tmp_path / "mine.yaml").write_text("study: mine\n")
    with pytest.raises(SettingsError, match=r"does not exist, did you mean .*mine\.yaml"):
        load_study(str(tmp_path / "mime.yaml"))
    with pytest.raises(SettingsError, match="is a folder"):
        load_study(f"{tmp_path}/")


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


def test_same_model_twice_is_refused(document: dict[str, Any]) -> None:
    document["models"].append(document["models"][0])
    with pytest.raises(SettingsError, match=r"models\[1\].*is there twice"):
        parse_study(document)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep import plan
from sweep.config import parse_study


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

"""What a study's models are asked about its sets: each number has rows, and a model is loaded once for all sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sweep.config import parse_study
from sweep.models import resolve_model
from sweep.plan import expand, pools
from sweep.results import Results
from sweep.runs import asked_model
from sweep.runs.prepare import make_calibration_sets, make_requests


def test_descriptors_of_methods_and_own_text_have_rows_from_one_loading(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document["methods"] = [
        {"method": "gptq", "bits": [3, 4], "group_size": 16},
        {"method": "rtn", "bits": 4, "group_size": 16},
    ]
    document["evaluation"]["descriptors"] = ["own_distance", "target_error", "perplexity"]
    loaded, load = [], asked_model.load_dense

    def counting(*given: Any) -> Any:
        loaded.append(given)
        return load(*given)

    monkeypatch.setattr(asked_model, "load_dense", counting)
    asked_model.release()
    study = parse_study(document)
    trials = expand(study)
    groups = pools(trials)
    assert len(groups) > 1
    data = make_requests(trials[0], str(tmp_path))
    for pool in groups:
        assert list(pool.methods) == ["GPTQ 3-bit g16", "GPTQ 4-bit g16"]  # those that see a set
        make_calibration_sets(pool, str(tmp_path), "cpu", data)
    assert len(loaded) == 1
    asked_model.release(small=False)
    assert len(asked_model._models) == 1  # a small one stays for the next source
    asked_model.release()
    assert not asked_model._models
    rows = Results(tmp_path).scan("descriptors").collect()
    sets = rows["calibration_id"].n_unique()
    texts = {text.label for text in data.heldout}
    for name, targets in (
        ("own_distance", {""}),
        ("perplexity", {""}),
        ("target_error of GPTQ 3-bit g16", texts),
        ("target_error of GPTQ 4-bit g16", texts),
    ):
        found = rows.filter(pl.col("descriptor") == name)
        assert set(found["target"]) == targets and found["value"].is_not_null().all(), name
        assert found.height == sets * len(targets)
    mean = dict(rows.group_by("descriptor").agg(pl.col("value").mean()).iter_rows())
    assert mean["target_error of GPTQ 4-bit g16"] < mean["target_error of GPTQ 3-bit g16"]


def test_own_text_is_whole_windows_and_the_same_every_time(tiny_model: Path) -> None:
    ref = resolve_model(str(tiny_model), "m")
    asked_model._texts.clear()
    first = asked_model.own_text(ref, "cpu", 16)
    asked_model._texts.clear()
    again = asked_model.own_text(ref, "cpu", 16)
    assert first is not None and again is not None
    assert first.shape[1] == 16 and first.shape[0] > 1
    assert np.array_equal(first, again)

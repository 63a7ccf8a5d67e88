"""A trial of the first blocks: its numbers are those of a whole compression, and nothing takes it for a whole trial."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from analysis.frames import load
from calib.build import build_sets
from calib.settings import SettingsError
from methods.blockwise import compress_model, decoder_blocks
from sweep import plan
from sweep.config import parse_study
from sweep.evaluation.first_blocks import BlockEvaluator, make_judge
from sweep.evaluation.settings import EvaluationSettings
from sweep.plan import evaluation_identity
from sweep.results import Results, ResultsError
from sweep.runs.estimate import expected
from sweep.runs.prepare import make_requests
from sweep.shipping.choose import Wanted, choose
from sweep.trial import Clock, run_trial
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel, load_dense
from tests.sweep.conftest import changed

FIRST = ("evaluation.tasks=[]", "evaluation.task_path=null", "evaluation.limit=null", "evaluation.first_blocks=1")


@pytest.fixture
def part(document: dict[str, Any]) -> dict[str, Any]:
    """The study with trials of the first of two blocks."""
    return changed(document, *FIRST)


def test_ids_of_studies_without_it_are_those_from_before_it_was_there() -> None:
    given = evaluation_identity(EvaluationSettings(heldout=["books"], heldout_windows=2))
    assert "first_blocks" not in given["settings"]
    assert plan.identity(given["settings"]) == "b1fdd90388016935"


def test_it_is_part_of_the_identity_where_it_is_used(part: dict[str, Any]) -> None:
    whole = plan.expand(parse_study(changed(part, "evaluation.first_blocks=null")))
    first = plan.expand(parse_study(part))
    assert not {trial.id for trial in whole} & {trial.id for trial in first}
    assert [trial.calibration_id for trial in whole] == [trial.calibration_id for trial in first]
    assert plan.pending(whole, [trial.id for trial in first], [], retry_failed=False) == whole


def test_errors_are_those_of_plain_forwards_of_a_whole_compression(part: dict[str, Any], tmp_path: Path) -> None:
    trials = plan.expand(parse_study(part))
    trial = next(trial for trial in trials if trial.method_name == "gptq")
    assert trial.spec is not None and trial.method is not None
    held = load_dense(trial.model, "cpu")
    data = make_requests(trial, str(tmp_path))
    judge = make_judge(data, held.model, held.tokenizer, "cpu")
    assert isinstance(judge, BlockEvaluator)
    (calibration,) = build_sets([trial.spec], held.tokenizer, trial.model.tokenizer_id)
    rows = run_trial(trial, held, judge, calibration, Clock()).rows()

    held.restore()
    windows = torch.as_tensor(data.heldout[0].tokens.astype(np.int64))
    dense = _leaving_the_first(held.model, windows)
    compress_model(held.model, trial.method, calibration.tokens.copy())
    apart = (_leaving_the_first(held.model, windows) - dense).square().sum(-1)  # [windows, length]
    by_token = (apart / dense.square().sum(-1)).mean(1)
    found = {row["metric"]: row for row in rows.metrics}
    assert found["block_error"]["value"] == pytest.approx(float(by_token.mean()), rel=1e-4) and by_token.min() > 0
    assert found["block_error"]["stderr"] == pytest.approx(float(by_token.std()) / 2**0.5, rel=1e-4)
    assert found["block_error_total"]["value"] == pytest.approx(float(apart.sum() / dense.square().sum()), rel=1e-4)
    assert {row["n"] for row in rows.metrics} == {2} and {row["task"] for row in rows.metrics} == {"heldout"}
    assert {row["block"] for row in rows.layers} == {0}
    assert rows.trial["first_blocks"] == 1 and rows.trial["weights_hash"] is None
    assert rows.trial.get("average_bits") is None, "a part of the model has no bits of its own"

    free = run_trial(trials[0], held, judge, None, Clock()).rows()
    assert trials[0].method is None and [row["value"] for row in free.metrics] == [0.0, 0.0]


def test_a_streamed_model_gives_the_same(part: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for placement in ("whole", "streamed"):
        document = copy.deepcopy(part)
        document["models"] = [{"model": part["models"][0], "placement": placement}]
        trial = next(trial for trial in plan.expand(parse_study(document)) if trial.method_name == "gptq")
        assert trial.spec is not None
        held = StreamedModel(trial.model) if placement == "streamed" else DenseModel(trial.model)
        judge = make_judge(make_requests(trial, str(tmp_path)), held.model, held.tokenizer, "cpu")
        (calibration,) = build_sets([trial.spec], held.tokenizer, trial.model.tokenizer_id)
        found.append(run_trial(trial, held, judge, calibration, Clock()).rows())
    assert found[0].metrics == found[1].metrics and found[1].trial["placement"] == "streamed"


def _leaving_the_first(model: Any, windows: torch.Tensor) -> torch.Tensor:
    """What leaves block 0 in a forward of the whole model, float64."""
    found: list[torch.Tensor] = []
    hook = decoder_blocks(model)[0].register_forward_hook(lambda module, given, output: found.append(output))
    with torch.no_grad():
        model(windows)
    hook.remove()
    return (found[0][0] if isinstance(found[0], tuple) else found[0]).double()


def test_nothing_takes_its_trials_for_whole_ones(
    part: dict[str, Any], write_study: Callable[[dict[str, Any]], str], launch: Callable[..., Result], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    done = launch(write_study(part), "--local", "--results", str(folder))
    assert done.exit_code == 0, done.output
    store = Results(str(folder))
    trials = store.read("trials")
    assert set(trials["status"]) == {"ok"} and set(trials["first_blocks"]) == {1} and trials.height == 6
    metrics = store.read("metrics")
    assert set(metrics["kind"]) == {"blocks"} and metrics.filter(metrics["value"] > 0).height == 2 * 5

    gptq = trials.filter(trials["method"] == "gptq")["trial_id"][0]
    with pytest.raises(SettingsError, match="compressed its first 1 blocks alone .* so there is no model to ship"):
        choose(store, Wanted(trial=gptq))
    with pytest.raises(ResultsError, match="its 6 trials compressed and looked at first blocks alone"):
        load(str(folder))
    whole = launch(write_study(changed(part, "evaluation.first_blocks=null")), "--local", "--results", str(folder))
    assert whole.exit_code == 2 and "another evaluation: first_blocks was 1 and is None" in whole.output
    again = launch(write_study(part), "--local", "--results", str(folder))
    assert again.exit_code == 0 and store.read("trials").equals(trials), "they are finished all the same"


def test_a_folder_that_holds_both_tells_of_whole_trials_alone(
    part: dict[str, Any], write_study: Callable[[dict[str, Any]], str], launch: Callable[..., Result], tmp_path: Path
) -> None:
    for folder, document in (("part", part), ("whole", changed(part, "evaluation.first_blocks=null"))):
        assert launch(write_study(document), "--local", "--results", str(tmp_path / folder)).exit_code == 0
    before = load(str(tmp_path / "whole"))
    for table in ("trials", "metrics", "layers"):
        for file in (tmp_path / "part" / table).iterdir():
            (tmp_path / "whole" / table / file.name).write_bytes(file.read_bytes())
    after = load(str(tmp_path / "whole"))
    assert after.values.equals(before.values) and after.trials.equals(before.trials)
    assert "6 trials compressed and looked at first blocks alone" in " ".join(note.text for note in after.limitations)


def test_it_is_refused_where_it_means_nothing(document: dict[str, Any], part: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="first_blocks: the first blocks answer no tasks"):
        parse_study(changed(document, "evaluation.first_blocks=1"))
    with pytest.raises(SettingsError, match="evaluation.first_blocks: 2, and tiny has 2 in all; choose fewer"):
        plan.check(parse_study(changed(part, "evaluation.first_blocks=2")))
    turned = copy.deepcopy(part)
    turned["methods"] = [[{"method": "rotation"}, {"method": "gptq", "bits": 4}]]
    with pytest.raises(SettingsError, match="evaluation.first_blocks: .* turns the hidden states"):
        plan.check(parse_study(turned))


def test_a_plan_expects_a_part_of_the_time(part: dict[str, Any]) -> None:
    first = plan.expand(parse_study(part))[-1]
    whole = plan.expand(parse_study(changed(part, "evaluation.first_blocks=null")))[-1]
    assert expected(first).compress == pytest.approx(expected(whole).compress / 2)
    assert expected(first).evaluate == pytest.approx(expected(whole).evaluate / 2)

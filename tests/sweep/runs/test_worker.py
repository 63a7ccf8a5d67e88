"""A worker as a plain class: what it writes, what it does when a trial fails, and which models it holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
import torch

from sweep import plan
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.results import Results
from sweep.runs import worker
from sweep.runs.local import LocalRunner
from sweep.runs.outcome import Outcome
from sweep.runs.provenance import provenance
from sweep.runs.schedule import Job
from sweep.runs.worker import Worker
from sweep.storage.status import running
from sweep.trial import failed_rows
from sweep.weights.dense import DenseModel


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    return plan.expand(parse_study(document))


def run(trials: list[Trial], root: str) -> list[Outcome]:
    return list(start(trials, root))


def start(trials: list[Trial], root: str) -> Iterator[Outcome]:
    runner = LocalRunner(root, provenance())
    runner.start()
    runner.prepare(plan.pools(trials), plan.request_sets(trials))
    yield from runner.run([Job(trial) for trial in trials])


def test_every_trial_writes_all_its_tables(trials: list[Trial], tmp_path: Any) -> None:
    outcomes = run(trials, str(tmp_path))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 6
    results = Results(tmp_path)
    rows = {row["trial_id"]: row for row in results.read("trials").iter_rows(named=True)}
    dense, rtn, gptq = (rows[trial.id] for trial in trials[:3])
    assert dense["method"] == "dense"
    assert dense["data_free"]
    assert dense["settings"] == "{}"
    assert rtn["bits"] == 3
    assert rtn["source"] is None
    assert rtn["average_bits"] >= 3
    assert gptq["source"] == "rivers"
    assert gptq["set"] == 0
    assert gptq["nsamples"] == 4
    assert gptq["seqlen"] == 32
    assert gptq["calibration_id"] in results.keys("calibration")
    assert len(gptq["calibration_hash"]) == 64
    assert json.loads(gptq["settings"])["group_size"] == 16
    for row in rows.values():
        assert row["seconds_total"] > 0
        assert row["peak_memory"] > 10**6
        assert row["dtype"] == "float32"
        assert json.loads(row["versions"])["torch"]
        assert row["device"]
        assert row["worker"]
        assert row["attempts"] == 1
    assert len({row["weights_hash"] for row in rows.values()}) == 6
    assert results.read("layers").get_column("trial_id").n_unique() == 5  # the dense model has no layers to report
    kinds = set(results.read("metrics").get_column("kind").to_list())
    assert kinds == {"task", "group", "answers", "perplexity", "divergence"}
    assert results.read("samples").get_column("trial_id").n_unique() == 6


def test_failed_trial_is_a_row_and_the_next_one_gets_the_dense_model(
    trials: list[Trial], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from methods import blockwise

    whole = blockwise.compress_model

    def breaks(model: Any, method: Any, tokens: Any) -> Any:
        if method.name == "rtn":
            model.model.layers[0].mlp.up_proj.weight.data.zero_()
            raise blockwise.CompressionError("block 1, mlp.up_proj: not positive definite")
        return whole(model, method, tokens)

    run(trials, str(tmp_path / "good"))
    expected = [describe_numbers(Results(tmp_path / "good"), trial) for trial in trials]
    monkeypatch.setattr("sweep.trial.compress_model", breaks)
    outcomes = run(trials, str(tmp_path / "bad"))
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    results = Results(tmp_path / "bad")
    row = {row["trial_id"]: row for row in results.read("trials").iter_rows(named=True)}[trials[1].id]
    assert row["status"] == "failed"
    assert row["phase"] == "compress"
    assert row["error"] == "CompressionError: block 1, mlp.up_proj: not positive definite"
    assert row["method"] == "rtn"
    assert row["weights_hash"] is None
    assert row["seconds_compress"] >= 0
    assert trials[1].id not in results.read("metrics").get_column("trial_id").to_list()
    for number in (0, 2, 3, 4, 5):
        assert describe_numbers(results, trials[number]) == expected[number]


def describe_numbers(results: Results, trial: Trial) -> Any:
    """The numbers of a trial: hash of its weights, and its metrics."""
    rows = [row for row in results.read("trials").iter_rows(named=True) if row["trial_id"] == trial.id]
    metrics = [row for row in results.read("metrics").iter_rows(named=True) if row["trial_id"] == trial.id]
    return rows[0]["weights_hash"], metrics


def test_trial_whose_tables_cannot_be_written_fails_and_leaves_no_numbers(trials: list[Trial], tmp_path: Any) -> None:
    taken = tmp_path / "samples" / f"{trials[1].id}.parquet"
    taken.mkdir(parents=True)  # a file cannot take the place of a folder
    outcomes = run(trials[:3], str(tmp_path))
    taken.rmdir()
    assert [(outcome.status, outcome.phase) for outcome in outcomes] == [
        ("ok", None),
        ("failed", "write"),
        ("ok", None),
    ]
    assert "IsADirectoryError" in str(outcomes[1].error)
    results = Results(tmp_path)
    assert dict(results.read("trials").select("trial_id", "status").rows())[trials[1].id] == "failed"
    assert trials[1].id in results.keys("metrics")  # written before the failure
    assert trials[1].id not in results.read("metrics").get_column("trial_id").to_list()


@pytest.mark.parametrize(
    ("error", "loads"),
    [
        (ValueError("no such architecture"), 1),
        (RuntimeError("CUDA out of memory"), 3),  # another worker may share the GPU, and end
        (OSError("the hub cannot be reached"), 3),
    ],
)
@pytest.mark.parametrize("where", ["load", "dense evaluation"])
def test_model_that_cannot_be_held_fails_its_trials_alone_and_is_not_loaded_for_each(
    trials: list[Trial],
    document: dict[str, Any],
    other_model: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    loads: int,
    where: str,
) -> None:

    document["models"].append(str(other_model))
    others = [trial for trial in plan.expand(parse_study(document)) if trial.model.name == "other"][:1]
    load, evaluator, loaded = worker.load_dense, worker.make_judge, []

    def refuse(model: Any, *rest: Any) -> Any:
        if model.name == "tiny":
            loaded.append(model.name)
            if where == "load":
                raise error
        return load(model, *rest)

    def fail(data: Any, model: Any, *rest: Any) -> Any:
        if len(loaded) > 0 and where != "load" and len(outcomes) < len(trials):
            raise error
        return evaluator(data, model, *rest)

    monkeypatch.setattr(worker, "load_dense", refuse)
    monkeypatch.setattr(worker, "make_judge", fail)
    outcomes: list[Outcome] = []
    for outcome in start(trials + others, str(tmp_path)):
        outcomes.append(outcome)
    assert [(outcome.status, outcome.phase) for outcome in outcomes] == [("failed", "load")] * 6 + [("ok", None)]
    assert len(loaded) == loads
    assert {str(outcome.error).partition(" (")[0] for outcome in outcomes[:6]} == {f"{type(error).__name__}: {error}"}
    rows = Results(tmp_path).read("trials")
    assert sorted(rows["status"]) == ["failed"] * 6 + ["ok"]
    assert rows["error"].n_unique() == 2  # the first one's, whole, and none


def test_row_that_somebody_else_committed_is_respected(trials: list[Trial], tmp_path: Any) -> None:
    run(trials[:1], str(tmp_path))
    results = Results(tmp_path)
    before = [results.read(name) for name in ("trials", "metrics", "samples")]
    outcome = Worker(str(tmp_path), {}).run(trials[0], None, failed_rows)  # type: ignore[arg-type]
    assert (outcome.status, outcome.headline) == ("ok", "already there")
    assert all(
        table.equals(results.read(name)) for table, name in zip(before, ("trials", "metrics", "samples"), strict=True)
    )
    outcomes = run(trials[:2], str(tmp_path))
    assert [outcome.headline == "already there" for outcome in outcomes] == [True, False]
    assert before[0].row(0) in results.read("trials").rows()


@pytest.mark.parametrize("ahead", [True, False])
def test_model_that_is_loaded_ahead_is_loaded_once_and_gives_the_same_numbers(
    ahead: bool, trials: list[Trial], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(trials, str(tmp_path / "r"))
    expected = [describe_numbers(Results(tmp_path / "r"), trial) for trial in trials]
    loaded, load_dense, begin = list[str](), worker.load_dense, Worker.__init__
    nowhere = str(tmp_path / "nowhere")

    def counted(ref: Any, device: str) -> Any:
        loaded.append(ref.path)
        return load_dense(ref, device)

    def begin_and_load(self: Worker, *arguments: Any) -> None:
        begin(self, *arguments)
        model = trials[0].model
        self.warm(model if ahead else dataclasses.replace(model, path=nowhere))

    monkeypatch.setattr(worker, "load_dense", counted)
    monkeypatch.setattr(Worker, "__init__", begin_and_load)
    run(trials, str(tmp_path / "ahead"))
    assert [describe_numbers(Results(tmp_path / "ahead"), trial) for trial in trials] == expected
    assert loaded == ([] if ahead else [nowhere]) + [trials[0].model.path]


def test_a_worker_that_stays_keeps_the_model_and_an_evaluator_for_each_evaluation(
    trials: list[Trial], document: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = worker.load_dense
    monkeypatch.setattr(worker, "load_dense", lambda *given: loads.append("model") or load(*given))
    short = {**document, "study": "short", "evaluation": {**document["evaluation"], "limit": 2, "heldout_windows": 1}}
    others = plan.expand(parse_study(short))
    runner = LocalRunner(str(tmp_path / "long"), provenance())
    runner.stay = True
    runner.start()
    for root, chosen in (("long", trials[:2]), ("short", others[:3]), ("long", trials[2:3])):
        runner.write_to(str(tmp_path / root))
        runner.prepare(plan.pools(chosen), plan.request_sets(chosen))
        assert [outcome.status for outcome in runner.run([Job(trial) for trial in chosen])] == ["ok"] * len(chosen)
    runner.close()
    assert loads == ["model"]
    alone = tmp_path / "alone"
    run(trials[:3], str(alone))
    assert describe_numbers(Results(tmp_path / "long"), trials[2]) == describe_numbers(Results(alone), trials[2])
    counts = Results(tmp_path / "short").read("metrics").filter(pl.col("metric") == "perplexity")["n"]
    assert set(counts.to_list()) == {1}


def test_a_model_that_hangs_while_it_is_loaded_ahead_is_seen(
    trials: list[Trial], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str | None] = []
    here = Worker(str(tmp_path), provenance(), "cpu", {"load": 3600.0})
    assert here.watch is not None

    def load(*_: Any) -> None:
        assert here.watch is not None and here.watch.clock is not None
        found.append(here.watch.clock.hangs({"load": 0.0}))

    monkeypatch.setattr(worker, "load_dense", load)
    here.warm(trials[0].model)
    assert found[0] is not None and found[0].startswith("hangs: load")
    assert here.watch.clock is not None and here.watch.clock.hangs({"load": 0.0}) is None


def test_a_worker_says_what_it_did_before_its_first_trial_in_lines_that_are_no_trials(
    trials: list[Trial], tmp_path: Any
) -> None:
    here = Worker(str(tmp_path), provenance(), "cpu")
    here.warm(trials[0].model)
    (log,) = (tmp_path / "logs").glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line["beside"] for line in lines)
    assert [(line["event"], line.get("part")) for line in lines] == [
        ("begin", "device"),
        ("end", "device"),
        ("begin", "model"),
        ("loaded", None),
        ("end", "model"),
        ("begin", "first use"),
        ("end", "first use"),
    ]
    (parts,) = (line["seconds"] for line in lines if line["event"] == "loaded")
    assert {"reading", "moving to the device", "dense copy"} <= set(parts)
    assert list(running(Results(tmp_path))) == []


def test_what_goes_wrong_in_the_first_use_leaves_the_model_to_the_first_trial(
    trials: list[Trial], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []

    def fail(model: Any, max_length: int) -> None:
        used.append((model, max_length))
        raise torch.AcceleratorError("an illegal memory access was encountered")

    here = Worker(str(tmp_path), provenance(), "cpu")
    monkeypatch.setattr(worker, "load_dense", lambda ref, _: DenseModel(ref))
    monkeypatch.setattr(worker, "warm_up", fail)
    here.device = "cuda"
    here.warm(trials[0].model)
    assert here._warm is not None
    assert used == [(here._warm[1].model, 64)]

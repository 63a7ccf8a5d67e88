"""The launcher as people use it: exit codes, messages, reruns. Everything runs in this process, without Ray."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from benchmarks.findings import conversations
from methods.blockwise import CompressionError, compress_model
from sweep.config import study_names
from sweep.results import Results, TrialRows
from sweep.runs.local import LocalRunner
from sweep.trial import run_trial
from tests.sweep.checkpoints.gguf_files import write_package
from tests.sweep.conftest import launch_environment

BENCHMARK_STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"
Launch = Callable[..., Result]
Write = Callable[[dict[str, Any]], str]


def numbers(root: str | Path) -> list[Any]:
    """Everything in the results that must not depend on how the study was run."""
    results = Results(root)
    trials = results.read("trials").select("trial_id", "status", "weights_hash", "calibration_hash", "layer_error")
    tables = [results.read(name) for name in ("metrics", "samples", "calibration")]
    return [trials.rows(), *(table.rows() for table in tables)]


def test_study_runs_from_end_to_end_and_a_rerun_computes_nothing(
    launch: Launch, write_study: Write, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(document)
    result = launch(study, "--local")
    assert result.exit_code == 0, result.output
    assert "tiny: 6 trials, 0 already there, 6 to run -> results/tiny" in result.output
    assert "[6/6] tiny · " in result.output
    assert "] tiny · Wanda 50 % · stones set 0 · acc" in result.output
    assert "6 done, 0 failed, 0 skipped" in result.output
    assert "of it overhead" in result.output
    before = numbers("results/tiny")
    assert len(before[0]) == 6
    assert yaml.safe_load(Path("results/tiny/study.yaml").read_text())["study"] == "tiny"

    monkeypatch.setattr("sweep.launch.LocalRunner", None)  # a rerun does not even start one
    result = launch(study, "--local")
    assert result.exit_code == 0
    assert "6 already there, 0 to run" in result.output
    assert "0 done, 0 failed, 6 skipped" in result.output
    assert numbers("results/tiny") == before


def test_study_grows_by_its_new_trials_alone(launch: Launch, write_study: Write, document: dict[str, Any]) -> None:
    study = write_study(document)
    launch(study, "--local", "--set", "methods=[rtn]")
    result = launch(study, "--local", "--set", "methods=[rtn, {method: rtn, bits: 3}]")
    assert "3 trials, 2 already there, 1 to run" in result.output
    assert result.exit_code == 0


def test_order_of_trials_changes_no_number_and_the_seed_does(
    launch: Launch, write_study: Write, document: dict[str, Any]
) -> None:
    document["methods"] = document["methods"][1:2]
    launch(write_study(document), "--local", "--results", "one")
    turned = copy.deepcopy(document)
    turned["calibration"]["source"].reverse()
    launch(write_study(turned), "--local", "--results", "two")
    assert numbers("one") == numbers("two")
    launch(write_study(document), "--local", "--results", "three", "--set", "seed=1")
    first, other = (Results(root).read("trials").sort("method", "source") for root in ("one", "three"))
    assert first["weights_hash"][0] == other["weights_hash"][0]  # the dense model
    for column in ("weights_hash", "calibration_hash"):
        assert all(a != b for a, b in zip(first[column][1:], other[column][1:], strict=True))


def test_dry_run_shows_the_plan_and_writes_nothing(
    launch: Launch, write_study: Write, document: dict[str, Any]
) -> None:
    result = launch(write_study(document), "--dry-run")
    assert result.exit_code == 0
    assert "6 trials, 0 already there, 6 to run" in result.output
    assert "GPTQ 3-bit g16" in result.output
    assert "2 sets from 2 sources (rivers, stones)" in result.output
    assert "estimate" in result.output
    assert not Path("results").exists()


def test_numbers_of_a_plan_end_below_the_ends_of_their_titles(
    launch: Launch, write_study: Write, document: dict[str, Any]
) -> None:
    lines = launch(write_study(document), "--dry-run").output.splitlines()
    titles = next(index for index, line in enumerate(lines) if line.startswith("model"))
    end = lines[titles].rstrip().index("trials") + len("trials")
    rows = [line for line in lines[titles + 1 :] if line.startswith("tiny ")]
    assert rows
    assert all(row[:end].split()[-1].isdigit() and row[end - 1].isdigit() for row in rows)
    assert all(row.rstrip()[-1].isdigit() and len(row.rstrip()) == len(lines[titles].rstrip()) for row in rows)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "GPUs of a worker, where a GPU is an H100: 0.125 (tiny), 0.5 (half)\n"),
        (["--gpus-per-worker", "0.25"], "GPUs of a worker: 0.25 (tiny, half)\n"),
        (["--workers", "2"], "GPUs of a worker, where a GPU is an H100: 0.5 (tiny, half)\n"),
    ],
)
def test_dry_run_shows_the_gpus_of_a_worker(
    launch: Launch, write_study: Write, document: dict[str, Any], other_model: Path, flags: list[str], line: str
) -> None:
    document["models"].append({"model": str(other_model), "name": "half", "gpus_per_worker": 0.5})
    result = launch(write_study(document), "--dry-run", "--address", "auto", *flags)
    assert result.exit_code == 0, result.output
    assert line in result.output
    on_cpus = launch(write_study(document), "--dry-run", "--address", "auto", "--gpus-per-worker", "0")
    assert "GPUs of a worker" not in on_cpus.output


def test_workers_get_an_absolute_results_folder(
    launch: Launch, write_study: Write, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    class Runner(LocalRunner):
        def __init__(self, results: str, *arguments: Any) -> None:
            given.append(results)
            super().__init__(results, *arguments)

    monkeypatch.setattr("sweep.launch.LocalRunner", Runner)
    document["methods"] = ["rtn"]
    result = launch(write_study(document), "--local", "--results", "here/r")
    assert result.exit_code == 0, result.output
    assert "-> here/r" in result.output
    assert given == [str(tmp_path / "here/r")]


def test_failed_trials_are_retried_only_when_asked(
    launch: Launch, write_study: Write, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    document["methods"] = ["rtn"]
    study = write_study(document)

    def breaks(*_: Any) -> Any:
        raise CompressionError("block 0, q_proj: no")

    monkeypatch.setattr("sweep.trial.compress_model", breaks)
    result = launch(study, "--local")
    assert result.exit_code == 1
    assert "RTN 4-bit · FAILED in compress: CompressionError: block 0, q_proj: no" in result.output
    assert "1 done, 1 failed, 0 skipped" in result.output
    monkeypatch.setattr("sweep.trial.compress_model", compress_model)
    result = launch(study, "--local")
    assert result.exit_code == 1  # it is still missing
    assert "0 to run" in result.output
    assert "--retry-failed" in result.output
    result = launch(study, "--local", "--retry-failed")
    assert result.exit_code == 0
    rows = {row["method"]: row for row in Results("results/tiny").read("trials").iter_rows(named=True)}
    assert rows["rtn"]["status"] == "ok"
    assert rows["rtn"]["attempts"] == 2
    assert rows["rtn"]["error"] is None


def test_interrupted_run_says_what_is_kept_and_goes_on(
    launch: Launch, write_study: Write, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(document)
    whole, runs = run_trial, []

    def interrupt_third(*arguments: Any) -> Any:
        runs.append(1)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr("sweep.runs.worker.run_trial", interrupt_third)
    result = launch(study, "--local")
    assert result.exit_code == 130
    assert "interrupted: 2 of 6 trials are kept in results/tiny; the same command goes on" in result.output
    result = launch(study, "--local")
    assert result.exit_code == 0
    assert "6 trials, 2 already there, 4 to run" in result.output


# bad input: one message, exit code 2, nothing started


def refused(launch: Launch, *arguments: str) -> str:
    """The message of a refused run; asserts that nothing was started or written."""
    result = launch(*arguments, "--local")
    assert result.exit_code == 2, result.output
    assert not Path("results/tiny/trials").exists()
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line]
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    return result.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("calibration.set=2", "calibration.set: unknown key 'set', did you mean 'sets'?"),
        ("methods[1].method=gtpq", "methods[1].method: unknown method 'gtpq', did you mean 'gptq'?"),
        ("calibration.source[0]=boks", "calibration.source[0]: unknown source 'boks', did you mean 'books'?"),
        ("evaluation.tasks=[tinny]", "evaluation.tasks[0]: unknown task 'tinny', did you mean 'tiny'?"),
        ("models[0]=refrence-2m", "models[0]: unknown model 'refrence-2m'"),
        ("calibration.sets=0", "calibration.sets: expected at least 1, got 0"),
        ("methods[1].bits=9", "methods[1].bits: expected 2 to 8, got 9"),
        ("calibration.seqlen=65", "calibration.seqlen: 65 is longer than the context of tiny (64 tokens)"),
        ("calibration.sets=10000", "ask for fewer sets"),
        ("methods[1].group_size=24", "methods: GPTQ 3-bit g24: group_size: 24 does not divide the"),
        (
            "methods[1]=[{method: svd, ratio: 0.5}, {method: rtn, group_size: 16}]",
            "methods: RTN 4-bit g16: group_size: 16 does not divide the 10 inputs of mlp.down_proj.1 of tiny (a factor",
        ),
        ("calibration.source[0].path=nowhere.jsonl", "nowhere.jsonl"),
        ("evaluation.task_path=nowhere", "/nowhere'; give the folder with the task YAML"),
    ],
)
def test_bad_study_is_refused_before_anything_starts(
    launch: Launch, write_study: Write, document: dict[str, Any], override: str, message: str
) -> None:
    assert message in refused(launch, write_study(document), "--set", override)


def test_too_few_documents_for_the_sets_are_found_before_a_trial_runs(
    launch: Launch, write_study: Write, document: dict[str, Any], tmp_path: Path
) -> None:
    # bytes enough for every set, so only tokenizing tells: a set of whole long documents needs four of them
    document["calibration"].update(sampling="long_documents", seqlen=64, nsamples=8, sets=6)
    message = refused(launch, write_study(document))
    assert "source 'rivers': 40 windows of 64 tokens" in message
    assert "sets 0 to 5 of 8 windows need 48, which is enough for 5 sets" in message


def test_empty_text_file_is_refused(
    launch: Launch, write_study: Write, document: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    message = refused(launch, write_study(document), "--set", "calibration.source[0].path=empty.jsonl")
    assert "empty.jsonl" in message
    assert "empty" in message


def test_missing_and_empty_study_files_are_refused(launch: Launch, tmp_path: Path) -> None:
    assert "study file 'nowhere.yaml' does not exist" in refused(launch, "nowhere.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert "the file is empty" in refused(launch, "empty.yaml")
    assert "unknown study 'refrence', did you mean 'reference'?" in refused(launch, "refrence")


@pytest.mark.parametrize("gpus", ["1.5", "2.25"])
def test_share_of_gpus_that_no_worker_can_have_is_refused(
    launch: Launch, write_study: Write, document: dict[str, Any], gpus: str
) -> None:
    message = refused(launch, write_study(document), "--gpus-per-worker", gpus)
    assert f"--gpus-per-worker {gpus}: a worker has a share of one GPU (such as 0.5) or whole ones" in message


def test_results_of_another_study_are_refused(launch: Launch, write_study: Write, document: dict[str, Any]) -> None:
    Results("other").write_text("study.yaml", "study: another\n")
    message = refused(launch, write_study(document), "--results", "other")
    assert "--results other: holds results of the study 'another', not of 'tiny'; choose another folder" in message
    assert Path("other/study.yaml").read_text() == "study: another\n"


def test_results_under_a_file_are_refused(launch: Launch, write_study: Write, document: dict[str, Any]) -> None:
    Path("taken").write_text("a file")
    assert "--results taken: cannot be used" in refused(launch, write_study(document), "--results", "taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_results_without_permission_are_refused(launch: Launch, write_study: Write, document: dict[str, Any]) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "--results closed/r: cannot be used" in refused(launch, write_study(document), "--results", "closed/r")


def test_results_on_a_full_or_read_only_disk_are_refused(
    launch: Launch, write_study: Write, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Results, "write_text", refuse)
    message = refused(launch, write_study(document))
    assert "--results results/tiny: cannot be used" in message
    assert "Read-only file system" in message


def test_numbers_that_cannot_stand_beside_each_other_are_refused(
    launch: Launch, write_study: Write, document: dict[str, Any]
) -> None:
    document["methods"] = ["rtn"]
    study = write_study(document)
    assert launch(study, "--local").exit_code == 0
    result = launch(study, "--local", "--set", "evaluation.limit=3")
    assert result.exit_code == 2
    assert "2 trials there have another evaluation: limit was 6 and is 3; give it as it was" in result.stderr
    assert len(Results("results/tiny").keys("trials")) == 2


@pytest.mark.parametrize("other", [0, 1])
def test_mixed_dtypes_are_refused(launch: Launch, write_study: Write, document: dict[str, Any], other: int) -> None:
    document["methods"] = ["rtn"]
    study = write_study(document)
    assert launch(study, "--local").exit_code == 0
    store = Results("results/tiny")
    row = store.read("trials").sort("method").row(other, named=True)
    store.write_trial(TrialRows({**row, "dtype": "bfloat16"}))
    result = launch(study, "--local", "--set", "methods=[rtn, {method: rtn, bits: 3}]")
    assert result.exit_code == 2
    assert "tiny would run in float32 on this machine (cpu), but the results there are in bfloat16" in result.stderr


def test_text_that_changed_since_its_set_was_built_is_refused(
    launch: Launch, write_study: Write, document: dict[str, Any]
) -> None:
    document["methods"] = document["methods"][1:2]
    study = write_study(document)
    assert launch(study, "--local").exit_code == 0
    store = Results("results/tiny")
    rows = store.read("calibration").to_dicts()
    key = rows[0]["calibration_id"]
    store.write_table("calibration", key, [{**row, "hash": "0" * 64} for row in rows if row["calibration_id"] == key])
    shutil.rmtree("results/tiny/trials")
    result = launch(study, "--local")
    assert result.exit_code == 2
    assert "was built from other text than the source gives now" in result.stderr


def test_local_runs_take_no_cluster_options(launch: Launch, write_study: Write, document: dict[str, Any]) -> None:
    assert "--local" in refused(launch, write_study(document), "--workers", "2")


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_plans_without_network(
    name: str, launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import socket

    if "smollm2" in name:  # whose model is an extra
        monkeypatch.syspath_prepend(write_package(tmp_path / "packages"))

    def offline(*_: Any) -> None:
        raise AssertionError("planning must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", offline)
    result = launch(name, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "to run" in result.output


@pytest.mark.parametrize("file", sorted(BENCHMARK_STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_of_the_benchmarks_plans(
    file: Path, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    conversations.main(tmp_path / "conversations")  # as two of them say
    if "smollm2" in file.stem:  # whose model is an extra
        monkeypatch.syspath_prepend(write_package(tmp_path / "packages"))
    result = launch(str(file), "--dry-run")
    assert result.exit_code == 0, result.output


def test_help_says_what_exit_codes_mean(launch: Launch) -> None:
    words = " ".join(launch("--help").output.split())
    assert "0 all trials are there, 1 some failed or the cluster is gone, 2 the study, the flags" in words
    assert "130 interrupted" in words


def test_store_that_fails_before_the_first_trial_ends_in_one_line(
    launch: Launch, write_study: Write, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "results/tiny/calibration/1f.parquet")

    monkeypatch.setattr(Results, "write_table", full)
    result = launch(write_study(document), "--local")
    assert result.exit_code == 2
    assert "error: nothing was started: [Errno 28] No space left on device: 'results/tiny/calibration" in result.stderr
    assert not Path("results/tiny/lease.json").exists()


def test_published_grid_has_its_1800_trials(launch: Launch) -> None:
    result = launch("paper_a", "--dry-run")
    assert "1809 trials" in result.output  # and the nine dense models
    assert "50 sets from 5 sources" in result.output or "50 sets" in result.output


def test_default_study_has_at_least_150_trials() -> None:
    from sweep import plan
    from sweep.config import load_study

    trials = plan.expand(load_study("reference"))
    assert len(trials) >= 150
    assert len({trial.spec.source.label for trial in trials if trial.spec}) == 8


def test_reader_that_has_seen_enough_is_no_error(write_study: Write, document: dict[str, Any], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)  # as `| head` after its last line
    command = [sys.executable, "-m", "sweep.launch", write_study(document), "--dry-run"]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, env=launch_environment(), cwd=tmp_path, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")

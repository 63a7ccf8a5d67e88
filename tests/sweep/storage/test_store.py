"""Writers that are killed or meet a full disk in the middle of a file, in processes of their own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.results import Results
from sweep.runs.repair import read_trials
from sweep.storage.store import inside

WRITE = """
import os, resource, signal, sys
from sweep.results import Results, TrialRows

fault, value, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
replace, count = os.replace, 0

def replace_or_die(*names):
    global count
    count += 1
    if count == value:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)

samples = [{"task": "t", "doc_id": n, "score": n * 0.7310585786300049 % 1} for n in range(4000)]
rows = TrialRows({"trial_id": "1f", "status": "ok", "study": "tiny"}, [], samples, [])
if fault == "rename":
    os.replace = replace_or_die
elif fault == "bytes":
    resource.setrlimit(resource.RLIMIT_FSIZE, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
elif fault == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (value, value))
Results(root).write_trial(rows)
"""

FULL_DISK = """
import resource, sys
from sweep.launch import app

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
app(sys.argv[1:])
"""

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("fault", "value", "there"),
    [
        ("rename", 1, []),  # between the temporary file and its rename: of the metrics, the samples, ..., the row
        ("rename", 2, ["metrics"]),
        ("rename", 3, ["metrics", "samples"]),
        ("rename", 4, ["metrics", "samples", "layers"]),
        ("bytes", 3000, ["metrics"]),  # in the middle of the samples
    ],
)
def test_writer_that_is_killed_leaves_no_half_of_a_file(
    run_python: Run, tmp_path: Path, fault: str, value: int, there: list[str]
) -> None:
    killed = run_python("-c", WRITE, fault, str(value), "r")
    assert killed.returncode == -(signal.SIGXFSZ if fault == "bytes" else signal.SIGKILL), killed.stderr
    results = Results(tmp_path / "r")
    assert [name for name in ("metrics", "samples", "layers", "trials") if results.files(name)] == there
    assert results.status("1f") is None
    assert results.read("samples").is_empty()
    assert read_trials(results, {"1f"})[1] == []
    assert len(list((tmp_path / "r").rglob(".*.tmp"))) == 1
    assert run_python("-c", WRITE, "none", "0", "r").returncode == 0
    assert results.remove_leftovers(age=-1.0) == 1
    assert Results(tmp_path / "r").read("samples").height == 4000
    assert not list((tmp_path / "r").rglob(".*.tmp"))


def test_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(run_python: Run, tmp_path: Path) -> None:
    full = run_python("-c", WRITE, "full", "3000", "r")
    assert full.returncode == 1
    assert "File too large" in full.stderr
    assert "r/samples/1f.parquet" in full.stderr
    assert not list((tmp_path / "r").rglob(".*.tmp"))
    assert not Results(tmp_path / "r").files("samples")


def test_launch_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    run_python: Run, write_study: Callable[[Any], str], document: dict[str, Any], tmp_path: Path
) -> None:
    document["methods"] = ["rtn"]
    document["evaluation"] |= {"heldout": []}
    arguments = (write_study(document), "--local", "--gpus-per-worker", "0", "--results", "r")
    full = run_python("-c", FULL_DISK, "5000", *arguments)  # bytes: a row of `trials/` has more, other files less
    assert full.returncode == 1, full.stdout + full.stderr
    assert "0 done, 2 failed" in full.stdout
    assert "File too large" in full.stdout
    assert "nor could this row be written" in full.stdout
    assert not Results(tmp_path / "r").files("trials")
    again = run_python("-m", "sweep.launch", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 done, 0 failed" in again.stdout
    assert not list((tmp_path / "r").rglob(".*.tmp"))


@pytest.mark.parametrize(
    ("root", "found"),
    [
        ("results/a", "results/a/screening"),
        ("what?/a/", "what?/a/screening"),
        ("s3://bucket/a/", "s3://bucket/a/screening"),
        ("s3://bucket/a?scheme=http&region=eu-west-1", "s3://bucket/a/screening?scheme=http&region=eu-west-1"),
    ],
)
def test_a_folder_inside_keeps_the_options_of_a_uri_at_its_end(root: str, found: str) -> None:
    assert inside(root, "screening") == found

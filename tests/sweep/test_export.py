"""A trial becomes a folder that computes, in a process and a harness of its own, what its row says.

And the command gives a calibration set the id that a sweep gives it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from click.testing import Result

from calib.export import read_set
from sweep import plan
from sweep.config import parse_study
from sweep.evaluation.questions.heldout import build_windows
from sweep.evaluation.tasks.names import REFERENCE_TASKS
from sweep.export import main
from sweep.models import load_tokenizer
from sweep.results import Results

STUDY: dict[str, Any] = {
    "study": "one",
    "models": ["reference-2m"],
    "methods": [{"method": "wanda", "sparsity": 0.5}],
    "calibration": {"source": "dialogue_qa", "sets": [1], "nsamples": 2, "seqlen": 32},
    "evaluation": {"heldout": ["books"], "heldout_windows": 1, "heldout_seqlen": 32},
}


def export(tokenizer: str, out: Path, *more: str) -> int:
    return main(
        [
            *("--source", "dialogue_qa", "--tokenizer", tokenizer, "--out", str(out)),
            *("--nsamples", "2", "--seqlen", "32", "--set", "1", *more),
        ]
    )


def test_a_shipped_model_and_its_folder_give_the_id_of_a_sweep(tmp_path: Path) -> None:
    (trial,) = (trial for trial in plan.expand(parse_study(STUDY)) if trial.spec)
    for tokenizer in ("reference-2m", trial.model.path):
        assert export(tokenizer, tmp_path / "set.parquet") == 0
        built = read_set(tmp_path / "set.parquet")
        assert (built.id, built.tokenizer_id) == (trial.calibration_id, trial.model.tokenizer_id)


def test_separator_and_bos_are_those_of_the_study(tmp_path: Path) -> None:
    grid = {**STUDY["calibration"], "separator": "none", "add_bos": True}
    (trial,) = (trial for trial in plan.expand(parse_study({**STUDY, "calibration": grid})) if trial.spec)
    assert export("reference-2m", tmp_path / "set.json", "--separator", "none", "--add-bos") == 0
    assert read_set(tmp_path / "set.json").id == trial.calibration_id


def test_a_misspelt_model_gets_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("reference-2n", tmp_path / "set.parquet") == 2
    message = "--tokenizer: there is no tokenizer 'reference-2n', did you mean 'reference-2m'? (give"
    assert message in capsys.readouterr().err


def test_a_recommendation_without_its_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--best", "--results", "r", "--out", "o"], ["--results", "r", "--out", "o", "--best"]):
        assert main(given) == 2
        assert capsys.readouterr().err.startswith("error: --best: give the file that python -m analysis.pick wrote, or")


SHIPPED: dict[str, Any] = {
    "study": "shipped",
    "models": [{"model": "reference-2m", "dtype": "float32"}],
    "methods": [
        {"method": "gptq", "bits": 4, "group_size": 32, "sym": True, "scale_dtype": "float16"},
        {"method": "svd", "ratio": 0.9},
        {"method": "spqr"},
    ],
    "calibration": {"source": "dialogue_qa", "sets": 1, "nsamples": 4, "seqlen": 64},
    "evaluation": {
        "tasks": ["reference_piqa"],
        "limit": 24,
        "heldout": ["books"],
        "heldout_windows": 4,
        "heldout_seqlen": 64,
    },
}
FRESH = """
import json, sys
import numpy, torch, transformers

torch.set_num_threads(1)
folder, kind, windows = sys.argv[1:]
if kind in ("factored", "spqr"):
    from sweep.formats.loading import load
else:
    load = lambda place: transformers.AutoModelForCausalLM.from_pretrained(place, dtype="auto").eval()
tokens = torch.from_numpy(numpy.load(windows)).long()
with torch.no_grad():
    logits = load(folder)(tokens, use_cache=False).logits.float()
losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
print(json.dumps(float(losses.exp())))
"""


@pytest.fixture
def shipped(tmp_path: Path, launch: Callable[..., Result]) -> Path:
    """The results folder of a finished study of a bundled model."""
    study = tmp_path / "shipped.yaml"
    study.write_text(yaml.safe_dump(SHIPPED))
    result = launch(str(study), "--local", "--results", str(tmp_path / "results"))
    assert result.exit_code == 0, result.output
    return tmp_path / "results"


def heldout_windows() -> np.ndarray:
    """The tokens of the study's held-out windows [windows, length]."""
    trial = next(trial for trial in plan.expand(parse_study(SHIPPED)) if trial.spec)
    (text,) = build_windows(trial.evaluation, load_tokenizer(trial.model), 512)
    return text.tokens


@pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves
def test_a_fresh_process_and_lm_eval_find_the_numbers_of_the_row(
    shipped: Path, tmp_path: Path, run_python: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("compressed_tensors")
    store = Results(shipped)
    np.save(tmp_path / "windows.npy", heldout_windows())
    for method, kind in (("gptq", "compressed-tensors"), ("svd", "factored"), ("spqr", "spqr")):
        out = tmp_path / method
        assert main(["--results", str(shipped), "--method", method, "--out", str(out)]) == 0
        assert f"{out}: {kind}, " in capsys.readouterr().out
        trial = store.read("trials").filter(pl.col("method") == method)["trial_id"].item()
        metrics = store.read("metrics").filter(pl.col("trial_id") == trial)
        perplexity = metrics.filter(pl.col("metric") == "perplexity")["value"].item()
        fresh = run_python("-c", FRESH, str(out), kind, str(tmp_path / "windows.npy"))
        assert json.loads(fresh.stdout.splitlines()[-1]) == pytest.approx(perplexity, rel=1e-5), fresh.stderr
        if kind == "compressed-tensors":
            of_task = metrics.filter(pl.col("task") == "reference_piqa")
            expected = dict(of_task.select("metric", "value").iter_rows())
            assert harness(out) == {name: pytest.approx(expected[name]) for name in ("acc", "acc_norm")}


def harness(folder: Path) -> dict[str, float]:
    """What lm-eval's own command for transformers models says of the folder, metric by metric."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        device="cpu",
        tasks=["reference_piqa"],
        task_manager=TaskManager(include_path=str(REFERENCE_TASKS), include_defaults=False),
        limit=24,
        bootstrap_iters=0,
    )["results"]["reference_piqa"]
    return {name: found[f"{name},none"] for name in ("acc", "acc_norm")}


def test_data_of_one_trial_may_stay_behind_and_the_format_may_be_chosen(shipped: Path, tmp_path: Path) -> None:
    chosen = ["--results", str(shipped), "--method", "gptq"]
    assert main([*chosen, "--out", str(tmp_path / "dense"), "--format", "dense", "--no-data"]) == 0
    assert not (tmp_path / "dense" / "calibration.parquet").exists()
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    assert "Licence" in (tmp_path / "dense" / "README.md").read_text()

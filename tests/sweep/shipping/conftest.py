"""A finished study of a tiny model in bfloat16, run once: dense, four methods, two texts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

GPTQ = "GPTQ 4-bit g16 sym"


def ship_study(model: Path, texts: Path, tasks: Path) -> dict[str, Any]:
    """The study whose trials are shipped here."""
    return {
        "study": "ship",
        "models": [{"model": str(model), "dtype": "bfloat16"}],
        "methods": [
            {"method": "gptq", "bits": 4, "group_size": 16, "sym": True, "scale_dtype": "bfloat16"},
            {"method": "rtn", "bits": 3, "group_size": 16},
            {"method": "sparsegpt", "pattern": "2:4"},
            {"method": "svd_llm", "ratio": 0.8},
        ],
        "calibration": {
            "source": [{"source": "file", "path": str(texts / f"{name}.jsonl")} for name in ("rivers", "stones")],
            "sets": 1,
            "nsamples": 4,
            "seqlen": 32,
        },
        "evaluation": {
            "tasks": ["tiny"],
            "task_path": str(tasks),
            "heldout": [{"source": "file", "path": str(texts / "heldout.jsonl")}],
            "heldout_windows": 2,
            "heldout_seqlen": 32,
        },
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_texts: Path, tiny_tasks: Path) -> Path:
    """The results folder of that study; not to be changed."""
    from sweep.launch import app

    folder = tmp_path_factory.mktemp("ship")
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump(ship_study(tiny_model, tiny_texts, tiny_tasks)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweep.storage.lease.SETTLE", (0.0, 0.0))  # nobody else launches
        done = CliRunner().invoke(app, [str(study), "--local", "--results", str(folder / "results")])
    assert done.exit_code == 0, done.output
    return folder / "results"


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of that results folder, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "results"))

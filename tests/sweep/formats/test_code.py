"""A folder of a model that runs code of its own has that code, and its loaders run it where they are told to."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from calib.settings import SettingsError
from methods.base import parse_method
from methods.blockwise import compress_model
from sweep.formats import loading
from sweep.formats.format import FormatError
from sweep.formats.grids import grids_by_linear
from sweep.formats.writer import check_apart, write_model
from sweep.models import resolve_model
from sweep.weights.streaming import load_dense
from tests.sweep.runs.test_model_check import CODE

TOKENS = torch.arange(3, 27).view(2, 12)
ENTRIES: dict[str, Any] = {
    "dense": {"method": "magnitude"},
    "compressed-tensors": {"method": "rtn", "bits": 4, "group_size": 16},
    "factored": {"method": "svd", "ratio": 0.7},
}


@pytest.fixture
def mine(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model with code of its own, in a file that imports another one."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    # another folder of such modules, left on the path by an earlier test, would hide this one
    others = [entry for entry in sys.path if not (Path(entry) / "transformers_modules").is_dir()]
    monkeypatch.setattr(sys, "path", others)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    folder = Path(shutil.copytree(tiny_model, tmp_path / "mine"))
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    changes = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "modeling_mine.py").write_text(f"from .helper import HALF\n{CODE.replace('0.5 *', 'HALF *')}")
    (folder / "helper.py").write_text("HALF = 0.5\n")
    return folder


@pytest.mark.parametrize("placement", ["whole", "streamed"])
@pytest.mark.parametrize("kind", ENTRIES)
def test_the_code_goes_along(kind: str, placement: str, mine: Path, tmp_path: Path) -> None:
    ref = resolve_model({"model": str(mine), "trust_remote_code": True, "placement": placement}, "models[0]")
    dense = load_dense(ref, "cpu")
    method = parse_method(ENTRIES[kind], "method")
    report = compress_model(dense.model, method, None)
    write_model(dense.model, dense.tokenizer, tmp_path / "out", kind, grids_by_linear(dense.model, method, report))
    assert (tmp_path / "out" / "helper.py").read_text() == "HALF = 0.5\n"
    shutil.rmtree(mine)
    loaded = loading.load(tmp_path / "out", trust_remote_code=True)
    assert type(loaded).__name__ == "MineForCausalLM"
    with torch.no_grad():
        assert torch.isfinite(loaded(TOKENS, use_cache=False).logits).all()
    if placement == "whole" and kind != "dense":
        with torch.no_grad():
            assert torch.equal(loaded(TOKENS, use_cache=False).logits, dense.model(TOKENS, use_cache=False).logits)


def test_code_that_is_gone_is_named_before_anything_is_written(mine: Path, tmp_path: Path) -> None:
    dense = load_dense(resolve_model({"model": str(mine), "trust_remote_code": True}, "models[0]"), "cpu")
    (mine / "modeling_mine.py").unlink()
    with pytest.raises(FormatError, match=r"runs code of its own, and modeling_mine\.py is not in .*mine"):
        write_model(dense.model, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "results")
    for inside in ("results", "results/out", "results/deep/out", "link/out"):
        with pytest.raises(SettingsError, match=r"--out .*: lies in .*results, which is read; give a folder elsewhere"):
            check_apart(tmp_path / inside, tmp_path / "results")
    check_apart(tmp_path / "results-4bit", tmp_path / "results", "s3://bucket/results", "org/model")

"""Every format gives the compressed weights of a trained model back to the bit, by the loader that comes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.base import parse_method
from methods.blockwise import compress_model
from sweep.formats.grids import grids_by_linear
from sweep.formats.loading import load
from sweep.formats.pattern import check_pattern
from sweep.formats.spqr import KeptGrids, spqr_rule
from sweep.formats.writer import write_model
from sweep.models import MODELS

FOUR = {"method": "gptq", "bits": 4, "group_size": 64, "scale_dtype": "bfloat16"}
CASES: dict[str, tuple[str, Any]] = {
    "act-order": ("compressed-tensors", FOUR),
    "2 bits": ("compressed-tensors", {**FOUR, "method": "rtn", "bits": 2}),
    "3 bits": ("compressed-tensors", {**FOUR, "bits": 3, "sym": True}),
    "8 bits, rows": ("compressed-tensors", {**FOUR, "bits": 8, "group_size": None}),
    "awq": ("awq", {"method": "awq", "group_size": 64, "scale_steps": 3, "scale_dtype": "bfloat16"}),
    "gptq": ("gptq", {**FOUR, "sym": True}),
    "gptq, zero points": ("gptq", FOUR),
    "2:4 and 4 bits": ("compressed-tensors", {**FOUR, "method": "sparsegpt", "pattern": "2:4"}),
    "g_idx": ("compressed-tensors", {**FOUR, "static_groups": False}),
    "g_idx, 3 bits": ("gptq", {**FOUR, "bits": 3, "sym": True, "fresh_group_stats": True}),
    "2:4": ("dense", {"method": "wanda", "pattern": "2:4"}),
    "spqr": ("spqr", {"method": "spqr", "scale_dtype": "bfloat16"}),
    "low rank": ("factored", {"method": "svd_llm", "ratio": 0.8}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_weights_of_a_trained_model_come_back(name: str, tmp_path: Path) -> None:
    import transformers

    kind, entry = CASES[name]
    method = parse_method(entry, "method")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / "reference-5m", dtype=torch.bfloat16).eval()
    tokens = np.random.default_rng(0).integers(3, 8192, size=(2, 64), dtype=np.int32)
    rule = spqr_rule(method)
    (tmp_path / "grids").mkdir()
    kept = None if rule is None else KeptGrids(tmp_path / "grids", rule)
    report = compress_model(model, method, None if method.data_free else tokens, witness=kept)
    written = write_model(model, None, tmp_path / "out", kind, grids_by_linear(model, method, report), kept=kept)
    loaded = load(tmp_path / "out")
    found, expected = loaded.state_dict(), model.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
    if written.bits_per_weight is not None:
        assert 0 <= written.bits_per_weight - report.average_bits < 0.25
    if pattern := method.nominal()["pattern"]:
        assert check_pattern(loaded, pattern, report) == 28

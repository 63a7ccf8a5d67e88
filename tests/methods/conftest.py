"""Problems on one matrix and tiny random models, shared by the tests of the methods."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@dataclass(frozen=True)
class Problem:
    """A weight [rows, cols] and correlated inputs [windows, length, cols]."""

    weight: torch.Tensor
    inputs: torch.Tensor

    def output_error(self, compressed: torch.Tensor) -> float:
        """‖(W−Ŵ)X‖² / ‖WX‖² in float64."""
        flat = self.inputs.reshape(-1, self.inputs.shape[-1]).double()
        error = flat @ (self.weight - compressed).double().T
        return float(error.square().sum() / (flat @ self.weight.double().T).square().sum())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    """Where the problems and models of a test live: with `-m gpu` every such test runs on a CUDA device as well."""
    return str(request.param)


@pytest.fixture
def make_problem(device: str) -> Callable[..., Problem]:
    def make(rows: int = 24, cols: int = 64, windows: int = 4, length: int = 40, seed: int = 0) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(rows, cols, generator=generator) * 0.1
        mixing = torch.randn(cols, cols, generator=generator) / cols**0.5 + torch.eye(cols)
        scales = torch.rand(cols, generator=generator) * 3 + 0.1
        inputs = torch.randn(windows, length, cols, generator=generator) @ mixing * scales
        return Problem(weight.to(device), inputs.to(device))

    return make


@pytest.fixture
def problem(make_problem: Callable[..., Problem]) -> Problem:
    return make_problem()


@dataclass(frozen=True)
class Golden:
    """One case of tests/golden: the call and the original's answer."""

    problem: Problem
    method: str
    settings: dict[str, Any]
    expected: torch.Tensor
    arrays: dict[str, np.ndarray]


@pytest.fixture
def load_golden(device: str) -> Callable[[str], Golden]:
    def load(name: str) -> Golden:
        with np.load(GOLDEN / f"{name}.npz") as file:
            arrays = dict(file)
        settings = ast.literal_eval(str(arrays["options"]))
        if "prune_n" in settings:  # theirs: pruned of m; ours: kept:m
            pruned, group = settings.pop("prune_n"), settings.pop("prune_m")
            settings["pattern"] = f"{group - pruned}:{group}"
        if settings.get("sym"):
            settings["sym_rule"] = "reference"
        if str(arrays["method"]) == "gptq":  # the original code's defaults
            settings = {"act_order": False, "static_groups": False, **settings}
        weight, inputs, expected = (
            torch.from_numpy(arrays[key]).to(device) for key in ("weight", "inputs", "expected")
        )
        return Golden(Problem(weight, inputs), str(arrays["method"]), settings, expected, arrays)

    return load


@pytest.fixture
def make_llama(device: str) -> Callable[..., Any]:
    """A tiny random LLaMA on the test's device; two of them with one seed are equal."""

    def make(seed: int = 0, **changes: Any) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = {
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        }
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**config, **changes})).eval().to(device)

    return make


@pytest.fixture
def without_waiting() -> Callable[[], AbstractContextManager[None]]:
    """Inside `with without_waiting():` any wait of the host for the CUDA device is an error."""

    @contextmanager
    def watch() -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that it may miss some
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return watch


@pytest.fixture
def tokens() -> np.ndarray:
    """Calibration tokens [6, 24] for a vocabulary of 96."""
    return np.random.default_rng(0).integers(0, 96, size=(6, 24), dtype=np.int32)

"""A first evaluation of nothing in particular leaves everything as it was."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.walk import fused
from sweep.evaluation import warmup
from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.warmup import warm_up
from sweep.evaluation.windows import WindowScorer
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from tests.sweep.evaluation.scorer.conftest import llama, save
from tests.sweep.weights.conftest import Save

__all__ = ["llama", "save"]  # fixtures


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "dynamic"])
def test_model_generators_and_what_is_believed_of_modules_stay_as_they_were(
    name: str, save: Save, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dense, tokens = DenseModel(resolve_model(str(save(name)), "models[0]")), torch.arange(12)[None]
    monkeypatch.setitem(fused.agreed, "known", True)
    believed, seen = dict(fused.agreed), list[str]()
    score = WindowScorer.score

    def watched(self: WindowScorer, model: Any) -> Any:
        fused.agreed["met"] = False
        logging.getLogger("sweep.evaluation.scorer.choice").warning("of made-up tokens")
        seen.append(f"{model.config.num_hidden_layers} blocks")
        return score(self, model)

    monkeypatch.setattr(WindowScorer, "score", watched)
    states = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()
    before, names = weights_hash(dense.model), list(dict(dense.model.named_modules()))
    with torch.no_grad():
        expected = dense.model(tokens).logits
        warm_up(dense.model, dense.max_length)
        assert torch.equal(dense.model(tokens).logits, expected)
    assert seen == [f"{2 if name == 'gemma2' else 1} blocks"]
    assert weights_hash(dense.model) == before
    assert list(dict(dense.model.named_modules())) == names
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1][0])
    assert np.random.get_state()[2] == states[1][1]
    assert random.getstate() == states[2]
    assert fused.agreed == believed
    assert not [record for record in caplog.records if record.name.startswith(("sweep", "methods"))]


def test_model_is_whole_again_after_a_failure(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = DenseModel(resolve_model(str(llama), "models[0]"))
    kept = dict(fused.agreed)

    def fail(*_: Any) -> None:
        fused.agreed["met"] = False
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(warmup, "choose_scorer", fail)
    with pytest.raises(RuntimeError, match="no kernel image"):
        warm_up(dense.model, dense.max_length)
    assert len(dense.model.model.layers) == dense.model.config.num_hidden_layers == 3
    assert fused.agreed == kept


@pytest.mark.gpu
def test_numbers_on_a_gpu_are_the_same_with_and_without_it(llama: Path) -> None:
    dense = DenseModel(resolve_model({"model": str(llama), "dtype": "bfloat16"}, "models[0]"), "cuda")
    rng = np.random.default_rng(1)
    asked = Requests.pack(
        [(rng.integers(257, size=n).tolist(), rng.integers(257, size=3).tolist()) for n in (9, 30)], 64
    )
    text = HeldOut("text", rng.integers(257, size=(5, 48), dtype=np.int32))

    def numbers() -> tuple[str, bytes, bytes]:
        budget, rule = TokenBudget(torch.device("cuda")), head_rule(dense.model)
        scorer = choose_scorer(dense.model, asked, budget, rule)
        windows = WindowScorer([text], dense.model, budget, rule, divergence=True)
        (found,) = windows.score(dense.model)
        return scorer.name, scorer.score(dense.model)[0].tobytes(), found.nll.tobytes()

    fused.agreed.clear()
    expected, believed = numbers(), dict(fused.agreed)
    fused.agreed.clear()
    warm_up(dense.model, dense.max_length)
    assert not fused.agreed
    assert numbers() == expected
    assert fused.agreed == believed

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.base import get_method
from methods.blockwise import decoder_blocks
from methods.walk.linears import linears_of
from sweep.describe.base import Described
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel


@pytest.fixture(scope="module")
def dense(tiny_model: Path) -> DenseModel:
    return DenseModel(resolve_model({"model": str(tiny_model)}, "models[0]"))


@pytest.fixture
def described(dense: DenseModel) -> Described:
    """A set of 8 windows, two targets, text of the model's own, and a method."""
    random = np.random.default_rng(0)

    def windows(count: int, low: int, high: int) -> np.ndarray:
        drawn = random.integers(low, high, size=(count, 16), dtype=np.int32)
        drawn.setflags(write=False)  # as the tokens of a set are
        return drawn

    return Described(
        dense.model,
        windows(8, 0, 60),
        {"near": windows(6, 0, 60), "far": windows(6, 50, 60)},
        own=windows(6, 20, 50),
        method=get_method("sparsegpt"),
        batch_size=4,
    )


def inputs_of_linears(model: Any, tokens: np.ndarray, block: int) -> dict[str, np.ndarray]:
    """What every linear of a block gets in a forward of the whole model, [tokens, cols], float64."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            found[name] = given[0].double().flatten(0, 1).numpy()

        return hook

    linears = linears_of(decoder_blocks(model)[block])
    hooks = [linear.module.register_forward_pre_hook(keep(linear.name)) for linear in linears]
    with torch.no_grad():
        model(torch.tensor(tokens, dtype=torch.long))
    for hook in hooks:
        hook.remove()
    return found


def plain(model: Any, tokens: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(log-probabilities [windows, length - 1, vocabulary], inputs of every block), of one forward, float64."""
    with torch.no_grad():
        found = model(torch.tensor(tokens, dtype=torch.long), output_hidden_states=True)
    log_probs = found.logits[:, :-1].double().log_softmax(-1).numpy()
    return log_probs, [each.double().numpy() for each in found.hidden_states]

"""One pass over the blocks gives what plain forwards give, whole or streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from sweep.features.look import look, spread_layers
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel


@pytest.fixture(scope="module")
def dense(tiny_model: Path) -> DenseModel:
    return DenseModel(resolve_model({"model": str(tiny_model)}, "models[0]"))


@pytest.fixture
def tokens(dense: DenseModel) -> np.ndarray:
    vocabulary = dense.model.config.vocab_size
    return np.random.default_rng(0).integers(0, vocabulary, size=(7, 12), dtype=np.int32)


def plain(model: Any, tokens: np.ndarray) -> Any:
    with torch.no_grad():
        return model(torch.as_tensor(tokens, dtype=torch.long), output_hidden_states=True)


def test_likelihoods_are_those_of_a_plain_forward(dense: DenseModel, tokens: np.ndarray) -> None:
    found = look(dense.model, tokens, likelihood=True, batch_size=3).likelihood
    assert found is not None
    logits = plain(dense.model, tokens).logits[:, :-1].double().numpy()
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chances = np.exp(log_probs)
    expected = np.take_along_axis(log_probs, tokens[:, 1:, None].astype(np.int64), axis=2)[..., 0]
    means = (chances * log_probs).sum(-1)
    spreads = np.sqrt((chances * (log_probs - means[..., None]) ** 2).sum(-1))
    np.testing.assert_allclose(found.log_probs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.means, means, rtol=1e-4)
    np.testing.assert_allclose(found.spreads, spreads, rtol=1e-3)
    np.testing.assert_allclose(found.perplexity, np.exp(-expected.mean(1)), rtol=1e-4)
    np.testing.assert_allclose(found.entropy, -means.mean(1), rtol=1e-4)


def test_block_inputs_are_those_of_a_plain_forward(dense: DenseModel, tokens: np.ndarray) -> None:
    layers = (0, 1)
    found = look(dense.model, tokens, layers=layers, batch_size=2).inputs
    assert found is not None
    assert found.layers == layers
    for place, layer in enumerate(layers):
        inputs = plain(dense.model, tokens).hidden_states[layer].double().numpy()
        np.testing.assert_allclose(found.means[:, place], inputs.mean(1), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.variances[:, place], inputs.var(1), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(found.sizes[:, place], np.abs(inputs).mean(1), rtol=1e-4)
        np.testing.assert_allclose(found.largest[:, place], np.abs(inputs).max(1), rtol=1e-4)


def test_only_what_is_asked_for_is_there(dense: DenseModel, tokens: np.ndarray) -> None:
    found = look(dense.model, tokens, likelihood=True)
    assert found.inputs is None
    assert found.loads is None


def test_a_streamed_model_says_the_same(tiny_model: Path, dense: DenseModel, tokens: np.ndarray) -> None:
    streamed = StreamedModel(resolve_model({"model": str(tiny_model)}, "models[0]"))
    one, other = (look(each.model, tokens, likelihood=True, layers=(1,), batch_size=7) for each in (dense, streamed))
    assert one.likelihood is not None and other.likelihood is not None
    assert one.inputs is not None and other.inputs is not None
    assert np.array_equal(one.likelihood.log_probs, other.likelihood.log_probs)
    assert np.array_equal(one.likelihood.spreads, other.likelihood.spreads)
    assert np.array_equal(one.inputs.largest, other.inputs.largest)


def test_batches_are_a_matter_of_speed(dense: DenseModel, tokens: np.ndarray) -> None:
    one, other = (look(dense.model, tokens, likelihood=True, layers=(1,), batch_size=size) for size in (1, 7))
    assert one.likelihood is not None and other.likelihood is not None
    np.testing.assert_allclose(one.likelihood.log_probs, other.likelihood.log_probs, rtol=1e-4, atol=1e-5)


@pytest.fixture
def mixture() -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=5,
    )
    return transformers.MixtralForCausalLM(config).eval()


def test_loads_of_experts_are_what_the_router_chose(mixture: Any) -> None:
    tokens = np.random.default_rng(0).integers(0, 64, size=(6, 10), dtype=np.int32)
    found = look(mixture, tokens, experts=True, batch_size=4).loads
    assert found is not None
    with torch.no_grad():
        routers = mixture(torch.as_tensor(tokens, dtype=torch.long), output_router_logits=True).router_logits
    assert found.shape == (6, 3, 5)
    for layer, logits in enumerate(routers):
        chosen = logits.topk(2, dim=-1).indices.reshape(6, -1)
        expected = np.stack([np.bincount(row, minlength=5) for row in chosen.numpy()])
        assert np.array_equal(found[:, layer], expected)


def test_a_model_without_experts_says_so(dense: DenseModel, tokens: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="LlamaForCausalLM has no fused experts"):
        look(dense.model, tokens, experts=True)


def test_what_cannot_be_looked_at_is_refused(dense: DenseModel, tokens: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="layers: expected 0 to 1, the model's blocks, got 9"):
        look(dense.model, tokens, layers=[9])
    with pytest.raises(SettingsError, match="at least 2 tokens, got 1"):
        look(dense.model, tokens[:, :1], likelihood=True)


@pytest.mark.parametrize(
    ("blocks", "expected"), [(1, (0,)), (2, (1,)), (4, (1, 2, 3)), (32, (1, 5, 10, 14, 18, 22, 27, 31))]
)
def test_layers_are_spread_from_the_second_to_the_last(blocks: int, expected: tuple[int, ...]) -> None:
    assert spread_layers(blocks) == expected

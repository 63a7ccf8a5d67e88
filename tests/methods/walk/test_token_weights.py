"""Weights of tokens on their way from a set to the statistics of a walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from calib.weights import length_weights
from methods.base import get_method
from methods.blockwise import compress_model, decoder_blocks
from methods.inputs.hessian import Hessian
from methods.inputs.norms import Magnitudes
from methods.inputs.statistic import Statistic
from methods.target_error import target_error
from methods.walk.batches import Data, capture
from methods.walk.collector import Collector
from methods.walk.linears import linears_of

ENTRIES = ["gptq", "sparsegpt", "wanda", "awq", "smoothquant", "svd_llm", "asvd"]


def weights_of(model: Any) -> list[torch.Tensor]:
    return [linear.weight.clone() for block in decoder_blocks(model) for linear in linears_of(block)]


def statistics(model: Any, kind: type[Statistic], data: Data, block: int = 1) -> list[Any]:
    """Of a dense model's block `block`."""
    blocks = decoder_blocks(model)
    with torch.no_grad():
        batches = capture(model, blocks, data)
        for index in range(block):
            for batch in range(len(batches)):
                batches.keep(batch, batches.run(blocks[index], index, batch))
        collector = Collector(linears_of(blocks[block]), kind)
        for batch in range(len(batches)):
            collector.run(blocks[block], block, batches, batch)
    return [shared.statistic for shared in collector.finished()]


@pytest.mark.parametrize("name", ENTRIES)
def test_weights_of_one_change_nothing_to_the_bit(
    make_llama: Callable[..., Any], tokens: np.ndarray, name: str
) -> None:
    models = [make_llama(), make_llama()]
    settings = {"group_size": 16} if name in ("gptq", "awq") else {}
    compress_model(models[0], get_method(name, **settings), tokens)
    compress_model(models[1], get_method(name, **settings), tokens, token_weights=np.ones(tokens.shape))
    assert all(torch.equal(a, b) for a, b in zip(*map(weights_of, models), strict=True))


@pytest.mark.parametrize("name", ENTRIES)
def test_weights_change_what_a_method_does(make_llama: Callable[..., Any], tokens: np.ndarray, name: str) -> None:
    models = [make_llama(), make_llama()]
    weights = np.zeros(tokens.shape)
    weights[:, :3] = np.linspace(0.1, 5, 3)
    settings = {"group_size": 16, "bits": 2} if name in ("gptq", "awq") else {}
    compress_model(models[0], get_method(name, **settings), tokens)
    report = compress_model(models[1], get_method(name, **settings), tokens, token_weights=weights)
    assert not all(torch.equal(a, b) for a, b in zip(*map(weights_of, models), strict=True))
    assert {layer.tokens for layer in report.layers} == {3 * len(tokens)}


def test_tokens_that_do_not_count_are_read_and_not_summed(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama()
    mask = np.random.default_rng(0).random(tokens.shape) < 0.4
    found = statistics(model, Hessian, Data(tokens, batch_size=4, token_weights=mask))
    inputs: list[torch.Tensor] = []
    hook = decoder_blocks(model)[1].self_attn.q_proj.register_forward_pre_hook(lambda m, given: inputs.append(given[0]))
    with torch.no_grad():
        model(torch.as_tensor(tokens, dtype=torch.long, device=model.device))
    hook.remove()
    rows = inputs[0][torch.as_tensor(mask, device=model.device)].double()
    torch.testing.assert_close(found[0].hessian.double(), 2 / len(tokens) * rows.T @ rows, rtol=1e-4, atol=1e-5)
    assert found[0].tokens == int(mask.sum())


def test_padding_does_not_count_whatever_its_weight(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama()
    mask = np.ones(tokens.shape, dtype=np.int64)
    mask[:, 18:] = 0
    weights = np.full(tokens.shape, 2.0)
    padded = statistics(model, Hessian, Data(tokens, mask, token_weights=weights))
    plain = statistics(model, Hessian, Data(tokens, mask))
    for one, other in zip(padded, plain, strict=True):
        torch.testing.assert_close(one.hessian, 2 * other.hessian, rtol=1e-4, atol=1e-5)


def test_length_weights_of_one_pass_are_windows_cut_to_each_length(
    make_llama: Callable[..., Any], tokens: np.ndarray
) -> None:
    model, scales = make_llama(), (6, 12, 24)
    weights = np.tile(length_weights(24, scales), (len(tokens), 1))
    one_pass = statistics(model, Hessian, Data(tokens, token_weights=weights))
    cut = [statistics(model, Hessian, Data(tokens[:, :scale])) for scale in scales]
    for number, found in enumerate(one_pass):
        expected = sum(each[number].hessian.double() / scale for each, scale in zip(cut, scales, strict=True))
        torch.testing.assert_close(found.hessian.double(), expected * 24 / 3, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["gptq", "sparsegpt", "wanda"])
def test_windows_twice_with_half_the_weight_are_windows_once(
    make_llama: Callable[..., Any], tokens: np.ndarray, name: str
) -> None:
    model = make_llama()
    twice = np.concatenate([tokens, tokens])
    halves = statistics(model, Hessian, Data(twice, token_weights=np.full(twice.shape, 0.5)))
    once = statistics(model, Hessian, Data(tokens))
    for one, other in zip(halves, once, strict=True):
        torch.testing.assert_close(2 * one.hessian, other.hessian, rtol=1e-4, atol=1e-5)
    models = [make_llama(), make_llama()]
    compress_model(models[0], get_method(name), tokens)
    compress_model(models[1], get_method(name), twice, token_weights=np.full(twice.shape, 0.5))
    same = [float((a - b).abs().lt(1e-4).float().mean()) for a, b in zip(*map(weights_of, models), strict=True)]
    assert min(same) > 0.97  # a rounding apart: a weight near the middle between two codes may take the other


@pytest.mark.parametrize("name", ["gptq", "sparsegpt", "wanda", "awq"])
def test_methods_of_sums_do_not_care_how_often_a_set_repeats_its_windows(
    make_llama: Callable[..., Any], tokens: np.ndarray, name: str
) -> None:
    models = [make_llama(), make_llama()]
    settings = {"group_size": 16} if name in ("gptq", "awq") else {}
    for model, times in zip(models, (1, 8), strict=True):
        compress_model(model, get_method(name, **settings), np.tile(tokens, (times, 1)))
    same = [float((a - b).abs().lt(1e-4).float().mean()) for a, b in zip(*map(weights_of, models), strict=True)]
    assert min(same) > 0.97  # as above


def test_batches_of_any_size_give_the_same_sums(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model, weights = make_llama(), np.random.default_rng(0).uniform(0, 2, tokens.shape)
    one, other = (statistics(model, Magnitudes, Data(tokens, batch_size=s, token_weights=weights)) for s in (1, 6))
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first.mean, second.mean, rtol=1e-4, atol=1e-6)


def test_target_error_takes_weights(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    weights = np.zeros(tokens.shape)
    weights[:, :6] = 1
    found = [
        target_error(make_llama(), get_method("sparsegpt"), tokens, {"t": tokens}, token_weights=each)["t"].total
        for each in (None, np.ones(tokens.shape), weights)
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones((2, 2)), r"token_weights: expected the shape of tokens \(6, 24\), got \(2, 2\)"),
        (np.full((6, 24), -1.0), "token_weights: expected finite numbers, at least zero"),
        (np.full((6, 24), np.nan), "token_weights: expected finite numbers, at least zero"),
        (np.zeros((6, 24)), "token_weights: no token counts"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    make_llama: Callable[..., Any], tokens: np.ndarray, weights: np.ndarray, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        compress_model(make_llama(), get_method("wanda"), tokens, token_weights=weights)


def test_gradients_and_fused_experts_refuse_weights(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    import transformers

    weights = np.full(tokens.shape, 0.5)
    with pytest.raises(SettingsError, match="token_weights: .* looks at gradients of the loss"):
        compress_model(make_llama(), get_method("fwsvd"), tokens, token_weights=weights)
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
    )
    mixture = transformers.MixtralForCausalLM(config).eval()
    with pytest.raises(SettingsError, match=r"token_weights: block 0 mlp\.experts\.gate_up_proj: fused experts"):
        compress_model(mixture, get_method("wanda"), tokens, token_weights=weights)
    compress_model(mixture, get_method("wanda", linears=["self_attn*"]), tokens, token_weights=weights)

"""The first blocks are those of a whole compression, the errors those of plain forwards, and the model stays dense."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.outcome import CompressionError
from methods.target_error import target_error

METHODS = [
    {"method": "gptq", "bits": 3, "group_size": 16},
    {"method": "gptq", "bits": 3, "group_size": 16, "propagate": False},
    {"method": "sparsegpt", "pattern": "2:4", "true_sequential": True},
    {"method": "awq", "bits": 3, "group_size": 16},
    {"method": "smoothquant"},
    {"method": "svd_llm", "ratio": 0.6},
    {"method": "rtn", "bits": 3, "group_size": 16},
    {"method": "fwsvd", "ratio": 0.6},
    {"method": "wanda", "allocation": "owl"},
    [{"method": "wanda", "pattern": "2:4"}, {"method": "gptq", "bits": 4, "group_size": 16}],
    [{"method": "awq", "bits": 4, "group_size": 16}, {"method": "wanda", "allocation": "owl"}],
]


def name_of(entry: Any) -> str:
    return "+".join(map(name_of, entry)) if isinstance(entry, list) else "-".join(map(str, entry.values()))


def block_weights(model: Any, count: int) -> list[dict[str, torch.Tensor]]:
    return [{name: value.clone() for name, value in b.state_dict().items()} for b in decoder_blocks(model)[:count]]


def outputs(model: Any, tokens: np.ndarray, block: int) -> torch.Tensor:
    """What block `block` gives in a forward of the whole model, float64."""
    found: list[torch.Tensor] = []
    hook = decoder_blocks(model)[block].register_forward_hook(
        lambda module, given, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model(torch.as_tensor(tokens, dtype=torch.long, device=model.device))
    hook.remove()
    return found[0].double()


def targets() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {"short": random.integers(0, 96, size=(5, 12)), "long": random.integers(0, 40, size=(3, 32))}


@pytest.mark.parametrize("entry", METHODS, ids=name_of)
def test_first_blocks_are_to_the_bit_those_of_a_whole_compression(
    make_llama: Callable[..., Any], tokens: np.ndarray, entry: Any
) -> None:
    whole, part = (make_llama(num_hidden_layers=4) for _ in range(2))
    method = parse_method(entry, "m")
    compress_model(whole, method, tokens)
    compress_model(part, method, tokens, first_blocks=2)
    for first, second in zip(block_weights(whole, 2), block_weights(part, 2), strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_only_the_first_blocks_are_compressed(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama(num_hidden_layers=4)
    before = block_weights(model, 4)
    done: list[tuple[int, int]] = []
    report = compress_model(model, get_method("gptq"), tokens, first_blocks=2, progress=lambda *pair: done.append(pair))
    assert {layer.block for layer in report.layers} == {0, 1}
    assert done[-1] == (4, 4)
    for dense, now in zip(before[2:], block_weights(model, 4)[2:], strict=True):
        assert all(torch.equal(value, now[name]) for name, value in dense.items())


@pytest.mark.parametrize("entry", METHODS, ids=name_of)
def test_errors_are_those_of_plain_forwards(make_llama: Callable[..., Any], tokens: np.ndarray, entry: Any) -> None:
    model = make_llama(num_hidden_layers=4)
    compressed = copy.deepcopy(model)
    method = parse_method(entry, "m")
    compress_model(compressed, method, tokens)
    found = target_error(model, method, tokens, targets(), blocks=3)
    for name, windows in targets().items():
        for block in range(3):
            dense, ours = outputs(model, windows, block), outputs(compressed, windows, block)
            apart, size = (ours - dense).square().sum(-1), dense.square().sum(-1)
            assert found[name].total[block] == pytest.approx(float(apart.sum() / size.sum()), rel=1e-4)
            assert found[name].by_token[block] == pytest.approx(float((apart / size).mean()), rel=1e-4)


@pytest.mark.parametrize("entry", METHODS, ids=name_of)
def test_model_is_given_back_as_it_was(make_llama: Callable[..., Any], tokens: np.ndarray, entry: Any) -> None:
    model = make_llama(num_hidden_layers=4)
    modules, parameters = list(model.modules()), list(model.parameters())
    before = copy.deepcopy(model.state_dict())
    target_error(model, parse_method(entry, "m"), tokens, targets())
    assert all(first is second for first, second in zip(modules, model.modules(), strict=True))
    assert all(first is second for first, second in zip(parameters, model.parameters(), strict=True))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_model_is_given_back_after_a_failure(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama()
    decoder_blocks(model)[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CompressionError, match="block 1"):
        target_error(model, get_method("svd_llm"), tokens, targets())
    now = model.state_dict()
    assert before.keys() == now.keys()
    assert all(torch.equal(value, now[name]) or bool(value.isnan().any()) for name, value in before.items())


def test_lossless_method_has_no_error(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    found = target_error(make_llama(), get_method("sparsegpt", sparsity=0.0), tokens, targets(), blocks=3)
    assert all(each.total == each.by_token == (0.0, 0.0, 0.0) for each in found.values())


def test_more_blocks_leave_the_earlier_errors(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model, method = make_llama(num_hidden_layers=4), get_method("wanda")
    few, many = (target_error(model, method, tokens, targets(), blocks=count) for count in (2, 4))
    for name, errors in few.items():
        assert errors.total == many[name].total[:2]
        assert errors.by_token == many[name].by_token[:2]
    assert all(error > 0 for each in many.values() for error in (*each.total, *each.by_token))


def test_batches_and_offloading_are_a_matter_of_speed(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model, method = make_llama(), get_method("wanda")
    one, other = (
        target_error(model, method, tokens, targets(), batch_size=size, offload=offload)
        for size, offload in ((1, True), (4, False))
    )
    for name, errors in one.items():
        assert errors.total == pytest.approx(other[name].total, rel=1e-2)


@pytest.mark.parametrize("name", ["awq", "gptq"])
def test_model_in_half_precision_is_measured_and_given_back(
    make_llama: Callable[..., Any], tokens: np.ndarray, name: str
) -> None:
    model = make_llama().bfloat16()  # on a GPU its norms and MLPs are kernels while it is walked through
    before = copy.deepcopy(model.state_dict())
    found = target_error(model, get_method(name, bits=3, group_size=16), tokens, targets())
    assert all(error > 0 for each in found.values() for error in each.by_token)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_its_own_text_has_the_smaller_error(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    random = np.random.default_rng(0)
    sets = {name: random.integers(low, low + 16, size=(16, 48)) for name, low in (("a", 0), ("b", 80))}
    new = {name: random.integers(low, low + 16, size=(8, 48)) for name, low in (("a", 0), ("b", 80))}
    found = {name: target_error(model, get_method("sparsegpt", sparsity=0.6), sets[name], new) for name in sets}
    assert found["a"]["a"].by_token[-1] < found["b"]["a"].by_token[-1]
    assert found["b"]["b"].by_token[-1] < found["a"]["b"].by_token[-1]


@pytest.mark.parametrize("blocks", [0, 4])
def test_number_of_blocks_that_cannot_be_is_refused(
    make_llama: Callable[..., Any], tokens: np.ndarray, blocks: int
) -> None:
    with pytest.raises(SettingsError, match=f"blocks: expected 1 to 3 of the model's decoder blocks, got {blocks}"):
        target_error(make_llama(), get_method("wanda"), tokens, targets(), blocks=blocks)


def test_no_target_is_refused(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="target_tokens: expected the windows of at least one target"):
        target_error(make_llama(), get_method("wanda"), tokens, {})

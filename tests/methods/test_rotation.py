"""A rotated model computes what it did, its weights are easier to round, and no other step may stand before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.target_error import target_error
from tests.methods.test_architectures import build

KNOWN = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"]
ROTATED_RTN = [{"method": "rotation"}, {"method": "rtn", "bits": 3, "group_size": 16}]


def logits_of(model: Any, tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.as_tensor(tokens).long().to(model.device)).logits
    return found


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True}, {"hidden_size": 48, "attention_bias": True, "mlp_bias": True}, {"head_dim": 12}],
    ids=["tied", "biases and another width", "heads of another width"],
)
def test_a_rotated_model_computes_what_the_dense_one_does(
    name: str, changes: dict[str, Any], tokens: np.ndarray
) -> None:
    model = build(name, **changes)
    dense = logits_of(model, tokens)
    before = [parameter.detach().clone() for parameter in decoder_blocks(model).parameters() if parameter.dim() > 1]
    report = compress_model(model, get_method("rotation"))
    assert relative(logits_of(model, tokens), dense) < 1e-5
    after = [parameter.detach() for parameter in decoder_blocks(model).parameters() if parameter.dim() > 1]
    assert all(relative(new, old) > 0.5 for new, old in zip(after, before, strict=True))
    assert report.average_bits == 16


@pytest.mark.parametrize("settings", [{"heads": False}, {"seed": 1}])
def test_each_setting_makes_other_weights_of_the_same_function(
    settings: dict[str, Any], make_llama: Callable[..., Any], tokens: np.ndarray
) -> None:
    plain, other = make_llama(), make_llama()
    dense = logits_of(plain, tokens)
    compress_model(plain, get_method("rotation"))
    compress_model(other, get_method("rotation", **settings))
    assert relative(logits_of(other, tokens), dense) < 1e-5
    attention = [decoder_blocks(model)[0].self_attn.v_proj.weight for model in (plain, other)]
    assert not torch.equal(*attention)


def test_in_half_precision_it_costs_the_rounding_of_the_weights(
    make_llama: Callable[..., Any], tokens: np.ndarray
) -> None:
    report = compress_model(make_llama().bfloat16(), get_method("rotation"))
    errors = [layer.relative_error for layer in report.layers]
    assert all(error is not None and 1e-7 < error < 2**-16 for error in errors)  # squared: half of 2^-8 at most


def test_a_saved_model_computes_what_it_did(make_llama: Callable[..., Any], tokens: np.ndarray, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = make_llama(tie_word_embeddings=True)
    compress_model(model, parse_method(ROTATED_RTN, "m"))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).to(model.device)
    assert torch.equal(logits_of(loaded, tokens), logits_of(model, tokens))


def test_a_large_input_is_spread_so_that_rounding_costs_less(
    make_llama: Callable[..., Any], tokens: np.ndarray
) -> None:
    """One input of the readers is thirty times as large in the weights, as outliers of real models are."""
    errors = []
    for entry in (ROTATED_RTN[1], ROTATED_RTN):
        model = make_llama()
        for block in decoder_blocks(model):
            for linear in (block.mlp.up_proj, block.mlp.gate_proj, block.self_attn.v_proj):
                linear.weight.data[:, 5] *= 30
        dense = logits_of(model, tokens)
        compress_model(model, parse_method(entry, "m"))
        errors.append(relative(logits_of(model, tokens), dense))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("first", ["rtn", "wanda", "smoothquant", "svd", "rotation"])
def test_it_stands_first(first: str) -> None:
    with pytest.raises(SettingsError, match=f"'rotation' after '{first}' changes the whole model; put it first"):
        parse_method([{"method": first}, {"method": "rotation"}], "m")


def test_an_unknown_architecture_is_left_as_it_was(tokens: np.ndarray) -> None:
    model, dense = build("gpt2"), build("gpt2")
    with pytest.raises(SettingsError, match=r"rotation: the residual stream of GPT2LMHeadModel is not known"):
        compress_model(model, parse_method(ROTATED_RTN, "m"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))


def test_a_rotation_goes_through_all_blocks_where_the_first_are_asked_for(make_llama: Callable[..., Any]) -> None:
    report = compress_model(make_llama(), parse_method(ROTATED_RTN, "m"), first_blocks=1)
    assert {(layer.step, layer.block) for layer in report.layers} == {(0, 0), (0, 1), (0, 2), (1, 0)}


def test_errors_of_hidden_states_are_not_asked_of_a_model_that_is_turned(
    make_llama: Callable[..., Any], tokens: np.ndarray
) -> None:
    with pytest.raises(SettingsError, match=r"Rotation \+ RTN 3-bit g16: turns the hidden states"):
        target_error(make_llama(), parse_method(ROTATED_RTN, "m"), None, {"t": tokens})

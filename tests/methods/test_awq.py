from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model
from methods.numerics.grids import GridRule, quantize_groups
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of


def with_outlier_inputs(model):
    """Some inputs of every linear are large, as in real models."""
    for block in decoder_blocks(model):
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.data[::8] *= 12
    return model


def test_scale_search_includes_the_identity_and_lowers_the_models_error(make_llama, tokens, device):
    batch = torch.as_tensor(tokens, device=device).long()

    def error(method):
        model, dense = with_outlier_inputs(make_llama()), with_outlier_inputs(make_llama())
        report = compress_model(model, method, tokens)
        with torch.no_grad():
            return (model(batch).logits - dense(batch).logits).square().mean().item(), report

    awq, report = error(get_method("awq", bits=3, group_size=16))
    rtn, plain = error(get_method("rtn", bits=3, group_size=16))
    assert awq < rtn
    assert report.average_bits == pytest.approx(plain.average_bits)


def published_duo_scales(x_mean, weights, group_size, steps):
    """AutoAWQ's `duo_scaling`, number by number: s = x^r / (w^(1-r) + 1e-4), then centred between its ends."""
    rows = [row for weight in weights for row in weight.tolist()]
    w_mean = []
    for j in range(len(x_mean)):
        first = j // group_size * group_size
        shares = [abs(row[j]) / (max(abs(v) for v in row[first : first + group_size]) + 1e-6) for row in rows]
        w_mean.append(sum(shares) / len(shares))
    found = []
    for step in range(steps):
        ratio = step / steps
        scale = [max(x**ratio / (w ** (1 - ratio) + 1e-4), 1e-4) for x, w in zip(x_mean, w_mean, strict=True)]
        middle = (max(scale) * min(scale)) ** 0.5
        found.append([s / middle for s in scale])
    return found


def test_duo_scales_are_those_of_the_published_formula_beside_no_scale_at_all():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(rows, 24, generator=generator) for rows in (5, 11)]
    weights[0][:, 3] = weights[1][:, 3] = 0  # an input that no weight looks at
    weights[1][2, 8:16] = 0  # a group of zeros
    inputs = torch.rand(24, generator=generator) * 3
    inputs[5] = 0  # a dead input
    scales = get_method("awq", group_size=8, scale_steps=5, duo_scaling=True).scales(inputs, weights)
    assert torch.equal(scales[0], torch.ones(24))
    expected = torch.tensor(published_duo_scales(inputs.tolist(), weights, 8, 5))
    assert torch.allclose(torch.stack(scales[1:]), expected, rtol=1e-4)
    assert torch.isfinite(torch.stack(scales)).all()


def test_scales_without_duo_look_at_inputs_alone():
    inputs = torch.tensor([1.0, 4.0, 16.0])
    first, second = get_method("awq", scale_steps=2).scales(inputs, [torch.randn(4, 3)])
    assert torch.equal(first, torch.ones(3))
    assert torch.allclose(second, torch.tensor([0.5, 1.0, 2.0]))


def test_duo_scaling_changes_scales_and_lowers_the_error_of_rounding(make_llama, tokens):
    def error(**settings):
        model = with_outlier_inputs(make_llama())
        return compress_model(model, get_method("awq", bits=3, group_size=16, **settings), tokens).layer_error

    plain, duo, unscaled = error(), error(duo_scaling=True), error(search_scale=False)
    assert duo != plain
    assert duo < unscaled


def test_duo_scaling_without_a_search_is_refused():
    with pytest.raises(SettingsError, match=r"awq.duo_scaling: there is no scale to search"):
        get_method("awq", search_scale=False, duo_scaling=True)


def test_scale_of_one_and_no_clip_is_round_to_nearest(make_llama, tokens):
    model, dense = make_llama(), make_llama()
    method = get_method("awq", group_size=16, scale_steps=1, search_clip=False)  # only α = 0
    compress_model(model, method, tokens)
    weight = decoder_blocks(dense)[1].mlp.down_proj.weight
    expected = quantize_groups(weight, GridRule(4), 16)
    assert torch.allclose(decoder_blocks(model)[1].mlp.down_proj.weight, expected, atol=1e-6)


def test_clip_search_lowers_the_output_error_and_spares_queries_and_keys(make_llama, tokens):
    clipped, plain = make_llama(), make_llama()
    settings = {"bits": 3, "group_size": 16, "search_scale": False}
    first = compress_model(clipped, get_method("awq", **settings), tokens)
    second = compress_model(plain, get_method("awq", search_clip=False, **settings), tokens)
    assert first.layer_error < second.layer_error
    a, b = decoder_blocks(clipped)[0], decoder_blocks(plain)[0]
    assert torch.equal(a.self_attn.q_proj.weight, b.self_attn.q_proj.weight)
    assert not torch.equal(a.mlp.down_proj.weight, b.mlp.down_proj.weight)


def test_reported_error_undoes_the_folds(make_llama, tokens):
    model = make_llama(num_hidden_layers=1)
    report = compress_model(model, get_method("awq", bits=8, group_size=16), tokens)
    assert all(layer.relative_error < 1e-3 for layer in report.layers)


def test_zeros_of_an_earlier_step_stay(make_llama, tokens):
    model = make_llama()
    method = parse_method([{"method": "wanda", "pattern": "2:4"}, {"method": "awq", "group_size": 16}], "m")
    report = compress_model(model, method, tokens)
    assert report.achieved_sparsity >= 0.5
    for block in decoder_blocks(model):
        for linear in linears_of(block):
            assert ((linear.weight != 0).reshape(linear.weight.shape[0], -1, 4).sum(-1) <= 2).all()

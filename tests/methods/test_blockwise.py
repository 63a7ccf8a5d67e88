from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model
from methods.outcome import CompressionError
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of


def weights_of(model):
    return {f"{i}.{t.name}": t.weight.clone() for i, b in enumerate(decoder_blocks(model)) for t in linears_of(b)}


def assert_same_weights(first, second, close=False):
    for name, weight in weights_of(first).items():
        other = weights_of(second)[name]
        assert torch.allclose(weight, other, rtol=1e-3, atol=1e-5) if close else torch.equal(weight, other), name


def test_same_tokens_give_bit_identical_weights(make_llama, tokens):
    models = [make_llama(), make_llama()]
    for model in models:
        compress_model(model, get_method("sparsegpt"), tokens)
    assert_same_weights(*models)


def test_a_restored_model_is_compressed_to_the_same_weights(make_llama, tokens):
    model = make_llama()
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    compress_model(model, get_method("gptq"), tokens)
    first = weights_of(model)
    model.load_state_dict(dense)
    compress_model(model, get_method("gptq"), tokens)
    assert all(torch.equal(first[name], weight) for name, weight in weights_of(model).items())


def test_other_tokens_give_other_weights(make_llama, tokens):
    models = [make_llama(), make_llama()]
    for model, shift in zip(models, (0, 1), strict=True):
        compress_model(model, get_method("gptq"), (tokens + shift) % 96)
    assert not torch.equal(weights_of(models[0])["0.mlp.down_proj"], weights_of(models[1])["0.mlp.down_proj"])


def test_a_method_that_needs_data_says_so(make_llama):
    with pytest.raises(SettingsError, match="tokens: Wanda 50 % needs calibration tokens"):
        compress_model(make_llama(), get_method("wanda"), None)


def test_hooks_and_patches_come_off_even_after_a_failure(make_llama, tokens):
    model = make_llama()
    decoder_blocks(model)[1].self_attn.q_proj.weight.data[0] = float("nan")
    with pytest.raises(CompressionError):
        compress_model(model, get_method("gptq"), tokens)
    assert all("forward" not in vars(block) for block in decoder_blocks(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_composition_keeps_the_masks_of_its_first_step(make_llama, tokens):
    model, pruned = make_llama(), make_llama()
    steps = [{"method": "sparsegpt", "pattern": "2:4"}, {"method": "gptq", "bits": 4, "scale_dtype": "float16"}]
    method = parse_method(steps, "m")
    report = compress_model(model, method, tokens)
    compress_model(pruned, method.steps[0], tokens)
    for name, weight in weights_of(model).items():
        assert (weight[weights_of(pruned)[name] == 0] == 0).all(), name
        assert ((weight != 0).reshape(weight.shape[0], -1, 4).sum(-1) <= 2).all(), name
    assert {layer.step for layer in report.layers} == {0, 1}
    assert report.achieved_sparsity >= 0.5
    assert report.average_bits < 5


def test_report_counts_the_final_state(make_llama, tokens):
    report = compress_model(make_llama(), get_method("wanda", sparsity=0.25), tokens)
    assert report.achieved_sparsity == pytest.approx(0.25)
    assert report.average_bits == 16
    assert report.fallbacks == 0
    assert 0 < report.layer_error < 0.25
    assert all(layer.tokens == 6 * 24 for layer in report.layers)
    assert [layer.linear for layer in report.layers][:3] == ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]


@pytest.mark.parametrize("factor", [0, 1])
def test_a_factor_that_a_later_step_leaves_out_still_counts(make_llama, factor):
    model = make_llama(num_hidden_layers=1)
    steps = [
        {"method": "svd", "linears": ["mlp.up_proj"]},
        {"method": "rtn", "bits": 4, "group_size": None, "linears": [f"mlp.up_proj.{factor}"]},
    ]
    report = compress_model(model, parse_method(steps, "m"))
    rounded, other = (decoder_blocks(model)[0].mlp.up_proj[number].weight for number in (factor, 1 - factor))
    (layer,) = [layer for layer in report.layers if layer.step == 1]
    stored = layer.bits * rounded.numel() + 16 * other.numel()
    assert report.average_bits == pytest.approx(stored / (64 * 32))
    assert [tuple(each.weight.shape) for each in decoder_blocks(model)[0].mlp.up_proj] == [
        (each.rows, each.cols) for each in sorted(report.final, key=lambda layer: layer.linear)
    ]


@pytest.mark.parametrize(
    ("steps", "levels"),
    [
        ([{"method": "rtn", "bits": 3, "group_size": None}, {"method": "wanda"}], 8),
        ([{"method": "rtn", "bits": 3, "group_size": None}, {"method": "magnitude"}], 8),
        ([{"method": "rtn", "bits": 3, "group_size": None}, {"method": "sparsegpt", "sparsity": 0.5}], None),
        ([{"method": "rtn", "bits": 3, "group_size": None}, "smoothquant"], None),
    ],
    ids=["wanda", "magnitude", "sparsegpt", "smoothquant"],
)
def test_bits_of_a_grid_count_as_long_as_the_weights_are_on_it(make_llama, tokens, steps, levels):
    model = make_llama(num_hidden_layers=1)
    report = compress_model(model, parse_method(steps, "m"), tokens)
    found = max(len(row.unique()) for row in decoder_blocks(model)[0].mlp.up_proj.weight)
    (layer,) = [layer for layer in report.final if layer.linear == "mlp.up_proj"]
    if levels is None:
        assert found > 8
        assert layer.bits == 16
    else:
        assert found <= levels
        assert 3 < layer.bits < 5


def test_training_mode_and_gradients_are_left_as_they_were(make_llama, tokens):
    model = make_llama().train()
    compress_model(model, get_method("gptq"), tokens)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_models_keep_their_dtype(make_llama, tokens):
    model = make_llama().bfloat16()
    report = compress_model(model, get_method("sparsegpt", pattern="2:4"), tokens)
    assert all(weight.dtype == torch.bfloat16 for weight in weights_of(model).values())
    assert report.achieved_sparsity == pytest.approx(0.5)


def test_tied_embeddings_are_untouched(make_llama, tokens):
    model = make_llama(tie_word_embeddings=True)
    before = model.model.embed_tokens.weight.clone()
    compress_model(model, get_method("rtn", bits=2), None)
    assert torch.equal(model.lm_head.weight, before)


def test_the_report_has_the_groups_that_a_solver_made(make_llama, tokens) -> None:
    late = get_method("gptq", group_size=16, static_groups=False)
    seen: dict[tuple[int, str], torch.Tensor] = {}
    report = compress_model(
        make_llama(), late, tokens, witness=lambda block, name, new: seen.update({(block, name): new.group_of})
    )
    assert set(report.groups) == set(seen) == {(layer.block, layer.linear) for layer in report.layers}
    assert all(report.groups[place] is group_of for place, group_of in seen.items())
    assert not compress_model(make_llama(), get_method("gptq", group_size=16), tokens).groups


def test_a_witness_sees_every_weight_that_a_method_replaces(make_llama) -> None:
    seen: dict[tuple[int, str], torch.Tensor] = {}
    model = make_llama()
    report = compress_model(
        model,
        get_method("rtn", bits=4),
        witness=lambda block, linear, compressed: seen.update({(block, linear): compressed.weight}),
    )
    assert set(seen) == {(layer.block, layer.linear) for layer in report.layers}
    blocks = decoder_blocks(model)
    assert all(torch.equal(blocks[b].get_submodule(name).weight, weight) for (b, name), weight in seen.items())

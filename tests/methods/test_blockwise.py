from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import CompressionError, get_method, parse_method
from methods.blockwise import Data, capture, compress_model, decoder_blocks
from methods.inputs.collect import collect
from methods.walk.linears import linears_of


def inputs_of(model, tokens, block, name):
    """Inputs [windows, length, cols] of one linear, by a plain hook and one full forward per window."""
    seen = []
    handle = decoder_blocks(model)[block].get_submodule(name).register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    with torch.no_grad():
        for window in tokens:
            model(torch.as_tensor(window[None], device=model.device).long())
    handle.remove()
    return torch.cat(seen)


def weights_of(model):
    return {f"{i}.{t.name}": t.weight.clone() for i, b in enumerate(decoder_blocks(model)) for t in linears_of(b)}


def assert_same_weights(first, second, close=False):
    for name, weight in weights_of(first).items():
        other = weights_of(second)[name]
        assert torch.allclose(weight, other, rtol=1e-3, atol=1e-5) if close else torch.equal(weight, other), name


def plain_walk(model, method, tokens, propagate):
    """The plainest version: for every block, full forwards collect each linear's inputs; then all are compressed."""
    dense = copy.deepcopy(model)
    for index, block in enumerate(decoder_blocks(model)):
        source = model if propagate else dense
        inputs = {t.name: inputs_of(source, tokens, index, t.name) for t in linears_of(block)}
        for linear in linears_of(block):
            weight = linear.weight.clone()
            statistic = collect(method, inputs[linear.name], weight)
            linear.store(method.compress_weight(weight, statistic).weight)


@pytest.mark.parametrize("propagate", [True, False])
@pytest.mark.parametrize("entry", [{"method": "gptq", "group_size": 16}, {"method": "wanda"}], ids=str)
def test_walk_equals_full_forwards_and_plain_hooks(make_llama, tokens, entry, propagate):
    method = parse_method({**entry, "propagate": propagate}, "m")
    ours, plain = make_llama(), make_llama()
    compress_model(ours, method, tokens)
    with torch.no_grad():
        plain_walk(plain, method, tokens, propagate)
    # rounding may flip a weight that lies between two levels, so most weights are equal, not all
    for name, weight in weights_of(ours).items():
        assert torch.isclose(weight, weights_of(plain)[name], rtol=1e-3, atol=1e-6).double().mean() > 0.97, name


def test_propagation_changes_later_blocks_only(make_llama, tokens):
    models = []
    for propagate in (True, False):
        models.append(make_llama())
        compress_model(models[-1], get_method("gptq", bits=2, propagate=propagate), tokens)
    first, second = map(weights_of, models)
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("0."))
    assert not torch.equal(first["1.mlp.down_proj"], second["1.mlp.down_proj"])


def test_true_sequential_sees_the_compressed_linears_before_it(make_llama, tokens):
    model = make_llama(num_hidden_layers=1)
    compress_model(model, get_method("gptq", bits=2, true_sequential=True), tokens)
    plain = make_llama(num_hidden_layers=1)
    method = get_method("gptq", bits=2)
    groups = [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]
    linears = {t.name: t for t in linears_of(decoder_blocks(plain)[0])}
    with torch.no_grad():
        for names in groups:
            statistic = collect(method, inputs_of(plain, tokens, 0, names[0]), linears[names[0]].weight)
            for name in names:
                linears[name].store(method.compress_weight(linears[name].weight.clone(), statistic).weight)
    for name, weight in weights_of(model).items():
        assert torch.isclose(weight, weights_of(plain)[name], rtol=1e-3, atol=1e-6).double().mean() > 0.97, name


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


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_batch_size_changes_only_rounding(make_llama, tokens, batch_size):
    models = [make_llama(), make_llama()]
    for model, size in zip(models, (2, batch_size), strict=True):
        compress_model(model, get_method("wanda"), tokens, batch_size=size)
    for name, weight in weights_of(models[0]).items():
        same = (weight == weights_of(models[1])[name]).double().mean()
        assert same > 0.99, name


def test_hidden_states_in_host_memory_change_nothing(make_llama, tokens):
    models = [make_llama(), make_llama()]
    for model, offload in zip(models, (False, True), strict=True):
        compress_model(model, get_method("gptq"), tokens, offload=offload)
    assert_same_weights(*models)


@pytest.mark.parametrize("name", ["gptq", "wanda", "sparsegpt"])
def test_padding_never_enters_a_statistic(make_llama, tokens, name):
    """Two windows padded on the right give what the same windows without padding give."""
    short = tokens[:, :16]
    padded = np.concatenate([short, np.full((6, 8), 7, dtype=np.int32)], axis=1)
    mask = np.concatenate([np.ones((6, 16), dtype=np.int64), np.zeros((6, 8), dtype=np.int64)], axis=1)
    models = [make_llama(), make_llama()]
    plain = compress_model(models[0], get_method(name), short)
    masked = compress_model(models[1], get_method(name), padded, attention_mask=mask)
    assert [layer.tokens for layer in plain.layers] == [layer.tokens for layer in masked.layers]
    assert masked.layer_error == pytest.approx(plain.layer_error, rel=0.02)
    if next(models[0].parameters()).is_cuda:
        return  # there, sums of another length round otherwise, and masks and codes move with their last bits
    for key, weight in weights_of(models[0]).items():
        assert torch.isclose(weight, weights_of(models[1])[key], rtol=1e-3, atol=1e-6).double().mean() > 0.97, key


def test_shared_inputs_are_collected_once(make_llama, tokens, monkeypatch):
    import methods.blockwise as walk

    made = []
    plain = walk.Collector._new
    monkeypatch.setattr(walk.Collector, "_new", lambda *a: made.append(a) or plain(*a))
    report = compress_model(make_llama(), get_method("gptq"), tokens)
    assert len(made) == 3 * 4  # q/k/v, o, gate/up, down
    assert len(report.layers) == 3 * 7


def test_telemetry_is_read_once_for_linears_that_share_an_input(make_llama, tokens, monkeypatch):
    import methods.inputs.telemetry as telemetry

    read = []
    plain = telemetry.read_together
    monkeypatch.setattr(telemetry, "read_together", lambda waiting: read.append(len(waiting)) or plain(waiting))
    compress_model(make_llama(num_hidden_layers=1), get_method("spqr"), tokens)
    assert read == [3, 1, 2, 1]


def test_collecting_stops_at_the_last_input_and_the_last_block_is_not_propagated(make_llama, tokens):
    model = make_llama()
    ran = dict.fromkeys(range(3), 0)
    for index, block in enumerate(decoder_blocks(model)):
        block.mlp.down_proj.register_forward_hook(lambda *_, i=index: ran.__setitem__(i, ran[i] + 1))
    compress_model(model, get_method("gptq"), tokens, batch_size=6)
    assert ran == {0: 1, 1: 1, 2: 0}  # only the second pass runs down_proj


def test_data_free_methods_need_neither_tokens_nor_a_forward(make_llama):
    model = make_llama()
    model.model.forward = None  # any forward would fail
    report = compress_model(model, get_method("rtn", bits=3), None)
    assert len(report.layers) == 21
    assert report.average_bits == pytest.approx(3 + 35 / 37, rel=0.05)


def test_a_method_that_needs_data_says_so(make_llama):
    with pytest.raises(SettingsError, match="tokens: Wanda 50 % needs calibration tokens"):
        compress_model(make_llama(), get_method("wanda"), None)


def test_skipped_blocks_and_excluded_linears_stay_dense(make_llama, tokens):
    model, dense = make_llama(), weights_of(make_llama())
    method = get_method("gptq", skip_blocks=[0, -1], linears=["*", "!mlp.down_proj"])
    report = compress_model(model, method, tokens)
    assert {layer.block for layer in report.layers} == {1}
    assert len(report.layers) == 6
    for name, weight in weights_of(model).items():
        assert torch.equal(weight, dense[name]) == (not name.startswith("1.") or name.endswith("down_proj")), name


def test_scope_that_fits_nothing_is_refused(make_llama, tokens):
    with pytest.raises(SettingsError, match=r"linears: 'attn\.\*' matches no linear .*self_attn.q_proj"):
        compress_model(make_llama(), get_method("gptq", linears=["attn.*"]), tokens)
    with pytest.raises(SettingsError, match="skip_blocks: expected -3 to 2, got 7"):
        compress_model(make_llama(), get_method("gptq", skip_blocks=[7]), tokens)


def test_group_size_that_does_not_divide_is_refused_before_any_change(make_llama, tokens):
    model, dense = make_llama(), weights_of(make_llama())
    with pytest.raises(
        SettingsError, match=r"group_size: 64 does not divide the 32 inputs of block 0 self_attn.q_proj"
    ):
        compress_model(model, get_method("rtn", group_size=64), None)
    assert all(torch.equal(dense[name], weight) for name, weight in weights_of(model).items())


def test_failure_names_block_and_linear(make_llama, tokens):
    model = make_llama()
    decoder_blocks(model)[1].mlp.up_proj.weight.data[0] = float("inf")
    with pytest.raises(
        CompressionError, match=r"block 1 mlp.down_proj: GPTQ 4-bit on mlp.down_proj: its inputs hold NaN or infinity"
    ):
        compress_model(model, get_method("gptq", linears=["mlp.down_proj"]), tokens)


def test_raised_damping_is_in_the_report_of_every_linear_that_needed_it(make_llama, tokens):
    """One window of few tokens leaves the Hessian singular; without damping its factorization must be helped."""
    report = compress_model(make_llama(), get_method("gptq", percdamp=0.0), tokens[:1, :8])
    helped = [layer for layer in report.layers if layer.fallback]
    assert len(helped) == report.fallbacks > 0
    assert all(layer.retries >= 1 and layer.damping >= 1e-3 for layer in helped)
    assert all("damping raised to" in layer.fallback for layer in helped)


def test_one_short_window_is_enough_for_the_default_damping(make_llama, tokens):
    report = compress_model(make_llama(), get_method("sparsegpt"), tokens[:1, :8])
    assert report.fallbacks == 0
    assert all(layer.damping == 0.01 for layer in report.layers)


def test_groups_that_do_not_divide_a_rank_are_refused(make_llama, tokens):
    method = parse_method([{"method": "svd", "ratio": 0.6}, {"method": "rtn", "group_size": 16}], "m")
    with pytest.raises(
        SettingsError, match=r"group_size: 16 does not divide the 9 inputs of block 0 self_attn.q_proj.1"
    ):
        compress_model(make_llama(), method, None)


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


def test_a_forward_of_the_blocks_own_comes_back(make_llama, tokens):
    model, calls = make_llama(), []
    for block in decoder_blocks(model):
        block.forward = lambda *arguments, own=block.forward, **named: calls.append(1) or own(*arguments, **named)
    compress_model(model, get_method("wanda"), tokens)
    calls.clear()
    model(torch.as_tensor(tokens, device=model.device).long())
    assert len(calls) == 3


def test_a_model_without_its_weights_on_one_device_is_refused(make_llama, tokens):
    for block in decoder_blocks(away := make_llama())[1:]:
        block.to("meta")
    with pytest.raises(SettingsError, match=r"model: its weights are on c\S+ and meta; load it on one device"):
        compress_model(away, get_method("rtn"))
    with pytest.raises(SettingsError, match="model: its weights are on meta"):
        compress_model(make_llama().to("meta"), get_method("wanda"), tokens)


def test_a_quantized_model_is_refused(make_llama):
    model = make_llama()
    linear = decoder_blocks(model)[1].mlp.up_proj
    linear.weight = torch.nn.Parameter((1000 * linear.weight).to(torch.int8), requires_grad=False)
    with pytest.raises(SettingsError, match=r"block 1 mlp\.up_proj: its weight is int8; load the model unquantized"):
        compress_model(model, get_method("rtn"))


def test_progress_reaches_the_end(make_llama, tokens):
    seen = []
    compress_model(make_llama(), get_method("gptq"), tokens, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 3)
    assert seen[-1] == (3, 3)


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


def test_wrong_tokens_are_refused(make_llama, tokens):
    with pytest.raises(SettingsError, match=r"tokens: expected \[nsamples, seqlen\]"):
        compress_model(make_llama(), get_method("gptq"), tokens[0])
    with pytest.raises(SettingsError, match="attention_mask: expected the shape of tokens"):
        compress_model(make_llama(), get_method("gptq"), tokens, attention_mask=np.ones((2, 2)))


def test_equal_arguments_of_batches_are_kept_once(make_llama, tokens):
    model = make_llama()
    with torch.no_grad():
        batches = capture(model, decoder_blocks(model), Data(tokens, batch_size=2))
    assert len(batches) == 3
    cos = [batches.arguments[b][i][1]["position_embeddings"][0] for b in range(3) for i in range(3)]
    assert len({id(tensor) for tensor in cos}) == 1


def test_a_model_without_blocks_is_refused():
    with pytest.raises(SettingsError, match="no ModuleList"):
        decoder_blocks(torch.nn.Linear(2, 2))

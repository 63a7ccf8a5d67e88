from __future__ import annotations

import copy

import pytest
import torch

from methods.base import get_method, parse_method
from methods.blockwise import compress_model
from methods.inputs.collect import collect
from methods.walk.decoder import decoder_blocks
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


def test_skipped_blocks_and_excluded_linears_stay_dense(make_llama, tokens):
    model, dense = make_llama(), weights_of(make_llama())
    method = get_method("gptq", skip_blocks=[0, -1], linears=["*", "!mlp.down_proj"])
    report = compress_model(model, method, tokens)
    assert {layer.block for layer in report.layers} == {1}
    assert len(report.layers) == 6
    for name, weight in weights_of(model).items():
        assert torch.equal(weight, dense[name]) == (not name.startswith("1.") or name.endswith("down_proj")), name


def test_progress_reaches_the_end(make_llama, tokens):
    seen = []
    compress_model(make_llama(), get_method("gptq"), tokens, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 3)
    assert seen[-1] == (3, 3)


def test_data_free_methods_need_neither_tokens_nor_a_forward(make_llama):
    model = make_llama()
    model.model.forward = None  # any forward would fail
    report = compress_model(model, get_method("rtn", bits=3), None)
    assert len(report.layers) == 21
    assert report.average_bits == pytest.approx(3 + 35 / 37, rel=0.05)

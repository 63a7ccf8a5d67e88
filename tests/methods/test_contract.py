"""Every registered method keeps the promises of the base class; a new file in `methods/` is tested from its start."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import METHODS, CompressionError, WeightMethod, compress_linear, get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.walk.linears import linears_of

NAMES = METHODS.names()
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
CALLS: dict[str, dict[str, Any]] = {"awq": {"group_size": 16, "scale_steps": 3}, "hqq": {"group_size": 16}}


def make(name: str, **settings: Any) -> Any:
    return get_method(name, **CALLS.get(name, {}), **settings)


IN_SCOPE = [name for name in NAMES if not METHODS.get(name).whole_model]  # those that can leave a part dense
ON_ONE_MATRIX = [name for name in NAMES if isinstance(make(name), WeightMethod) and not make(name).needs_gradients]


@pytest.fixture
def problem(make_problem):
    return make_problem(rows=32, cols=64)


@pytest.mark.parametrize("name", NAMES)
def test_identity_rebuilds_the_same_method(name):
    method = make(name)
    identity = json.loads(json.dumps(method.identity()))
    assert identity.pop("version") == type(method).version
    assert parse_method(identity, "m").identity() == method.identity()


@pytest.mark.parametrize("name", NAMES)
def test_any_changed_setting_changes_the_identity(name):
    method = make(name)
    assert make(name, propagate=not method.propagate).identity() != method.identity()
    for scope in ({"skip_blocks": [0]}, {"linears": ["a*"]}):
        if name in IN_SCOPE:
            assert make(name, **scope).identity() != method.identity()
        else:
            with pytest.raises(SettingsError, match=f"{next(iter(scope))}: '{name}' changes the whole model"):
                make(name, **scope)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_short_and_tell_methods_apart(name):
    assert 3 <= len(make(name).label) <= 40
    if name in IN_SCOPE:
        assert make(name).label != make(name, skip_blocks=[0]).label
    others = [make(other).label for other in NAMES if other != name]
    assert make(name).label not in others


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_refused(name):
    with pytest.raises(SettingsError, match=f"{name}.sparsty: unknown key"):
        get_method(name, sparsty=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_settings_cannot_be_changed_afterwards(name):
    with pytest.raises(AttributeError):
        make(name).propagate = False


@pytest.mark.parametrize("name", NAMES)
def test_nominal_values_have_fixed_names(name):
    nominal = make(name).nominal()
    assert set(nominal) == {"bits", "sparsity", "pattern"}
    assert nominal["bits"] is None or 2 <= nominal["bits"] <= 8
    assert nominal["sparsity"] is None or 0 <= nominal["sparsity"] < 1


@pytest.mark.parametrize("name", ON_ONE_MATRIX)
def test_same_inputs_give_bit_identical_weights(name, problem):
    results = [compress_linear(make(name), problem.weight, problem.inputs) for _ in range(2)]
    assert torch.equal(results[0].weight, results[1].weight)
    assert results[0].report.relative_error == results[1].report.relative_error


@pytest.mark.parametrize("name", ON_ONE_MATRIX)
def test_arguments_are_left_as_they_were(name, problem):
    weight, inputs = problem.weight.clone(), problem.inputs.clone()
    compress_linear(make(name), problem.weight, problem.inputs)
    assert torch.equal(problem.weight, weight)
    assert torch.equal(problem.inputs, inputs)


@pytest.mark.parametrize("name", ON_ONE_MATRIX)
def test_data_free_means_that_inputs_do_not_matter(name, make_problem):
    problem, other = make_problem(rows=32), make_problem(rows=32, seed=1)
    weights = [compress_linear(make(name), problem.weight, p.inputs).weight for p in (problem, other)]
    assert torch.equal(*weights) == make(name).data_free


@pytest.mark.parametrize("name", ON_ONE_MATRIX)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtype_shape_and_arrays_are_kept(name, dtype, problem):
    result = compress_linear(make(name), problem.weight.to(dtype), problem.inputs.to(dtype))
    assert result.weight.dtype == dtype
    assert result.weight.shape == (32, 64)
    assert torch.isfinite(result.weight).all()
    assert 0 < result.report.relative_error < 0.6


@pytest.mark.parametrize("name", ON_ONE_MATRIX)
def test_numpy_arrays_and_parameters_are_taken(name, problem):
    weight, inputs = problem.weight.cpu(), problem.inputs.cpu()
    arrays = compress_linear(make(name), weight.numpy(), inputs.numpy())
    parameter = compress_linear(make(name), torch.nn.Parameter(weight), inputs)
    assert torch.equal(arrays.weight, parameter.weight)
    assert not parameter.weight.requires_grad


@pytest.mark.parametrize("name", ON_ONE_MATRIX)
def test_rank_deficient_dead_constant_and_zero_parts_have_a_finite_outcome(name, make_problem):
    hard = make_problem(rows=32, cols=64, windows=1, length=20)  # fewer tokens than inputs
    hard.inputs[:, :, [0, 33]] = 0  # dead inputs
    hard.weight[1] = 0  # a row of zeros
    hard.weight[2] = hard.weight[2].abs()  # a row of positive weights
    hard.weight[:, 16:32] = 0.125  # constant groups
    result = compress_linear(make(name), hard.weight, hard.inputs)
    assert torch.isfinite(result.weight).all()
    assert np.isfinite(result.report.relative_error)
    if not make(name).data_free:
        assert result.report.dead_columns in (0, 2)


@pytest.mark.parametrize("name", ON_ONE_MATRIX)
def test_nan_inputs_fail_and_name_the_reason(name, problem):
    if make(name).data_free:
        return
    problem.inputs[1, 3, 5] = float("nan")
    with pytest.raises(CompressionError, match="NaN"):
        compress_linear(make(name), problem.weight, problem.inputs)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ON_ONE_MATRIX)
def test_weights_that_are_not_finite_fail_and_name_the_reason(name, value, problem):
    problem.weight[3, 5] = value
    for method in [make(name), *([make(name, pattern="2:4")] if make(name).prunes else [])]:
        with pytest.raises(CompressionError, match="NaN or infinity"):
            compress_linear(method, problem.weight, problem.inputs)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", NAMES)
def test_a_walk_that_meets_a_weight_that_is_not_finite_fails_and_names_it(name, value, make_llama, tokens):
    model, method = make_llama(), make(name)
    decoder_blocks(model)[1].mlp.up_proj.weight.data[3, 5] = value
    with pytest.raises(CompressionError, match=r"^block 1 .*mlp\.up_proj: the dense weight holds NaN or infinity$"):
        compress_model(model, method, None if method.data_free else tokens)


@pytest.mark.parametrize("name", NAMES)
def test_models_are_compressed_reproducibly_and_reported_completely(name, make_llama, tokens):
    method = make(name)
    models = [make_llama(), make_llama()]
    reports = [compress_model(model, method, None if method.data_free else tokens) for model in models]
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)
    rows = [layer.as_row() for layer in reports[0].layers]
    assert len(rows) == 21
    json.dumps(rows, allow_nan=False)
    for row in rows:
        assert 0 <= row["relative_error"] < 0.7
        assert 0 <= row["sparsity"] <= 1
        assert 0 < row["bits"] <= 16
        assert row["seconds"] >= 0
        assert (row["tokens"] == 0) == method.data_free
    assert {row["linear"] for row in rows} == {linear.name for linear in linears_of(decoder_blocks(make_llama())[0])}


@pytest.mark.parametrize("name", IN_SCOPE)
def test_scope_holds_for_every_method(name, make_llama, tokens):
    model, dense = make_llama(), make_llama()
    method = make(name, skip_blocks=[1], linears=["self_attn.*"])
    report = compress_model(model, method, None if method.data_free else tokens)
    assert {(x.block, x.linear.split(".")[0]) for x in report.layers} == {(0, "self_attn"), (2, "self_attn")}
    for module in ("mlp", "post_attention_layernorm"):
        ours = getattr(decoder_blocks(model)[0], module).state_dict()
        theirs = getattr(decoder_blocks(dense)[0], module).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    untouched = decoder_blocks(model)[1].state_dict()
    assert all(torch.equal(value, untouched[key]) for key, value in decoder_blocks(dense)[1].state_dict().items())


@pytest.mark.parametrize("name", [name for name in NAMES if not METHODS.get(name)().data_free])
def test_padding_changes_nothing_for_any_method(name, make_llama, tokens, device):
    """Masked right padding gives the weights of the unpadded windows, up to rounding and the ties it decides."""
    method = make(name)
    padded = np.concatenate([tokens, np.full((6, 8), 5, dtype=np.int32)], axis=1)
    mask = np.concatenate([np.ones_like(tokens), np.zeros((6, 8), dtype=np.int32)], axis=1)
    plain, masked = make_llama(num_hidden_layers=1), make_llama(num_hidden_layers=1)
    without, beside = compress_model(plain, method, tokens), compress_model(masked, method, padded, attention_mask=mask)
    if any(layer.tokens for layer in without.layers):  # joint_svd looks at the model's structure alone
        assert {layer.tokens for layer in beside.layers} == {6 * 24}
    for first, second in zip(decoder_blocks(plain), decoder_blocks(masked), strict=True):
        for name, weight in first.state_dict().items():
            other = second.state_dict()[name]
            same = torch.isclose(weight, other, rtol=1e-3, atol=1e-3 * float(weight.abs().max())).float().mean()
            assert same >= 0.98, f"{name}: {same:.3f} of the numbers"


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS.get(name).keeps_zeros])
def test_pruned_weights_stay_zero_under_a_second_step(name, make_llama, tokens):
    pruned = make_llama()
    compress_model(pruned, make("magnitude", sparsity=0.4), None)
    steps = [{"method": "magnitude", "sparsity": 0.4}, {"method": name, **CALLS.get(name, {})}]
    model = make_llama()
    compress_model(model, parse_method(steps, "m"), tokens)
    for first, second in zip(decoder_blocks(pruned), decoder_blocks(model), strict=True):
        for before, after in zip(linears_of(first), linears_of(second), strict=True):
            assert (after.weight[before.weight == 0] == 0).all(), after.name

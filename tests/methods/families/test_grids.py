"""What a checkpoint of a grid method holds: whole codes, and scales in the type that the study names."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.settings import SettingsError
from methods.base import CompressionError, compress_linear, get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.walk.linears import linears_of

METHODS = [
    {"method": "rtn"},
    {"method": "rtn", "mse": True},
    {"method": "gptq"},
    {"method": "gptq", "mse": True, "block_size": 16},
    {"method": "gptq", "act_order": False, "static_groups": False},
    {"method": "gptq", "fresh_group_stats": True, "act_order": False},
    {"method": "sparsegpt", "sparsity": 0.5},
    {"method": "sparsegpt", "pattern": "2:4"},
]


def scale_of(values, levels):
    """A float16 scale whose whole multiples are all of `values` to the bit, spread over no more than `levels`.

    None when there is none. Found from the values alone, so whatever the solver did is not believed.
    """
    values = np.unique(np.append(values, np.float32(0)))  # zero is on every grid
    if len(values) == 1:
        return 1.0
    step = np.diff(values).min()  # exact, as are all products of a float16 and a code
    for parts in range(1, levels + 1):
        scale = np.float32(np.float16(step / parts))
        codes = np.round(values / scale) if scale > 0 else values
        if scale > 0 and np.array_equal(codes.astype(np.float32) * scale, values) and np.ptp(codes) <= levels:
            return float(scale)
    return None


def groups_of(weight, size):
    """Every row and group of `weight` [rows, cols] as numbers in float32."""
    return weight.detach().float().cpu().unflatten(1, (-1, size)).flatten(0, 1).numpy()


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("entry", METHODS, ids=str)
def test_weights_are_codes_times_16_bit_scales_to_the_bit(make_problem, entry, bits, sym):
    problem = make_problem(rows=12, cols=32)
    problem.weight[1], problem.weight[2] = 0, problem.weight[2].abs()
    problem.weight[3, :16], problem.weight[4] = 0.125, problem.weight[4] * 1e-4
    problem.inputs[:, :, 5] = 0
    method = parse_method({**entry, "bits": bits, "sym": sym, "group_size": 16, "scale_dtype": "float16"}, "m")
    result = compress_linear(method, problem.weight, problem.inputs)
    for group in groups_of(result.weight, 16):
        assert scale_of(group, 2**bits - 1) is not None, group
    assert result.report.bits == bits + (16 + (0 if sym else bits)) / 16


def test_the_search_for_a_scale_refuses_weights_of_float32_scales(problem):
    rounded = compress_linear(get_method("rtn", group_size=16), problem.weight).weight
    found = [scale_of(group, 15) for group in groups_of(rounded, 16)]
    assert sum(scale is None for scale in found) > 0.9 * len(found)


@pytest.mark.parametrize("settings", [{"search_scale": False}, {}, {"duo_scaling": True}, {"sym": True}], ids=str)
def test_awq_holds_codes_times_16_bit_scales_after_its_scales_were_folded(make_llama, tokens, settings):
    model = make_llama(num_hidden_layers=1)
    method = get_method("awq", bits=3, group_size=16, scale_dtype="float16", scale_steps=4, **settings)
    report = compress_model(model, method, tokens)
    assert report.average_bits == pytest.approx(3 + (16 + (0 if method.sym else 3)) / 16)
    for linear in linears_of(decoder_blocks(model)[0]):
        assert all(scale_of(group, 7) is not None for group in groups_of(linear.weight, 16)), linear.name


@given(
    numbers=st.lists(st.floats(-4, 4, width=32), min_size=8, max_size=8),
    size=st.sampled_from([1e-8, 1e-5, 1e-2, 1.0, 1e3]),
    bits=st.integers(2, 8),
    sym=st.booleans(),
)
@settings(max_examples=150)
def test_any_group_is_stored_exactly_and_no_worse_than_half_a_step(numbers, size, bits, sym):
    weight = torch.tensor([numbers]) * size
    result = compress_linear(get_method("rtn", bits=bits, sym=sym, scale_dtype="float16"), weight)
    (group,) = groups_of(result.weight, 8)
    assert scale_of(group, 2**bits - 1) is not None
    low, high = float(weight.min().clamp(max=0)), float(weight.max().clamp(min=0))
    step = (2 * max(-low, high) if sym else high - low) / (2**bits - 1)
    of_the_type = max(step * 2.0**-11, 2.0**-24)  # what rounding moves a scale by, or the smallest scale
    # half a step for the code and half for the zero point, which is rounded as well
    assert float((result.weight - weight).abs().max()) <= step * (1 + 1e-5) + 2**bits * of_the_type


@pytest.mark.parametrize("entry", METHODS, ids=str)
def test_weights_beyond_a_16_bit_scale_fail_and_name_the_remedy(problem, entry):
    problem.weight[3, 7] = 3e6
    method = parse_method({**entry, "bits": 4, "group_size": 16, "scale_dtype": "float16"}, "m")
    expected = r"NaN or infinity; scales are stored as float16, which ends at 65,504, and the dense weights reach 3e"
    if method.name == "sparsegpt" or "mse" in entry:  # pruned or clipped away, the large weight may fit again
        return
    with pytest.raises(CompressionError, match=expected):
        compress_linear(method, problem.weight, problem.inputs)
    for dtype in ("bfloat16", "float32"):
        fits = parse_method({**entry, "bits": 4, "group_size": 16, "scale_dtype": dtype}, "m")
        assert torch.isfinite(compress_linear(fits, problem.weight, problem.inputs).weight).all()


def test_weights_that_hold_nan_are_no_matter_of_scales(problem):
    problem.weight[3, 7] = float("nan")
    with pytest.raises(CompressionError, match="the dense weight holds NaN or infinity$"):
        compress_linear(get_method("rtn", scale_dtype="float16"), problem.weight)


def test_an_overflowing_scale_names_block_and_linear(make_llama):
    model = make_llama()
    decoder_blocks(model)[1].mlp.up_proj.weight.data[0, 0] = 1e7
    with pytest.raises(CompressionError, match=r"block 1 mlp.up_proj: RTN 4-bit: .* use scale_dtype: bfloat16"):
        compress_model(model, get_method("rtn", scale_dtype="float16"))


@pytest.mark.parametrize("name", ["rtn", "gptq", "awq", "spqr"])
def test_type_of_scales_is_part_of_the_identity(name):
    kinds = [get_method(name, scale_dtype=dtype) for dtype in ("float32", "float16", "bfloat16")]
    for first, second in itertools.combinations(kinds, 2):
        assert first.identity() != second.identity()
    assert get_method(name).identity() == kinds[0].identity()


def test_sparsegpt_without_a_grid_keeps_its_identity():
    assert set(get_method("sparsegpt").identity()) == {
        *("method", "version", "propagate", "true_sequential", "skip_blocks", "linears", "sparsity", "pattern"),
        *("allocation", "owl_threshold", "owl_lambda", "percdamp", "block_size", "bits", "group_size", "sym"),
    }
    assert get_method("sparsegpt", bits=4).identity()["scale_dtype"] == "float32"
    same = [get_method("sparsegpt", bits=4, **each) for each in ({}, {"scale_dtype": "float32"})]
    assert same[0].identity() == same[1].identity()


@pytest.mark.parametrize("name", ["rtn", "gptq", "awq", "sparsegpt"])
def test_reference_rule_without_symmetric_grids_is_refused(name):
    with pytest.raises(SettingsError, match=rf"{name}.sym_rule: reference needs sym: true"):
        get_method(name, bits=4, sym_rule="reference")
    assert get_method(name, bits=4, sym=True, sym_rule="reference").label.endswith("sym-reference")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale_dtype": "fp16"}, r"rtn.scale_dtype: expected 'float32', 'float16' or 'bfloat16', got 'fp16'"),
        ({"scale_dtype": 16}, r"rtn.scale_dtype: expected 'float32', 'float16' or 'bfloat16', got 16"),
        ({"sym": "reference"}, r"rtn.sym: expected boolean, got 'reference'"),
        ({"sym": True, "sym_rule": "gptq"}, r"rtn.sym_rule: expected 'usual' or 'reference', got 'gptq'"),
    ],
)
def test_other_types_and_rules_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        get_method("rtn", **values)


def test_positive_groups_after_2_4_pruning_are_rounded_no_worse_than_half_a_step(problem):
    """The reference's symmetric rule clips a group of two positive weights to 7/15 of the larger."""
    pruned = compress_linear(get_method("magnitude", pattern="2:4"), problem.weight).weight
    usual, reference = (
        compress_linear(get_method("rtn", bits=4, group_size=4, sym=True, sym_rule=rule), pruned).report.relative_error
        for rule in ("usual", "reference")
    )
    assert usual < 0.01
    assert reference > 5 * usual


@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("sym", [False, True])
def test_awq_clips_to_ranges_whose_scales_are_stored_as_they_are(scale_dtype, sym):
    # a scale that was rounded up left a level of a group clipped on both sides without weights
    entry = {"method": "awq", "bits": 3, "group_size": 32, "sym": sym}
    exact = parse_method(entry, "m")
    stored = parse_method({**entry, "scale_dtype": scale_dtype}, "m")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    sample = torch.randn(256, 128, generator=generator) * torch.linspace(0.1, 3, 128)

    def error(method):
        limit = method.clip_limits(weight, sample)[..., None]
        groups = weight.unflatten(1, (-1, 32))
        clipped = torch.maximum(torch.minimum(groups, limit), -limit)
        both = (clipped.amax(-1, keepdim=True) == limit) & (clipped.amin(-1, keepdim=True) == -limit)
        assert both.float().mean() > 0.1
        scale = 2 * limit[both] / 7
        assert method is exact or torch.equal(scale, scale.to(getattr(torch, scale_dtype)).float())
        return (sample @ (method.on_grid(clipped.flatten(1)) - weight).T).square().mean()

    assert error(stored) < 1.002 * error(exact)

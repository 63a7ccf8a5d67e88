"""The column kernels beside their plain torch twins, on one device: a CUDA device, or a CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from methods.base import compress_linear, get_method
from methods.inputs.hessian import Hessian
from methods.numerics.backend import backend_of, column_backend
from methods.numerics.blocks import GridTable, GroupPlan, blocks_of
from methods.numerics.factor import FactorSettings, inverse_factor
from methods.numerics.grids import GridRule
from methods.numerics.spqr_codes import spqr_codes

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_kernels = pytest.mark.skipif(
    not HAS_TRITON or not (INTERPRETED or torch.cuda.is_available()),
    reason="needs Triton, and a CUDA device or TRITON_INTERPRET=1",
)
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.npz") if not path.stem.startswith("wanda"))
ROWS, COLS = (48, 48) if INTERPRETED else (240, 384)

GPTQ = [
    {"bits": 4, "group_size": 16},
    {"bits": 3, "group_size": 16, "fresh_group_stats": True},
    {"bits": 3, "group_size": 48, "fresh_group_stats": True, "block_size": 40},
    {"bits": 2, "sym": True},
    {"bits": 8, "group_size": 16, "act_order": True},
    {"bits": 4, "group_size": 16, "act_order": True, "static_groups": True, "sym": True},
    {"bits": 3, "group_size": 48, "mse": True, "block_size": 40},
    {"bits": 4, "block_size": 1},
    {"bits": 3, "group_size": 16, "scale_dtype": "float16"},
    {"bits": 4, "group_size": 16, "sym": True, "sym_rule": "reference", "scale_dtype": "bfloat16"},
    {"bits": 4, "group_size": 48, "block_size": 512},
]
SPARSEGPT = [
    {"sparsity": 0.5},
    {"sparsity": 0.7, "block_size": 37},
    {"sparsity": 0.0},
    {"pattern": "2:4"},
    {"pattern": "4:8", "block_size": 16},
    {"pattern": "1:3", "block_size": 48},
    {"pattern": "8:16"},
    {"sparsity": 0.5, "block_size": 192, "bits": 4, "group_size": 16},
    {"pattern": "2:4", "block_size": 192},
    {"sparsity": 0.5, "bits": 4, "group_size": 16},
    {"pattern": "2:4", "bits": 3, "sym": True},
    {"pattern": "2:4", "bits": 4, "group_size": 16, "scale_dtype": "float16"},
]
SPQR = [
    {},
    {"bits": 3, "outlier_threshold": 0.05},
    {"outlier_threshold": None},
    {"simplified_outliers": True, "permutation": "identity"},
    {"round_zero": True},
    {"round_zero": True, "zero_bits": None, "scale_bits": None},
    {"scale_bits": None, "group_size": 24, "statistics_group": 12},
    {"zero_bits": None, "statistics_group": 2, "block_size": 16},
    {"group_size": None, "outlier_threshold": 1.0},
    {"statistics_group": 24},
    {"statistics_group": 48},
    {"block_size": 256},
    {"scale_dtype": "float16"},
    {"scale_dtype": "bfloat16", "zero_bits": None, "bits": 3},
    {"scale_dtype": "float16", "scale_bits": None, "round_zero": True},
]
RULES = {
    "asym": GridRule(3),
    "asym-fp16": GridRule(3, scale_dtype="float16"),
    "asym-bf16": GridRule(8, scale_dtype="bfloat16"),
    "sym": GridRule(3, sym=True),
    "sym-reference": GridRule(3, sym=True, sym_rule="reference"),
    "sym-fp16": GridRule(4, sym=True, scale_dtype="float16"),
    "sym-bf16": GridRule(2, sym=True, scale_dtype="bfloat16"),
}
SETTINGS = [(name, s) for name, cases in (("gptq", GPTQ), ("sparsegpt", SPARSEGPT), ("spqr", SPQR)) for s in cases]


INTERPRETED_BY_DEFAULT = (
    "test_kernel_equals_its_twin[gptq-bits=4-group_size=16]",
    "test_kernel_equals_its_twin[sparsegpt-pattern=2:4]",
    "test_kernel_equals_its_twin[sparsegpt-sparsity=0.5-bits=4-group_size=16]",
    "test_kernel_equals_its_twin[spqr-defaults]",
    "test_kernel_equals_its_twin[spqr-scale_dtype=float16]",
    "test_nan_is_not_rounded_away",
    "test_rounding_is_half_to_even",
    "test_grids_of_groups_have_the_bits_of_the_twin[3-16-asym]",
    "test_grids_of_groups_have_the_bits_of_the_twin[3-16-asym-bf16]",
    "test_grids_of_groups_have_the_bits_of_the_twin[2-33-sym]",
    "test_grids_of_groups_have_the_bits_of_the_twin[2-33-sym-fp16]",
)


def describe(value):
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items()) or "defaults"


def solve(backend, method, weight, statistic, pruned=None):
    with column_backend(backend), torch.no_grad():
        return method.compress_weight(weight, statistic, pruned=pruned)


def rows_that_differ(found, expected):
    """Mask of the rows with an entry further than 1e-5 of the row's largest from the twin's."""
    limit = 1e-5 * expected.abs().amax(1, keepdim=True).clamp_min(1e-12)
    return ((found - expected).abs() > limit).any(1)


def assert_equal_but_for_ties(found, expected, together=1):
    """A tie sends the rest of its row another way: few rows may differ, and the loss stays.

    together: rows that share statistics, and so a tie; one such group may differ beside the few rows.
    """
    assert torch.isfinite(found.weight).all()
    differ = rows_that_differ(found.weight, expected.weight)
    if together > 1 and not INTERPRETED:
        groups = differ.unflatten(0, (-1, together)).sum(1)
        differ = differ.sum() - groups.max()
    else:
        differ = differ.sum()
    assert int(differ) <= 0.015 * len(found.weight)
    assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-3)
    assert float(found.bits) == pytest.approx(float(expected.bits), rel=1e-3)


def assert_codes_give_the_weight(method, found):
    """The grids that SpQR hands over are those of its weights: no weight needs to be stored but its own outliers."""
    codes = spqr_codes(found.weight, found.fitted, method.rule)
    assert torch.equal(codes.weight(), found.weight)
    assert len(codes.places) <= float(found.outlier_share) * found.weight.numel() + 0.5


@pytest.fixture(autouse=True)
def one_program_does_a_test_in_the_interpreter(monkeypatch):
    if INTERPRETED and HAS_TRITON:
        from methods.kernels.strips import LAUNCH, Launch

        for name in LAUNCH:
            monkeypatch.setitem(LAUNCH, name, Launch(64, 1))


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture
def layer(make_problem):
    """(weight, statistic) of one linear on the device."""

    def make(rows=ROWS, cols=COLS, windows=4, length=160, seed=0):
        problem = make_problem(rows, cols, windows, length, seed)
        statistic = Hessian(cols, DEVICE)
        for window in problem.inputs:
            statistic.update(window)
        return problem.weight, statistic

    return make


def test_kernels_equal_their_twins_in_the_interpreter(in_interpreter):
    in_interpreter(*INTERPRETED_BY_DEFAULT)


@pytest.mark.gpu
@needs_kernels
def test_a_cuda_device_runs_the_kernels():
    with column_backend("triton" if INTERPRETED else "auto"):
        assert backend_of(torch.zeros(1, device=DEVICE)).startswith("triton 3")


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=describe)
def test_kernel_equals_its_twin(layer, name, settings):
    weight, statistic = layer()
    method = get_method(name, **settings)
    expected = solve("torch", method, weight, statistic)
    found = solve("triton", method, weight, statistic)
    assert_equal_but_for_ties(found, expected, getattr(method, "statistics_group", 1))
    if expected.outlier_share is not None:
        assert float(found.outlier_share) == pytest.approx(float(expected.outlier_share), rel=0.02, abs=1e-4)
        assert_codes_give_the_weight(method, found)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gptq", {}),
        ("gptq", {"bits": 3, "group_size": 16, "act_order": True, "static_groups": True}),
        ("gptq", {"bits": 3, "group_size": 16, "fresh_group_stats": True}),
        ("sparsegpt", {}),
        ("sparsegpt", {"sparsity": 0.0, "bits": 4}),
        ("sparsegpt", {"pattern": "2:4", "bits": 4, "group_size": 16}),
        ("spqr", {}),
    ],
    ids=describe,
)
def test_pruned_weights_stay_zero(layer, name, settings):
    weight, statistic = layer(cols=64 if INTERPRETED else 256)
    pruned = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE) < 0.6
    method = get_method(name, **settings)
    expected = solve("torch", method, weight, statistic, pruned)
    found = solve("triton", method, weight, statistic, pruned)
    assert not found.weight[pruned].any()
    assert_equal_but_for_ties(found, expected, getattr(method, "statistics_group", 1))


@pytest.mark.gpu
@needs_kernels
def test_pruned_weights_go_first_in_a_pattern(layer):
    weight, statistic = layer(cols=64)
    pruned = torch.zeros(weight.shape, dtype=torch.bool, device=DEVICE)
    pruned[:, ::4] = True
    method = get_method("sparsegpt", pattern="2:4")
    found = solve("triton", method, weight, statistic, pruned)
    assert not found.weight[pruned].any()
    assert (found.weight == 0).sum().item() == weight.numel() // 2
    assert_equal_but_for_ties(found, solve("torch", method, weight, statistic, pruned))


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (7, 33), (17, 130)])
def test_shapes_that_fill_no_tile(layer, rows, cols):
    weight, statistic = layer(rows, cols)
    for name, settings in (
        ("gptq", {"bits": 3}),
        ("sparsegpt", {}),
        ("spqr", {"group_size": cols, "scale_bits": None}),
    ):
        method = get_method(name, **settings | ({"zero_bits": None} if name == "spqr" else {}))
        found = solve("triton", method, weight, statistic)
        assert torch.allclose(found.weight, solve("torch", method, weight, statistic).weight, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_kernels
def test_groups_wider_than_a_launch(layer):
    weight, statistic = layer(8 if INTERPRETED else 64, 288)
    for name, settings in (
        ("sparsegpt", {"pattern": "72:144", "block_size": 144}),
        ("spqr", {"group_size": 144, "statistics_group": 8}),
        ("gptq", {"group_size": 144, "block_size": 288}),
    ):
        method = get_method(name, **settings)
        assert_equal_but_for_ties(solve("triton", method, weight, statistic), solve("torch", method, weight, statistic))


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("group", [2, 8, 32, 64, 128])
def test_spqr_groups_narrower_and_wider_than_a_strip(layer, group):
    weight, statistic = layer(16 if INTERPRETED else 64, 256)
    method = get_method("spqr", group_size=group, scale_bits=None, zero_bits=None)
    found = solve("triton", method, weight, statistic)
    assert_equal_but_for_ties(found, solve("torch", method, weight, statistic))
    assert_codes_give_the_weight(method, found)


@pytest.mark.gpu
@needs_kernels
def test_statistics_over_more_rows_than_a_program_holds(layer):
    weight, statistic = layer(96, 32)
    method = get_method("spqr", statistics_group=96)
    found = solve("triton", method, weight, statistic)
    assert_equal_but_for_ties(found, solve("torch", method, weight, statistic))
    assert_codes_give_the_weight(method, found)


@pytest.mark.gpu
@needs_kernels
def test_stacked_linears_get_their_own_masks_and_thresholds(layer):
    first, statistic = layer(64, 32)
    second = first.flip(0)[:48] * 3
    for name in ("gptq", "sparsegpt", "spqr"):
        method = get_method(name)
        with column_backend("triton"):
            together = method.compress_weights([first, second], statistic)
        alone = [solve("torch", method, weight, statistic) for weight in (first, second)]
        for found, expected in zip(together, alone, strict=True):
            assert rows_that_differ(found.weight, expected.weight).double().mean() <= 0.04


def one_block(weights, upper):
    """`weights` [n, rows] as the only block of a stack."""
    results = torch.empty_like(weights), torch.zeros(weights.shape[1], device=DEVICE)
    return next(blocks_of(weights, upper, *results, [(0, weights.shape[0])]))


def integers(block, low, high):
    """Grids of whole numbers for every row of `block`."""
    ones = torch.ones_like(block[:1])
    return GridTable(ones, low * ones, high * ones, torch.zeros(block.shape[0], dtype=torch.long, device=DEVICE))


@pytest.mark.gpu
@needs_kernels
def test_nan_is_not_rounded_away():
    from methods.kernels import columns

    weights = torch.ones(16, 4, device=DEVICE)
    weights[3, 2] = float("nan")
    upper = torch.triu(torch.full((16, 16), 0.1, device=DEVICE)) + torch.eye(16, device=DEVICE)
    block = one_block(weights.clone(), upper)
    errors = columns.quantize_block(block, integers(weights, -1, 1), None)
    assert block.values[3:, 2].isnan().all()
    assert errors[3:, 2].isnan().all()
    assert torch.equal(block.loss.isnan().cpu(), torch.tensor([False, False, True, False]))
    assert torch.isfinite(block.values[:, :2]).all()


@pytest.mark.gpu
@needs_kernels
def test_rounding_is_half_to_even():
    from methods.kernels import columns

    weights = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.49999976, -100.0], device=DEVICE)[None]
    block = one_block(weights.clone(), torch.ones(1, 1, device=DEVICE))
    columns.quantize_block(block, integers(weights, -8, 7), None)
    expected = torch.tensor([-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 2.0, -8.0], device=DEVICE)
    assert torch.equal(block.values[0], expected)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("groups", "size"), [(1, 1), (3, 16), (2, 33), (1, 200)])
def test_grids_of_groups_have_the_bits_of_the_twin(groups, size, rule):
    from methods.kernels import columns
    from methods.numerics import columns as twin

    rows = 70
    weights = torch.randn(groups, size, rows, generator=torch.Generator().manual_seed(size)).to(DEVICE)
    weights[..., 1], weights[..., 2], weights[..., 3], weights[..., 4] = 0, 0.5, -0.25, weights[..., 4].abs()
    for row, size_of_weights in enumerate((1e-5, 1e-6, 1e-7, 1e-9, 1e-37, 1e4), start=5):
        weights[..., row] *= size_of_weights
    plan = GroupPlan(RULES[rule], size, fresh=False)
    tables = []
    for module in (twin, columns):
        tables.append(GridTable(*torch.full((3, groups, rows), torch.nan, device=DEVICE), None))
        module.fit_groups(weights, plan, tables[-1])
    for name in ("scale", "low", "high"):
        assert torch.equal(getattr(tables[0], name), getattr(tables[1], name)), name


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("case", CASES[::6] if INTERPRETED else CASES)
def test_kernel_reproduces_the_original_code(load_golden, case):
    golden = load_golden(case)
    weight, inputs = golden.problem.weight, golden.problem.inputs
    with column_backend("triton"):
        found = compress_linear(get_method(golden.method, **golden.settings), weight, inputs).weight
    equal = ((found - golden.expected).abs() <= 1e-4 * golden.expected.abs().clamp(min=1e-3)).double().mean().item()
    mask = ((found == 0) == (golden.expected == 0)).double().mean().item()
    assert equal >= 0.999
    assert mask >= 0.999
    assert golden.problem.output_error(found) == pytest.approx(golden.problem.output_error(golden.expected), rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_hessian_of_16_bit_inputs_is_within_1e_5_of_float64():
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(8, 2048, 768, generator=generator) * 2 + 0.5).to(torch.bfloat16)
    statistic = Hessian(768, "cuda")
    statistic.update(inputs.reshape(-1, 768).cuda(), windows=8)
    exact = inputs.reshape(-1, 768).double()
    exact = 2 / 8 * exact.T @ exact
    error = (statistic.hessian.cpu().double() - exact).norm() / exact.norm()
    assert error <= 1e-5
    assert torch.equal(statistic.hessian, statistic.hessian.T)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("act_order", [False, True])
def test_factor_on_the_device_is_that_of_the_cpu(layer, act_order):
    _, statistic = layer(cols=512, length=320)
    found = inverse_factor(statistic.hessian, FactorSettings(0.01, act_order=act_order))
    expected = inverse_factor(statistic.hessian.cpu().double(), FactorSettings(0.01, act_order=act_order))
    assert found.retries == expected.retries == 0
    assert (found.upper.cpu() - expected.upper).abs().max() <= 1e-3 * expected.upper.abs().max()

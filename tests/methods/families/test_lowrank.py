from __future__ import annotations

import math

import pytest
import torch

from calib.settings import SettingsError
from methods.base import CompressionError, compress_linear, get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.families.lowrank import SMALLEST_KEPT, gram_factors, truncated


def full_rank(rows: int, cols: int) -> float:
    """The ratio at which the rank formula reaches min(rows, cols)."""
    return min((min(rows, cols) + 0.5) * (rows + cols) / (rows * cols), 1.0)


def with_values(rows: int, cols: int, singular: torch.Tensor) -> torch.Tensor:
    """A random float64 matrix [rows, cols] of these singular values, where they are."""
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(n, len(singular), generator=generator, dtype=torch.float64))[0].to(singular.device)
        for n in (rows, cols)
    )
    return left * singular @ right.T


def falling(smallest: float, count: int, device: str) -> torch.Tensor:
    """Singular values from 1 to `smallest`, each the same share of the one before."""
    return torch.logspace(0, math.log10(smallest), count, dtype=torch.float64, device=device)


def test_rank_follows_the_parameter_ratio(problem):
    result = compress_linear(get_method("svd", ratio=0.5), problem.weight)
    assert result.report.rank == int(0.5 * 24 * 64 / 88)
    left, right = result.compressed.factors
    assert left.numel() + right.numel() <= 0.5 * problem.weight.numel()
    assert result.report.bits == pytest.approx(16 * result.report.rank * 88 / (24 * 64))
    assert torch.allclose(left @ right, result.weight)


SHAPES = pytest.mark.parametrize(("rows", "cols"), [(96, 40), (40, 96), (40, 40)])


@SHAPES
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-7), (torch.float64, 1e-11)])
def test_truncation_equals_the_float64_decomposition(rows, cols, dtype, atol, device):
    matrix = with_values(rows, cols, falling(1e-4, 40, device)).to(dtype)
    left, singular, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    ours = truncated(matrix, 30)
    assert [factor.dtype for factor in ours] == [dtype, dtype]
    expected = left[:, :30] * singular[:30] @ right[:30]
    assert torch.allclose(ours[0].double() @ ours[1].double(), expected, rtol=0, atol=atol)


@SHAPES
@pytest.mark.parametrize("smallest", [1e-4, 1e-8])  # by the Gram matrix, by the full decomposition
def test_factors_share_the_singular_values_evenly_and_in_falling_order(rows, cols, smallest, device):
    singular = falling(smallest, 40, device)
    left, right = truncated(with_values(rows, cols, singular), 30)
    for gram in (left.T @ left, right @ right.T):
        assert torch.allclose(gram, singular[:30].diag(), rtol=1e-6, atol=1e-11)


@SHAPES
def test_gram_matrix_keeps_to_its_bound_up_to_the_smallest_value_it_may_keep(rows, cols, device):
    singular = falling(1.1 * SMALLEST_KEPT, 35, device)
    singular = torch.cat([singular, singular[-1:].expand(5) * 0.999])  # hardly a gap
    matrix = with_values(rows, cols, singular)
    factors = gram_factors(matrix, 35)
    assert factors is not None
    excess = (matrix - factors[0] @ factors[1]).square().sum() - singular[35:].square().sum()
    assert abs(excess.item()) <= 2 * 35 * 1e-14
    values = factors[1].square().sum(1)
    assert ((values / singular[:35] - 1).abs() <= 1e-14 / 2 / singular[:35].square() + 1e-12).all()


@SHAPES
@pytest.mark.parametrize("smallest", [0.9e-5, 1e-9, 0.0], ids=["under-the-share", "tiny", "rank-deficient"])
def test_values_too_small_to_be_squared_take_the_full_decomposition(rows, cols, smallest, device):
    singular = falling(0.1, 40, device)
    singular[20:] = smallest
    matrix = with_values(rows, cols, singular)
    assert gram_factors(matrix, 20) is not None
    assert gram_factors(matrix, 30) is None
    left, right = truncated(matrix, 30)
    assert torch.allclose((matrix - left @ right).norm(), singular[30:].norm(), rtol=1e-5, atol=1e-13)
    assert torch.allclose(left.square().sum(0), singular[:30], rtol=1e-5, atol=1e-14)


def test_weight_of_zeros_stays_zero(device):
    left, right = truncated(torch.zeros(24, 16, device=device), 5)
    assert not left.any()
    assert not right.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weight_that_is_not_finite_fails(problem, value):
    problem.weight[3, 5] = value
    with pytest.raises(CompressionError, match="the matrix to decompose holds NaN or infinity"):
        compress_linear(get_method("svd"), problem.weight)


def test_full_rank_reproduces_the_weight(make_problem):
    tall = make_problem(rows=200, cols=8)  # rank min(rows, cols) fits into a ratio of one only for tall or wide shapes
    for name in ("svd", "svd_llm", "asvd", "joint_svd"):
        method = get_method(name, ratio=1.0)
        assert method.rank(200, 8) == 7
        wide = type(method)(ratio=1.0)
        object.__setattr__(wide, "ratio", full_rank(200, 8) * 1.2)  # beyond what people may ask for
        result = compress_linear(wide, tall.weight, tall.inputs)
        assert result.report.rank == 8
        assert torch.allclose(result.weight, tall.weight, atol=1e-4)


@pytest.mark.parametrize("name", ["svd", "asvd", "svd_llm", "fwsvd", "joint_svd"])
def test_linears_really_hold_two_factors_and_keep_their_bias(make_llama, tokens, name, device):
    model = make_llama(attention_bias=True)
    bias = decoder_blocks(model)[0].self_attn.q_proj.bias
    before = sum(p.numel() for p in model.parameters())
    report = compress_model(model, get_method(name, ratio=0.5), tokens)
    q_proj = decoder_blocks(model)[0].self_attn.q_proj
    assert len(q_proj) == 2
    assert q_proj[1].bias is bias
    assert q_proj[0].bias is None
    assert sum(p.numel() for p in model.parameters()) < before
    assert torch.isfinite(model(torch.as_tensor(tokens, device=device).long()).logits).all()
    assert report.average_bits <= 8


def test_ratio_that_leaves_no_rank_is_refused_before_any_work(make_llama):
    with pytest.raises(SettingsError, match=r"ratio: 0.01 leaves no rank for 32 x 32 .block 0 self_attn.q_proj"):
        compress_model(make_llama(), get_method("svd", ratio=0.01), None)


def test_low_rank_after_pruning_is_refused():
    from methods.base import parse_method

    with pytest.raises(SettingsError, match="'svd' after 'wanda' would undo the pruning"):
        parse_method(["wanda", "svd"], "methods[0]")


def test_quantizing_the_factors_counts_bits_per_dense_weight(make_llama, tokens):
    from methods.base import parse_method

    model = make_llama()
    method = parse_method([{"method": "svd_llm", "ratio": 0.5}, {"method": "rtn", "bits": 8}], "m")
    report = compress_model(model, method, tokens)
    assert report.average_bits < 0.5 * 8 * 1.5
    assert {layer.linear for layer in report.final} >= {"mlp.up_proj.0", "mlp.up_proj.1"}
    assert "mlp.up_proj" not in {layer.linear for layer in report.final}


def test_one_matrix_cannot_hold_the_factors_for_a_later_step(problem):
    method = parse_method(["svd", {"method": "rtn", "group_size": None}], "m")
    with pytest.raises(SettingsError, match="svd: leaves two factors, and a later step takes one matrix"):
        compress_linear(method, problem.weight)
    quantized_first = parse_method([{"method": "rtn", "group_size": None}, "svd"], "m")
    assert compress_linear(quantized_first, problem.weight).report.rank

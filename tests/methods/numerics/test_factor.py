from __future__ import annotations

import pytest
import torch

from methods.base import CompressionError
from methods.numerics.factor import (
    DAMPING_STEPS,
    SMALLEST_RAISED,
    FactorSettings,
    all_finite,
    inverse_factor,
    inverse_factors,
    invert_by_halves,
)


def hessian_of(inputs: torch.Tensor) -> torch.Tensor:
    flat = inputs.reshape(-1, inputs.shape[-1])
    return 2.0 / inputs.shape[0] * flat.T @ flat


def three_steps(hessian: torch.Tensor) -> torch.Tensor:
    """The reference's way: Cholesky, inverse, upper Cholesky of the inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse).mH


def test_factor_equals_cholesky_inverse_cholesky(problem):
    hessian = hessian_of(problem.inputs)
    damped = hessian.double() + 0.01 * hessian.diagonal().double().mean() * torch.eye(64, device=hessian.device)
    factor = inverse_factor(hessian, FactorSettings(0.01))
    assert torch.allclose(factor.upper.double(), three_steps(damped), rtol=1e-3, atol=1e-4)
    assert torch.equal(factor.upper, factor.upper.triu())


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("damp_dead", [False, True])
def test_factors_of_several_hessians_are_those_of_each(make_problem, act_order, damp_dead):
    problems = [make_problem(seed=seed) for seed in range(3)]
    problems[1].inputs[..., [3, 17]] = 0
    hessians = [hessian_of(problem.inputs) for problem in problems]
    hessians.append(hessians[0] - 2 * hessians[0].diagonal().mean() * torch.eye(64, device=hessians[0].device))
    settings = FactorSettings(0.01, act_order=act_order, damp_dead=damp_dead)
    *found, hopeless = inverse_factors(hessians, settings)
    assert hopeless is None  # and left to the steps of a single one
    for factor, hessian in zip(found, hessians, strict=False):
        expected = inverse_factor(hessian, settings)
        assert torch.allclose(factor.upper, expected.upper, rtol=1e-4, atol=1e-5)
        assert torch.equal(factor.dead, expected.dead)
        assert (factor.order is None) == (not act_order)
        assert not act_order or torch.equal(factor.order, expected.order)
        assert (factor.damping, factor.retries, factor.fallback) == (0.01, 0, None)


@pytest.mark.parametrize("size", [1, 16, 100, 257])
def test_an_inverse_by_halves_is_that_of_a_triangular_solve(size, device):
    lower = torch.randn(size, size, generator=torch.Generator().manual_seed(size)).tril() / size
    lower += torch.eye(size)
    expected = torch.linalg.inv(lower.double())
    for matrix in (lower.clone().to(device), lower.T.contiguous().to(device).T):
        found = invert_by_halves(matrix, smallest=16)
        assert found.data_ptr() == matrix.data_ptr()
        assert torch.allclose(found.cpu().double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found, found.tril())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_factor_takes_one_matrix_and_a_quarter_beside_its_result():
    size = 4096
    hessian = torch.eye(size, device="cuda") + 0.5
    inverse_factor(hessian, FactorSettings(0.01))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    inverse_factor(hessian, FactorSettings(0.01))
    assert torch.cuda.max_memory_allocated() - before <= 2.1 * hessian.nbytes


def test_factor_follows_optimal_brain_surgery_step_by_step(make_problem):
    hessian = hessian_of(make_problem(cols=20).inputs)
    factor = inverse_factor(hessian, FactorSettings(0.01)).upper.double()
    inverse = torch.linalg.inv(
        hessian.double() + 0.01 * hessian.diagonal().double().mean() * torch.eye(20, device=hessian.device)
    )
    for i in range(20):  # eliminating input i from the inverse leaves the inverse of what remains
        assert float(factor[i, i]) ** 2 == pytest.approx(inverse[i, i].item(), rel=1e-3)
        assert torch.allclose(factor[i, i:] / factor[i, i], inverse[i, i:] / inverse[i, i], rtol=1e-3, atol=1e-4)
        inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]


def test_dead_inputs_are_found_and_enter_the_mean_with_one(problem):
    problem.inputs[:, :, [3, 17]] = 0
    factor = inverse_factor(hessian_of(problem.inputs), FactorSettings(0.01))
    assert factor.dead.nonzero().flatten().tolist() == [3, 17]
    assert factor.upper[3, 4:].abs().max() == 0


def test_act_order_sorts_by_falling_diagonal_and_equal_ones_by_index():
    hessian = torch.diag(torch.tensor([1.0, 5.0, 1.0, 5.0, 0.0]))
    assert inverse_factor(hessian, FactorSettings(0.01, act_order=True)).order.tolist() == [1, 3, 0, 2, 4]


def test_damping_is_raised_in_recorded_steps():
    vector = torch.ones(8, 1)
    hessian = vector @ vector.T - 0.004 * torch.eye(8)  # not positive definite until damping exceeds 0.004
    factor = inverse_factor(hessian, FactorSettings(0.001))
    assert factor.retries == 2
    assert factor.damping == pytest.approx(0.01)
    assert factor.fallback == "damping raised to 0.01"


def test_zero_damping_on_a_singular_hessian_is_raised_from_a_floor(make_problem):
    factor = inverse_factor(torch.ones(64, 64), FactorSettings(0.0))
    assert factor.damping == pytest.approx(SMALLEST_RAISED * DAMPING_STEPS[factor.retries])
    assert factor.retries >= 1


def test_float64_is_tried_and_recorded_before_failing(monkeypatch):
    import methods.numerics.factor as solver

    plain = solver.upper_inverse
    monkeypatch.setattr(solver, "upper_inverse", lambda m: plain(m) if m.dtype == torch.float64 else None)
    factor = solver.inverse_factor(torch.eye(4), FactorSettings(0.01))
    assert factor.retries == len(DAMPING_STEPS)
    assert "float64" in factor.fallback
    assert factor.upper.dtype == torch.float32


def test_hopeless_hessian_fails_instead_of_becoming_the_identity():
    with pytest.raises(CompressionError, match="could not be factorized"):
        inverse_factor(-torch.eye(4) * 5 + 1, FactorSettings(0.01))


def test_one_window_with_fewer_tokens_than_inputs_is_solved_by_damping(make_problem):
    few = make_problem(cols=64, windows=1, length=10)
    factor = inverse_factor(hessian_of(few.inputs), FactorSettings(0.01))
    assert factor.retries == 0
    assert torch.isfinite(factor.upper).all()


def test_reduced_precision_products_are_off_while_factoring():
    from methods.numerics.precision import full_precision

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_entry_that_is_not_finite_is_found(dtype):
    values = torch.randn(70, 33).to(dtype)
    assert bool(all_finite(values))
    assert bool(all_finite(torch.full((3, 3), torch.finfo(dtype).max, dtype=dtype)))
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoilt = values.clone()
        spoilt[41, 7] = bad
        assert not bool(all_finite(spoilt)), bad
        assert not bool(all_finite(spoilt.T)), bad


def test_restoring_undoes_the_order_of_the_factor(problem):
    flat = problem.inputs.reshape(-1, 64)
    factor = inverse_factor(flat.T @ flat, FactorSettings(0.01, act_order=True))
    columns = problem.weight.T.contiguous()
    assert torch.equal(factor.ordered(columns), columns[factor.order])
    assert torch.equal(factor.restored(factor.ordered(columns)), columns)

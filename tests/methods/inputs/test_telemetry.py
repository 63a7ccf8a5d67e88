from __future__ import annotations

import dataclasses

import pytest
import torch

from methods.inputs.hessian import Hessian
from methods.inputs.telemetry import Replacement, check_weights, measured
from methods.outcome import CompressedWeight, CompressionError, LayerReport


def replaced(dense, stored, name="q", **found):
    return Replacement(name, dense, stored, CompressedWeight(stored, **found))


def test_error_is_that_of_the_outputs_and_zeros_are_counted(problem, device):
    inputs = problem.inputs.reshape(-1, 64)
    statistic = Hessian(64, device)
    statistic.update(inputs)
    stored = problem.weight.masked_fill(problem.weight.abs() < 0.05, 0)
    found = measured([replaced(problem.weight, stored, bits=3.5, retries=1)], statistic)["q"]
    assert found.relative_error == pytest.approx(problem.output_error(stored), rel=1e-4)
    assert found.sparsity == pytest.approx(float((stored == 0).double().mean()))
    assert (found.rows, found.cols, found.bits, found.retries, found.tokens) == (24, 64, 3.5, 1, 160)


def test_without_a_statistic_the_error_is_that_of_the_weights():
    found = measured([replaced(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]]))], None)["q"]
    assert found.relative_error == pytest.approx(16 / 25)
    assert found.tokens == 0


def test_numbers_that_wait_on_the_device_are_read_together():
    weight = torch.ones(2, 2)
    found = measured(
        [
            replaced(weight, weight, "q", bits=torch.tensor(4.25), dead_columns=torch.tensor(1)),
            replaced(weight, weight, "k", outlier_share=torch.tensor(0.5)),
        ],
        None,
    )
    assert (found["q"].bits, found["q"].dead_columns, found["k"].outlier_share) == (4.25, 1, 0.5)
    assert type(found["q"].dead_columns) is int


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_dense_or_stored_weight_that_is_not_finite_fails_by_name(value):
    fine, spoiled = torch.ones(2, 2), torch.tensor([[1.0, value], [1.0, 1.0]])
    with pytest.raises(CompressionError, match="^k: the dense weight holds NaN or infinity$"):
        measured([replaced(fine, fine, "q"), replaced(spoiled, fine, "k")], None)
    with pytest.raises(CompressionError, match="^q: the compressed weight holds NaN or infinity$"):
        measured([replaced(fine, spoiled, "q"), replaced(fine, fine, "k")], None)
    with pytest.raises(CompressionError, match="^the dense weight holds NaN or infinity$"):
        measured([replaced(spoiled, fine)], None)


def test_the_first_weight_that_is_not_finite_is_named():
    fine, spoiled = torch.ones(2, 2), torch.full((2, 2), float("nan"))
    check_weights({})
    check_weights({"q": fine, "k": fine})
    with pytest.raises(CompressionError, match="^k: the dense weight holds NaN or infinity$"):
        check_weights({"q": fine, "k": spoiled, "v": spoiled})


def test_a_report_is_its_measurement_with_place_and_time_and_stays_as_it_is():
    found = measured([replaced(torch.ones(2, 3), torch.ones(2, 3))], None)["q"]
    report = LayerReport.of(found, step=1, block=2, linear="q", seconds=0.5)
    assert {**report.as_row()} == {**dataclasses.asdict(found), "step": 1, "block": 2, "linear": "q", "seconds": 0.5}
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.linear = "k"

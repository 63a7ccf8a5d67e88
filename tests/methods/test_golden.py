"""The methods against the original research code: entries, masks, output error and the statistics themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods.base import compress_linear, get_method
from methods.inputs.collect import collect

CASES = sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "golden").glob("*.npz"))


def test_every_golden_file_is_here():
    assert len(CASES) == 18


@pytest.mark.parametrize("case", CASES)
def test_result_equals_the_original(case, load_golden, capsys):
    golden = load_golden(case)
    result = compress_linear(get_method(golden.method, **golden.settings), golden.problem.weight, golden.problem.inputs)
    tolerance = 1e-4 * golden.expected.abs().clamp(min=1e-3)
    equal = ((result.weight - golden.expected).abs() <= tolerance).double().mean().item()
    mask = ((result.weight == 0) == (golden.expected == 0)).double().mean().item()
    theirs = golden.problem.output_error(golden.expected)
    ours = golden.problem.output_error(result.weight)
    with capsys.disabled():
        print(
            f"\n  {case}: {100 * equal:.3f} % equal, masks {100 * mask:.3f} %, error {ours:.6f} ({theirs:.6f})", end=""
        )
    assert equal >= 0.999
    assert mask >= 0.999
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert result.report.fallback is None


@pytest.mark.parametrize("case", CASES)
def test_statistic_equals_the_original(case, load_golden):
    golden = load_golden(case)
    statistic = collect(get_method(golden.method, **golden.settings), golden.problem.inputs, golden.problem.weight)
    if "hessian" in golden.arrays:
        expected, got = torch.from_numpy(golden.arrays["hessian"]), statistic.hessian.cpu()
    else:
        expected, got = torch.from_numpy(golden.arrays["scaler_row"]), statistic.squared_norms.cpu()
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_reported_error_is_the_layers_output_error(load_golden):
    golden = load_golden("gptq_b4_g32")
    result = compress_linear(get_method("gptq", **golden.settings), golden.problem.weight, golden.problem.inputs)
    assert result.report.relative_error == pytest.approx(golden.problem.output_error(result.weight), rel=1e-3)

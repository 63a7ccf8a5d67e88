from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method


def test_svd_is_the_best_approximation_of_its_rank(problem):
    result = compress_linear(get_method("svd", ratio=0.5), problem.weight)
    singular = torch.linalg.svdvals(problem.weight.double())
    assert (problem.weight - result.weight).norm().item() ** 2 == pytest.approx(
        singular[result.report.rank :].square().sum().item(), rel=1e-4
    )


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5])
def test_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(SettingsError, match=r"svd.ratio: expected more than 0.* and at most 1.*, got"):
        get_method("svd", ratio=ratio)

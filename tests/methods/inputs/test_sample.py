from __future__ import annotations

import pytest
import torch

from methods.base import compress_linear, get_method
from methods.inputs.norms import FeatureNorms


def test_wandas_error_comes_from_a_fixed_sample_close_to_all_inputs(make_problem):
    large = make_problem(windows=16, length=128)
    result = compress_linear(get_method("wanda"), large.weight, large.inputs)
    assert result.report.relative_error == pytest.approx(large.output_error(result.weight), rel=0.1)
    again = compress_linear(get_method("wanda"), large.weight, large.inputs)
    assert again.report.relative_error == result.report.relative_error


@pytest.mark.parametrize(("windows", "length"), [(16, 96), (6, 100), (5, 7), (300, 40), (2, 3000)])
def test_the_sample_depends_on_the_tokens_and_not_on_batches(windows, length):
    inputs = torch.arange(windows * length, dtype=torch.float32)[:, None].expand(-1, 3)

    def sampled(batches):
        statistic = FeatureNorms(3)
        for part in batches:
            statistic.update(part, windows // len(batches))
        return statistic.sample()[:, 0]

    whole, one_by_one = sampled([inputs]), sampled(inputs.split(length))
    assert torch.equal(whole, one_by_one)
    assert min(16 * windows, windows * length, 1024) <= len(whole) <= min(2 * 16 * windows, 2048)
    assert len(set(whole.diff().tolist())) == 1  # evenly spaced
    assert whole[0] == 0
    assert whole[-1] >= windows * length - 2 * length

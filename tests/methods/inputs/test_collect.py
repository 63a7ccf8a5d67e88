from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method
from methods.inputs.collect import collect
from methods.inputs.hessian import Hessian
from methods.inputs.structure import Structure


def test_inputs_of_the_wrong_width_are_refused(problem):
    with pytest.raises(SettingsError, match=r"\(4, 40, 64\) do not fit a weight of shape \(24, 32\)"):
        compress_linear(get_method("gptq"), problem.weight[:, :32], problem.inputs)
    with pytest.raises(SettingsError, match="needs inputs"):
        compress_linear(get_method("wanda"), problem.weight)


def test_a_method_gets_the_statistic_that_it_names(problem):
    found = collect(get_method("gptq"), problem.inputs, problem.weight)
    assert type(found) is Hessian
    assert (found.windows, found.tokens) == (4, 160)
    assert type(collect(get_method("joint_svd"), None, problem.weight)) is Structure


def test_a_window_alone_needs_no_axis_for_windows(problem):
    window = collect(get_method("wanda"), problem.inputs[0], problem.weight)
    assert torch.equal(
        window.squared_norms, collect(get_method("wanda"), problem.inputs[:1], problem.weight).squared_norms
    )


def test_statistic_for_one_matrix_needs_a_model_only_for_fisher(problem):
    assert collect(get_method("svd"), None, problem.weight) is None
    with pytest.raises(SettingsError, match="fwsvd: needs a whole model"):
        compress_linear(get_method("fwsvd"), problem.weight, problem.inputs)

from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method, parse_method
from methods.blockwise import compress_model
from methods.walk.checks import linear_shapes
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of
from methods.walk.shapes import LinearShape, shapes_after


def found_in(model):
    return [[(t.name, *t.weight.shape) for t in linears_of(block)] for block in decoder_blocks(model)]


@pytest.mark.parametrize(
    "steps",
    [
        ["svd", "rtn"],
        ["joint_svd", "rtn"],
        ["svd", {"method": "joint_svd", "ratio": 0.5}],
        [{"method": "joint_svd", "ratio": 0.5, "linears": ["*q_proj", "*v_proj", "mlp.*"]}, "joint_svd"],
        [{"method": "svd", "ratio": 0.07, "linears": ["self_attn.q_proj"]}, "rtn"],  # a rank of one
    ],
    ids=str,
)
def test_shapes_are_foreseen_as_they_come_about(make_llama, steps):
    model = make_llama()
    method = parse_method(steps, "method")
    with torch.no_grad():
        shapes = linear_shapes(model, decoder_blocks(model), by_input=True)
    for step in method.steps:
        shapes = [shapes_after(step, linears) for linears in shapes]
    compress_model(model, method)
    assert [[(t.name, t.rows, t.cols) for t in linears] for linears in shapes] == found_in(model)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"method": "svd", "ratio": 0.5},
            {"method": "rtn", "group_size": 16},
            r"group_size: 16 does not divide the 8 inputs of block 0 self_attn.q_proj.1 \(a factor, 32 x 8\); use null "
            r"\(one grid a row\) or a divisor such as 2, 4, 8; or give 'svd' another ratio, or leave that factor out",
        ),
        (
            {"method": "joint_svd", "ratio": 0.5},  # of q, k and v together: a rank of 10, alone it were 8
            {"method": "rtn", "group_size": 4},
            r"does not divide the 10 inputs of block 0 self_attn.q_proj.1 \(a factor, 32 x 10\).* give 'joint_svd'",
        ),
        (
            {"method": "svd", "ratio": 0.55, "linears": ["*down_proj"]},
            {"method": "wanda", "pattern": "2:4"},
            r"do not divide the 11 inputs of block 0 mlp.down_proj.1 \(a factor, 32 x 11\)",
        ),
        (
            {"method": "svd", "ratio": 0.5, "skip_blocks": [0]},
            {"method": "spqr", "statistics_group": 16, "zero_bits": None},
            r"statistics_group: 16 does not divide the 8 outputs of block 1 self_attn.q_proj.0 \(a factor, 8 x 32\)",
        ),
        ("svd", {"method": "rtn", "linears": ["*q_proj"]}, r"'\*q_proj' matches no linear.*self_attn.q_proj.0"),
    ],
)
def test_a_step_that_does_not_fit_the_factors_is_refused_before_any_work(make_llama, tokens, first, second, message):
    model = make_llama()
    before = found_in(model)
    done = []
    with pytest.raises(SettingsError, match=message):
        compress_model(model, parse_method([first, second], "method"), tokens, progress=lambda *at: done.append(at))
    assert found_in(model) == before
    assert not done


def test_factors_can_be_chosen_by_name(make_llama):
    model = make_llama()
    grid = {"method": "rtn", "group_size": 16, "linears": ["*", "!*.1"]}  # the first factors have the dense inputs
    report = compress_model(model, parse_method([{"method": "svd", "ratio": 0.5}, grid], "method"))
    assert {layer.linear.rpartition(".")[2] for layer in report.layers if layer.step == 1} == {"0"}


def test_experts_stay_whole():
    expert = LinearShape("mlp.experts.up_proj.0", 64, 32, "block 0 {}", splits=False)
    assert shapes_after(get_method("svd"), [expert]) == [expert]


def test_factors_of_a_shared_input_are_not_foreseen_where_sharing_is_unknown():
    linear = LinearShape("self_attn.q_proj", 32, 32, "{} of tiny")
    assert shapes_after(get_method("joint_svd"), [linear]) == []
    assert [t.where for t in shapes_after(get_method("svd"), [linear])] == [
        "self_attn.q_proj.0 of tiny",
        "self_attn.q_proj.1 of tiny",
    ]


def test_every_step_is_checked_before_one_matrix_is_touched(problem, monkeypatch):
    method = parse_method(["svd", {"method": "rtn", "group_size": 48}], "method")
    monkeypatch.setattr(type(method.steps[0]), "compress_weight", lambda *_, **__: pytest.fail("the first step ran"))
    with pytest.raises(SettingsError, match="group_size: 48 does not divide the 64 inputs"):
        compress_linear(method, problem.weight)

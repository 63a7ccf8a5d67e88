"""What a method sees of the dense model before its walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from methods.base import get_method
from methods.inputs.norms import FeatureNorms
from methods.walk.batches import Data
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of
from methods.walk.survey import Survey


def survey_of(model: Any, tokens: np.ndarray, skipped: tuple[int, ...] = ()) -> Survey:
    blocks = decoder_blocks(model)
    scope = [[] if index in skipped else linears_of(block) for index, block in enumerate(blocks)]
    return Survey(model, blocks, scope, Data(tokens, batch_size=4))


def test_every_weight_comes_with_the_statistic_of_its_input_in_the_dense_model(
    make_llama: Callable[..., Any], tokens: np.ndarray
) -> None:
    model, seen = make_llama(), []
    projection = decoder_blocks(model)[1].mlp.down_proj
    with torch.no_grad():
        hook = projection.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        model(torch.as_tensor(tokens, device=model.device).long())
        hook.remove()
        found = survey_of(model, tokens).measure(
            FeatureNorms, lambda weights: {weight.data_ptr(): norms.squared_norms.double() for weight, norms in weights}
        )
    expected = seen[0].double().flatten(0, 1).square().sum(0) / len(tokens)
    assert torch.allclose(found[1][projection.weight.data_ptr()], expected, rtol=1e-4)


def test_blocks_without_weights_in_scope_are_not_measured(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    with torch.no_grad():
        found = survey_of(make_llama(), tokens, skipped=(1,)).measure(FeatureNorms, len)
    assert found == {0: 7, 2: 7}


@pytest.mark.parametrize("name", ["gptq", "rtn", "wanda"])
def test_most_methods_are_the_same_on_every_block_and_look_at_nothing(
    make_llama: Callable[..., Any], name: str
) -> None:
    model = make_llama()
    method = get_method(name)
    assert method.for_blocks(Survey(model, decoder_blocks(model), [[], [], []], None)) == [method] * 3

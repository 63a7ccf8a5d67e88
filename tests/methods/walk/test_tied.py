"""A matrix that stands in several places is refused, or left dense by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from calib.settings import SettingsError
from methods.base import parse_method
from methods.blockwise import compress_model

EXCEPT = {"linears": ["*", "!mlp.up_proj"]}


@pytest.mark.parametrize("share", ["matrix", "module"])
@pytest.mark.parametrize("method", [{"method": "rtn"}, {"method": "gptq", "group_size": 16}])
def test_matrix_of_two_blocks_is_refused_before_any_work(
    make_llama: Callable[..., Any], tokens: np.ndarray, share: str, method: dict[str, Any]
) -> None:
    model = make_llama()
    first, second = model.model.layers[0].mlp, model.model.layers[1].mlp
    if share == "matrix":
        second.up_proj.weight = first.up_proj.weight
    else:
        second.up_proj = first.up_proj
    before = first.up_proj.weight.detach().clone()
    with pytest.raises(SettingsError, match=r"block 1 mlp.up_proj is the very matrix of block 0 mlp.up_proj"):
        compress_model(model, parse_method(method, "m"), tokens)
    assert (first.up_proj.weight == before).all()
    report = compress_model(model, parse_method({**method, **EXCEPT}, "m"), tokens)
    assert not any(layer.linear == "mlp.up_proj" for layer in report.layers)
    assert (first.up_proj.weight == before).all()


def test_whole_blocks_that_are_shared_are_refused(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama()
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(SettingsError, match=r"block 1 .* is the very matrix of block 0"):
        compress_model(model, parse_method({"method": "wanda", "sparsity": 0.5}, "m"), tokens)


def test_decoder_that_runs_its_blocks_twice_is_refused(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama()
    decoder = model.model
    once = decoder.forward

    def twice(**arguments: Any) -> Any:
        hidden = once(**arguments).last_hidden_state
        return once(**{**arguments, "input_ids": None, "inputs_embeds": hidden})

    decoder.forward = twice
    with pytest.raises(SettingsError, match=r"block 0 of \d+ runs as number \d+ of the pass"):
        compress_model(model, parse_method({"method": "gptq", "group_size": 16}, "m"), tokens)

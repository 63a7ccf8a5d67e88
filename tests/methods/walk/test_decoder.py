from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method
from methods.blockwise import compress_model
from methods.walk.decoder import decoder_blocks


def test_a_forward_of_the_blocks_own_comes_back(make_llama, tokens):
    model, calls = make_llama(), []
    for block in decoder_blocks(model):
        block.forward = lambda *arguments, own=block.forward, **named: calls.append(1) or own(*arguments, **named)
    compress_model(model, get_method("wanda"), tokens)
    calls.clear()
    model(torch.as_tensor(tokens, device=model.device).long())
    assert len(calls) == 3


def test_a_model_without_blocks_is_refused():
    with pytest.raises(SettingsError, match="no ModuleList"):
        decoder_blocks(torch.nn.Linear(2, 2))

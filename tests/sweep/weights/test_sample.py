from __future__ import annotations

import pytest
import torch

from methods.blockwise import decoder_blocks
from sweep.weights.sample import SAMPLED, block_kinds, cut_to, enough
from tests.sweep.weights.conftest import Save, pair


def test_model_is_cut_while_open_and_whole_again_after_an_error(save: Save) -> None:
    model = pair(save("gemma2"))[0].model
    blocks, tokens = decoder_blocks(model), torch.arange(5)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        with pytest.raises(ZeroDivisionError), cut_to(model, blocks, enough(block_kinds(model, blocks))):
            assert len(blocks) == model.config.num_hidden_layers == 2  # one of each kind of attention
            assert not torch.equal(model(tokens).logits, expected)
            raise ZeroDivisionError
        assert len(blocks) == model.config.num_hidden_layers == 3
        assert torch.equal(model(tokens).logits, expected)


def test_as_many_blocks_as_show_every_kind() -> None:
    assert enough(["a"]) == 1
    assert enough(["a", "a", "b", "a"]) == 3
    assert enough([*"abcdefgh", "rare"]) == SAMPLED

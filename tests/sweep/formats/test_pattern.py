"""A pattern that does not hold in one group is found, and named."""

from __future__ import annotations

import pytest
import torch

from methods.base import parse_method
from methods.blockwise import compress_model, decoder_blocks
from sweep.formats.format import FormatError
from sweep.formats.pattern import check_pattern, keeps_to


def test_every_group_of_every_row_is_looked_at() -> None:
    weight = torch.tensor([[1.0, 0, 2, 0, 0, 0, 0, 3], [0, 0, 0, 0, 4, 5, 0, 0]])
    assert keeps_to(weight, 2, 4)
    for row, column in [(0, 1), (1, 6)]:
        more = weight.clone()
        more[row, column] = 1e-30
        assert not keeps_to(more, 2, 4)
    assert not keeps_to(weight, 1, 4)


def test_a_weight_that_came_back_is_named() -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    report = compress_model(model, parse_method({"method": "magnitude", "pattern": "2:4"}, "method"), None)
    assert check_pattern(model, "2:4", report) == 14
    decoder_blocks(model)[1].mlp.up_proj.weight.data[3] = 1.0
    with pytest.raises(FormatError, match=r"block 1 mlp\.up_proj: more than 2 of 4 weights are not zero.*2:4"):
        check_pattern(model, "2:4", report)

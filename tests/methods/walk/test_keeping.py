from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from methods.walk.decoder import decoder_blocks
from methods.walk.keeping import KeptBlocks


def test_changed_replaced_and_retyped_weights_are_put_back(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    blocks = decoder_blocks(model)
    kept = KeptBlocks(model, blocks, 2)
    with torch.no_grad():
        blocks[0].mlp.up_proj.weight.mul_(2)
        blocks[0].mlp.down_proj = torch.nn.Sequential(torch.nn.Linear(64, 3), torch.nn.Linear(3, 32))
        blocks[1].mlp.up_proj.weight.data = torch.zeros(5, 5, dtype=torch.bfloat16)
        blocks[2].mlp.up_proj.weight.zero_()
        for index in range(len(kept)):
            kept.put_back(index)
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    different = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert different == ["model.layers.2.mlp.up_proj.weight"]


def test_what_is_put_back_can_be_changed_and_put_back_again(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    blocks = decoder_blocks(model)
    dense = blocks[0].mlp.up_proj.weight.detach().clone()
    kept = KeptBlocks(model, blocks, 1)
    for _ in range(2):
        with torch.no_grad():
            blocks[0].mlp.up_proj.weight.add_(1)
            kept.put_back(0)
        assert torch.equal(blocks[0].mlp.up_proj.weight, dense)


def test_weights_that_are_one_stay_one(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    blocks = decoder_blocks(model)
    blocks[0].self_attn.v_proj.weight = blocks[0].self_attn.k_proj.weight
    kept = KeptBlocks(model, blocks, 1)
    with torch.no_grad():
        blocks[0].self_attn.v_proj.weight.zero_()
        kept.put_back(0)
    assert blocks[0].self_attn.v_proj.weight is blocks[0].self_attn.k_proj.weight
    assert bool(blocks[0].self_attn.k_proj.weight.any())


def test_a_forward_that_is_swapped_in_meanwhile_stays_until_it_is_taken_out(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    blocks = decoder_blocks(model)
    kept = KeptBlocks(model, blocks, 1)
    mlp = blocks[0].mlp
    mlp.forward = lambda hidden: hidden
    with torch.no_grad():
        kept.put_back(0)
    hidden = torch.ones(1, 32, device=model.device)
    assert mlp(hidden) is hidden
    del mlp.forward
    assert not torch.equal(mlp(hidden), hidden)

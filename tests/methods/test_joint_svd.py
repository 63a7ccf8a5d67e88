from __future__ import annotations

import torch

from methods.base import get_method
from methods.blockwise import compress_model, decoder_blocks


def test_joint_svd_shares_the_right_factor_among_linears_with_one_input(make_llama):
    model = make_llama()
    report = compress_model(model, get_method("joint_svd", ratio=0.5), None)
    attention = decoder_blocks(model)[0].self_attn
    assert torch.equal(attention.q_proj[0].weight, attention.k_proj[0].weight)
    assert not torch.equal(attention.q_proj[0].weight, attention.o_proj[0].weight)
    q, k, v = report.layers[:3]
    assert q.rank == k.rank == v.rank == int(0.5 * 64 * 32 / 96)

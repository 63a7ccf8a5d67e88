"""Scales that move between the layers of a block: where they can, and that the block stays what it was."""

from __future__ import annotations

import pytest
import torch

from methods.base import get_method
from methods.blockwise import compress_model
from methods.inputs.norms import Magnitudes
from methods.walk.batches import Data, capture
from methods.walk.decoder import decoder_blocks
from methods.walk.folding import find_folds
from methods.walk.job import BlockJob
from methods.walk.linears import linears_of


def folds_of(model, tokens, through_linears=True):
    blocks = decoder_blocks(model)
    with torch.no_grad():
        batches = capture(model, blocks, Data(tokens))
        job = BlockJob(get_method("awq"), blocks[0], 0, linears_of(blocks[0]), batches)
        groups = find_folds(
            job, [(g.linears, g.statistic) for g in job.collect(Magnitudes)], through_linears=through_linears
        )
    return {g.linears[0].name: g for g in groups}, job


def test_norms_and_linears_before_are_found_by_trying(make_llama, tokens):
    groups, job = folds_of(make_llama(num_key_value_heads=4), tokens)
    assert groups["self_attn.q_proj"].norm is job.block.input_layernorm
    assert groups["mlp.gate_proj"].norm is job.block.post_attention_layernorm
    assert groups["self_attn.o_proj"].before.name == "self_attn.v_proj"
    assert groups["mlp.down_proj"].before.name == "mlp.up_proj"


def test_grouped_query_values_are_not_folded(make_llama, tokens):
    groups, _ = folds_of(make_llama(num_key_value_heads=2), tokens)
    assert not groups["self_attn.o_proj"].foldable
    assert groups["mlp.down_proj"].foldable


def test_trying_leaves_the_model_as_it_was(make_llama, tokens):
    model, untouched = make_llama(), make_llama()
    folds_of(model, tokens)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True))


def test_scaled_and_folded_block_equals_the_original(make_llama, tokens, device):
    model = make_llama(num_key_value_heads=4)
    batch = torch.as_tensor(tokens, device=device).long()
    with torch.no_grad():
        before = model(batch).logits
        groups, _ = folds_of(model, tokens)
        for number, group in enumerate(groups.values()):
            generator = torch.Generator().manual_seed(number)
            group.apply(torch.rand(group.statistic.cols, generator=generator).to(device) * 3 + 0.2)
        after = model(batch).logits
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("left_out", ["!*q_proj", "!*k_proj", "!*v_proj"])
def test_a_norm_that_a_dense_linear_reads_as_well_is_never_scaled(make_llama, tokens, dtype, left_out):
    """In half precision the error of a wrong fold is small where weights are: attention of a tiny model is flat."""
    model = make_llama().to(getattr(torch, dtype))
    before = {name: weight.clone() for name, weight in model.named_parameters() if "norm" in name}
    compress_model(model, get_method("smoothquant", linears=["*", left_out]), tokens)
    scaled = {n.split(".")[-2] for n, w in model.named_parameters() if n in before and not torch.equal(w, before[n])}
    assert scaled == {"post_attention_layernorm"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["Llama", "Gemma2"])
def test_folds_in_half_precision_are_those_of_float32(kind, dtype, tokens, device):
    import transformers

    def foldable(dtype):
        torch.manual_seed(0)
        shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
        config = getattr(transformers, f"{kind}Config")(**shape, **heads, pad_token_id=0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        groups, _ = folds_of(model.to(device, getattr(torch, dtype)), tokens)
        return {name: (type(g.norm).__name__, g.offset, g.before and g.before.name) for name, g in groups.items()}

    found = foldable(dtype)
    assert found == foldable("float32")
    assert found["self_attn.q_proj"][0] == f"{kind}RMSNorm"
    assert found["self_attn.o_proj"][2] == "self_attn.v_proj"

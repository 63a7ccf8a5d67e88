"""A small mixture of experts whose experts differ: a bundled LLaMA made sparse, and trained for a few hundred steps.

Sparse upcycling (https://arxiv.org/abs/2212.05055): every expert begins as the dense MLP, here with noise of its own,
and the router as noise. Trained on the bundled calibration text, the experts come to serve different text; a random
mixture would route by chance, and a balance of its experts would mean nothing. The held-out text is not trained on, and
no window is seen twice: so many weights learn a small text by heart, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from calib.build import build
from calib.source import get_source
from calib.spec import CalibrationSpec
from sweep.models import load_tokenizer, resolve_model

EXPERTS, CHOSEN = 8, 2
NOISE = 0.5  # of the SD of the dense weights: experts that begin alike stay alike for long
BATCH, SEQLEN = 16, 128
RATE = 2e-3  # the peak of AdamW


def upcycled(name: str, folder: Path, texts: tuple[str, ...], steps: int, seed: int = 0) -> Path:
    """Write the trained mixture made of the bundled model `name` to `folder`, as transformers reads it; its path."""
    ref = resolve_model(name, "--model")
    tokenizer = load_tokenizer(ref)
    dense = transformers.AutoModelForCausalLM.from_pretrained(ref.path, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.MixtralForCausalLM(_config(dense.config))
        _fill(model, dense)
        source = get_source({"source": "mixture", "parts": {text: 1 / len(texts) for text in texts}})
        spec = CalibrationSpec(source=source, set=0, nsamples=BATCH * steps, seqlen=SEQLEN, seed=seed + 1)
        _train(model, torch.tensor(build(spec, tokenizer).tokens).long(), steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(dense: Any) -> transformers.MixtralConfig:
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_parameters"),
        *("tie_word_embeddings", "bos_token_id", "eos_token_id"),
    )
    values = {key: getattr(dense, key) for key in same}
    return transformers.MixtralConfig(**values, num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN)


def _fill(model: Any, dense: Any) -> None:
    """Give the mixture the dense weights, and each expert its own noise."""

    def noisy(weight: torch.Tensor) -> torch.Tensor:
        many = weight.detach().expand(EXPERTS, *weight.shape)
        return many + NOISE * weight.detach().std() * torch.randn(many.shape)

    known = dense.state_dict()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key in known:
                value.copy_(known[key])
        for sparse, whole in zip(model.model.layers, dense.model.layers, strict=True):
            gate_up = torch.cat([whole.mlp.gate_proj.weight, whole.mlp.up_proj.weight])
            sparse.mlp.experts.gate_up_proj.copy_(noisy(gate_up))
            sparse.mlp.experts.down_proj.copy_(noisy(whole.mlp.down_proj.weight))


def _train(model: Any, windows: torch.Tensor, steps: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    for step in range(steps):
        part = windows[step * BATCH : (step + 1) * BATCH].to(device)
        loss = model(part, labels=part, output_router_logits=True).loss  # the router's balance is in it
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.cpu().eval()

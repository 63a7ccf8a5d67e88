"""Rows of packed tries, their attention in float64, and where kernels can run."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from methods.numerics.backend import has_triton
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.packing import pack

INTERPRETED = has_triton() and os.environ.get("TRITON_INTERPRET") == "1"
needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() or INTERPRETED), reason="needs a CUDA device, or Triton's interpreter"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter truncates bfloat16
FLOAT32_ERROR, HALF_ERROR = 2e-5, 2e-2  # of outputs of size one


def packed_row(seed: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends and positions (1, length) of branching sequences, padded as the scorer pads."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, 50, 9).tolist()
    asked = [(shared[: rng.integers(1, 9)] + rng.integers(0, 50, 3).tolist(), rng.integers(0, 50, 4)) for _ in range(6)]
    branches = [(context, [*more.tolist()][: rng.integers(1, 5)]) for context, more in asked for _ in range(2)]
    row = pack(Requests.pack(branches, 256), length).rows[0]
    ends, positions = torch.arange(1, length + 1)[None], torch.zeros(1, length, dtype=torch.int64)
    ends[0, : len(row.ends)] = torch.as_tensor(row.ends.astype(np.int64))
    positions[0, : len(row.positions)] = torch.as_tensor(row.positions.astype(np.int64))
    return ends.to(DEVICE), positions.to(DEVICE)


def reference(query, key, value, mask, scale, softcap):
    """Attention in float64 with an additive mask [batch, 1, length, length]."""
    group = query.shape[1] // key.shape[1]
    query, key, value = (part.double() for part in (query, key, value))
    score = query @ key.repeat_interleave(group, 1).transpose(2, 3) * scale
    score = score if softcap is None else softcap * torch.tanh(score / softcap)
    weights = torch.softmax(score.masked_fill(mask < 0, float("-inf")), -1)
    return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2)

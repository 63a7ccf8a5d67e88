"""RMS norms, gated activations and rotary positions as Triton kernels: one pass over memory each.

Written out in torch, a norm reads and writes its input about nine times and a rotation about seven: at the width of a
7B model a third of a forward pass. The kernels round where the modules of transformers round (every
intermediate result is stored in the model's half-precision dtype there), so a result differs only where a sum or an
exponential in float32 differs in its last bit and the rounding to 16 bits falls the other way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 4096  # elements of one program
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}


def rms_norm(inputs: torch.Tensor, weight: torch.Tensor, eps: float, *, offset: float, late: bool) -> torch.Tensor:
    """`inputs` [..., cols] over the root of their mean square, times `weight` [cols] + `offset`.

    late: rounded once, after the product with the weight; otherwise before it as well.
    """
    flat = _as_rows(inputs)
    rows, cols = flat.shape
    out = torch.empty_like(flat, memory_format=torch.contiguous_format)
    padded = triton.next_power_of_2(cols)
    height = max(1, TILE // padded)
    _rms_norm[(triton.cdiv(rows, height),)](
        flat, weight, out, rows, cols, flat.stride(0), eps, offset,
        LATE=late, R=height, N=padded, num_warps=8 if padded > 2048 else 4,
    )  # fmt: skip
    return out.view(inputs.shape)


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """activation(`gate`) · `up`, both [..., cols]."""
    flat, other = _as_rows(gate), _as_rows(up)
    rows, cols = flat.shape
    out = torch.empty(rows, cols, dtype=gate.dtype, device=gate.device)
    tile = min(TILE // 2, triton.next_power_of_2(cols))
    _gated[(rows, triton.cdiv(cols, tile))](
        flat, other, out, cols, flat.stride(0), other.stride(0), ACTIVATION=ACTIVATIONS[activation], N=tile, num_warps=4
    )
    return out.view(gate.shape)


def _as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """[..., cols] as [rows, cols] whose last axis is dense."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on `states` [batch, heads, length, size], with `cos` and `sin` [1 or batch, length, size]."""
    batch, heads, length, size = states.shape
    out = torch.empty_like(states)
    half = size // 2
    padded = triton.next_power_of_2(half)
    height = min(triton.next_power_of_2(heads), max(1, TILE // 2 // padded))
    cos_batch, sin_batch = (0 if table.shape[0] == 1 else table.stride(0) for table in (cos, sin))
    _rotate[(length, batch, triton.cdiv(heads, height))](
        states, cos, sin, out, heads, half,
        states.stride(0), states.stride(1), states.stride(2), out.stride(0), out.stride(1), out.stride(2),
        cos_batch, cos.stride(1), sin_batch, sin.stride(1),
        R=height, N=padded, num_warps=4, enable_fp_fusion=False,  # a fused sum would round once less
    )  # fmt: skip
    return out


@triton.jit
def _rms_norm(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    stride: tl.tensor,
    eps: tl.tensor,
    offset: tl.tensor,
    LATE: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    col = tl.arange(0, N)
    inside = (row < rows)[:, None] & (col < cols)[None, :]
    dtype = out.dtype.element_ty
    value = tl.load(x + row[:, None] * stride + col[None, :], mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt_rn(tl.sum(value * value, axis=1) / cols + eps)
    value = value * scale[:, None]
    factor = tl.load(weight + col, mask=col < cols, other=0.0).to(tl.float32)[None, :]
    if not LATE:
        value = value.to(dtype).to(tl.float32)
    value = value * (factor + offset)
    tl.store(out + row[:, None] * cols + col[None, :], value.to(dtype), mask=inside)


@triton.jit
def _gated(
    gate: tl.tensor,
    up: tl.tensor,
    out: tl.tensor,
    cols: tl.tensor,
    gate_stride: tl.tensor,
    up_stride: tl.tensor,
    ACTIVATION: tl.constexpr,
    N: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * N + tl.arange(0, N)
    inside = col < cols
    dtype = out.dtype.element_ty
    x = tl.load(gate + row * gate_stride + col, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + row * up_stride + col, mask=inside, other=0.0).to(tl.float32)
    inner = x
    if ACTIVATION == 1:
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    share = 1.0 / (1.0 + tl.exp(-inner))
    if ACTIVATION == 1:  # torch adds 1 to a tanh, which rounds the share of negative inputs
        share = 0.5 * ((2.0 * share - 1.0) + 1.0)
    x = x * share
    tl.store(out + row * cols + col, (x.to(dtype).to(tl.float32) * y).to(dtype), mask=inside)


@triton.jit
def _rotate(
    x: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    out: tl.tensor,
    heads: tl.tensor,
    half: tl.tensor,
    x_batch: tl.tensor,
    x_head: tl.tensor,
    x_place: tl.tensor,
    out_batch: tl.tensor,
    out_head: tl.tensor,
    out_place: tl.tensor,
    cos_batch: tl.tensor,
    cos_place: tl.tensor,
    sin_batch: tl.tensor,
    sin_place: tl.tensor,
    R: tl.constexpr,
    N: tl.constexpr,
) -> None:
    place, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head = tl.program_id(2) * R + tl.arange(0, R)
    col = tl.arange(0, N)
    inside = (head < heads)[:, None] & (col < half)[None, :]
    dtype = out.dtype.element_ty
    source = x + batch * x_batch + place * x_place + head[:, None] * x_head + col[None, :]
    target = out + batch * out_batch + place * out_place + head[:, None] * out_head + col[None, :]
    cos += batch * cos_batch + place * cos_place
    sin += batch * sin_batch + place * sin_place
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    for side in tl.static_range(2):
        shift = side * half
        c = tl.load(cos + shift + col, mask=col < half, other=0.0).to(tl.float32)[None, :]
        s = tl.load(sin + shift + col, mask=col < half, other=0.0).to(tl.float32)[None, :]
        if side == 0:
            kept, turned = first, -second
        else:
            kept, turned = second, first
        value = (kept * c).to(dtype).to(tl.float32) + (turned * s).to(dtype).to(tl.float32)
        tl.store(target + shift, value.to(dtype), mask=inside)

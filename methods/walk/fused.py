"""A decoder's norms, gated activations and rotary positions as single kernels, for any architecture that computes them.

`fused(model)` swaps the forward of modules while it is open; hooks, linears and everything else stay what they are.
Nothing is decided by the name of an architecture: a module that looks like an RMS norm or a gated MLP, and a modeling
file's `apply_rotary_pos_emb`, are compared with their kernels when they are first called, and only what agrees (to the
rounding of the model's dtype) is fused from then on. A call with other arguments than these take, such as a gated
norm's, goes to the original. The hard cases: Gemma's norm multiplies by 1 + weight, OLMo 2 rounds after the product;
the kernels have no backward pass, so with gradients the modules' own code runs.
"""

from __future__ import annotations

import copy
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from methods.lazy import torch
from methods.numerics.backend import has_triton

ROTARY = "apply_rotary_pos_emb"
NORM_VARIANTS = [{"offset": 0.0, "late": False}, {"offset": 0.0, "late": True}, {"offset": 1.0, "late": True}]
ACTIVATIONS = {"SiLUActivation": "silu", "SiLU": "silu", "GELUTanh": "gelu_tanh", "PytorchGELUTanh": "gelu_tanh"}
PROBE_ROWS = 8
EQUAL_SHARE = 0.99  # of the entries, bit by bit; the others may round the other way

log = logging.getLogger(__name__)

Forward = Callable[..., Any]

agreed: dict[Any, Any] = {}  # by what was compared: how it is fused, or None when it is not


@contextmanager
def fused(model: torch.nn.Module, *, force: bool = False) -> Iterator[None]:
    """Run the model's element-wise parts as kernels while open: in half precision, on a CUDA device with Triton.

    `force` does so on any device, for Triton's interpreter. Without effect where a forward is replaced already.
    """
    like = next(model.parameters())
    if (not force and not (like.is_cuda and has_triton())) or like.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    kernels = importlib.import_module("methods.kernels.elementwise")
    with ExitStack() as stack:
        files = set()
        for module in model.modules():
            files.add(type(module).__module__)
            if "forward" in vars(module):
                continue
            forward = norm_forward(module, kernels) or _mlp_forward(module, kernels)
            if forward is not None:
                module.forward = forward
                stack.callback(delattr, module, "forward")
        for name in files:
            original = getattr(sys.modules.get(name), ROTARY, None)
            if original is not None:
                setattr(sys.modules[name], ROTARY, _rotary(original, kernels))
                stack.callback(setattr, sys.modules[name], ROTARY, original)
        yield


def norm_forward(module: Any, kernels: ModuleType) -> Forward | None:
    """A fused forward of an RMS norm; None for any other module."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" not in type(module).__name__ or weight is None or weight.dim() != 1 or not isinstance(eps, float):
        return None
    original = type(module).forward

    def forward(*arguments: Any, **named: Any) -> Any:
        if named or len(arguments) != 1:  # such as the gate of a gated norm
            return original(module, *arguments, **named)
        (inputs,) = arguments
        if not _usable(inputs) or inputs.dtype != module.weight.dtype or inputs.shape[-1:] != module.weight.shape:
            return original(module, inputs)
        key = (type(module), inputs.dtype)
        if key not in agreed:
            agreed[key] = _norm_variant(module, eps, kernels)
            _say(agreed[key], type(module).__name__)
        if agreed[key] is None:
            return original(module, inputs)
        return kernels.rms_norm(inputs, module.weight, eps, **agreed[key])

    return forward


def _norm_variant(module: Any, eps: float, kernels: ModuleType) -> dict[str, Any] | None:
    """How the module's class rounds: tried on a copy with a random weight, since with weights of one all agree."""
    cols, like = module.weight.shape[0], module.weight
    generator = torch.Generator().manual_seed(0)
    weight = (0.5 + torch.rand(cols, generator=generator)).to(like)
    probe = torch.randn(PROBE_ROWS, cols, generator=generator).to(like)
    clone = copy.copy(module)
    vars(clone)["_parameters"] = {**module._parameters, "weight": torch.nn.Parameter(weight, requires_grad=False)}
    wanted = type(module).forward(clone, probe)
    tried = [v for v in NORM_VARIANTS if agree(kernels.rms_norm(probe, weight, eps, **v), wanted)]
    return tried[0] if tried else None


def _mlp_forward(module: Any, kernels: ModuleType) -> Forward | None:
    """down(activation(gate(x)) · up(x)), with gate and up as two linears or as the halves of one."""
    parts = dict(module.named_children())
    activation: Any = parts.get("act_fn", parts.get("activation_fn"))
    kind = ACTIVATIONS.get(type(activation).__name__)
    joined = "gate_up_proj" in parts
    if kind is None or "down_proj" not in parts or not (joined or {"gate_proj", "up_proj"} <= set(parts)):
        return None
    if not _is_gated(module, activation, joined=joined):
        return None
    original = type(module).forward

    def forward(*arguments: Any, **named: Any) -> Any:
        if named or len(arguments) != 1 or not _usable(arguments[0]):
            return original(module, *arguments, **named)
        (inputs,) = arguments
        gate, up = _halves(module, inputs) if joined else (module.gate_proj(inputs), module.up_proj(inputs))
        key = (kind, type(activation), gate.dtype)
        if key not in agreed:
            first, second = (part.reshape(-1, part.shape[-1])[:PROBE_ROWS] for part in (gate, up))
            agreed[key] = agree(kernels.gated(first, second, kind), activation(first) * second)
            _say(agreed[key], type(activation).__name__)
        product = kernels.gated(gate, up, kind) if agreed[key] else activation(gate) * up
        return module.down_proj(product)

    return forward


def _halves(module: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gate, up = module.gate_up_proj(inputs).chunk(2, -1)
    return gate, up


def _is_gated(module: Any, activation: Any, *, joined: bool) -> bool:
    """Whether the module's class computes a gated MLP: tried on a copy of it that holds small linears."""
    like = next(module.parameters())
    key = (type(module), joined)
    if key not in agreed:
        generator = torch.Generator().manual_seed(0)

        def linear(cols: int, rows: int) -> torch.nn.Linear:
            made = torch.nn.Linear(cols, rows, bias=False)
            made.weight = torch.nn.Parameter(torch.randn(rows, cols, generator=generator), requires_grad=False)
            return made

        gate, up, down = linear(8, 16), linear(8, 16), linear(16, 8)
        small = {"gate_proj": gate, "up_proj": up, "down_proj": down}
        if joined:
            whole = linear(8, 32)
            whole.weight = torch.nn.Parameter(torch.cat([gate.weight, up.weight]), requires_grad=False)
            small = {"gate_up_proj": whole, "down_proj": down}
        clone = copy.copy(module)
        kept = {name: child for name, child in module.named_children() if name not in small}
        vars(clone)["_modules"] = {**kept, **small}
        inputs = torch.randn(4, 8, generator=generator)
        try:
            with torch.no_grad():
                found = type(module).forward(clone, inputs)
                wanted = down(activation(gate(inputs)) * up(inputs))
            agreed[key] = found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
        except (TypeError, RuntimeError, AttributeError, KeyError, ValueError):
            agreed[key] = False
    return like.dim() == 2 and bool(agreed[key])


def _rotary(original: Forward, kernels: ModuleType) -> Forward:
    def rotary(*arguments: Any, **named: Any) -> Any:
        if named or len(arguments) != 4 or not all(isinstance(each, torch.Tensor) for each in arguments):
            return original(*arguments, **named)  # GPT-J and Gemma 4 rotate one tensor a call
        q, k, cos, sin = arguments
        if not _usable(q) or not (_rotatable(q, cos, sin) and _rotatable(k, cos, sin)):
            return original(q, k, cos, sin)
        key = (original, q.dtype)
        if key not in agreed:
            some = [part[..., :PROBE_ROWS, :] for part in (q, k, cos, sin)]
            wanted = original(*some)
            agreed[key] = all(agree(kernels.rotate(a, *some[2:]), b) for a, b in zip(some[:2], wanted, strict=True))
            _say(agreed[key], f"{original.__module__}.{ROTARY}")
        if not agreed[key]:
            return original(q, k, cos, sin)
        return kernels.rotate(q, cos, sin), kernels.rotate(k, cos, sin)

    return rotary


def _rotatable(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """[batch, heads, length, size] beside tables [1 or batch, length, size], all of one dtype, last axis dense."""
    fits = states.dim() == 4 and cos.dim() == sin.dim() == 3 and cos.shape == sin.shape
    fits = fits and cos.shape[1:] == (states.shape[2], states.shape[3]) and cos.shape[0] in (1, states.shape[0])
    tensors = (states, cos, sin)
    return fits and states.shape[3] % 2 == 0 and all(t.dtype == states.dtype and t.stride(-1) == 1 for t in tensors)


def _say(agreed: Any, name: str) -> None:
    if not agreed:
        log.warning("%s does not compute what the kernels do: it runs as it is written, which takes longer", name)


def _usable(inputs: torch.Tensor) -> bool:
    half = inputs.dtype in (torch.bfloat16, torch.float16)
    return half and inputs.numel() > 0 and not torch.is_grad_enabled()


def agree(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal bit by bit in nearly all entries, and nowhere off by more than a rounding of the largest."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    apart = (found.float() - wanted.float()).abs().max() <= 2 * torch.finfo(
        wanted.dtype
    ).eps * wanted.float().abs().max()
    return bool(apart & ((found == wanted).float().mean() >= EQUAL_SHARE))

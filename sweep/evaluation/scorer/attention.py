"""Ways to run a model's attention over rows of packed tries: what it is given as a mask, and which function reads it.

`ExplicitMask` is a matrix of numbers that any architecture adds to its scores; it costs memory and work quadratic in
the row, so rows are short, and suits processors. On CUDA devices `TreeAttention` runs this project's kernel
(`kernels.py`), `FlexAttention` torch's compiled one, for architectures that ask for more than the kernel computes, and
the explicit mask is left for those with attention code of their own. Which of them a model takes is found out by
trying, in `choice.py`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from methods.lazy import torch
from methods.numerics.backend import has_triton

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLEX_BLOCK = 128  # positions of one block of flex_attention
WITHOUT_EFFECT = {  # what transformers hands to any attention function: the mask and the walk decide on these
    *("sliding_window", "is_causal", "position_ids", "use_cache", "past_key_values", "cache_position"),
    *("output_attentions", "output_hidden_states", "return_dict"),
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"),
}
UNLIMITED = -(2**31)  # below every depth: a query that sees its whole path


class PackedAttention(ABC):
    """One way. `ends` and `positions` are those of `packing.Row`, int64 (rows, length)."""

    name: ClassVar[str]  # in the trial's row
    implementation: ClassVar[str | None] = None  # the name that transformers knows it by; None: the model's own
    block: ClassVar[int] = 1  # to which the length of a batch is rounded up
    quadratic: ClassVar[bool] = False  # whether a mask takes memory quadratic in the length

    @abstractmethod
    def mask(self, ends: torch.Tensor, positions: torch.Tensor, window: int | None, dtype: torch.dtype) -> Any:
        """The mask of layers that look back `window` tokens of a sequence (None: all of them)."""

    @contextmanager
    def of(self, model: PreTrainedModel) -> Iterator[None]:
        """Let `model` use it while open."""
        if self.implementation is None:
            yield
            return
        before = model.config._attn_implementation
        model.set_attn_implementation(self.implementation)
        try:
            if model.get_decoder().config._attn_implementation != self.implementation:  # transformers only warns
                raise ValueError(f"{type(model).__name__} cannot be given {self.implementation}")
            yield
        finally:
            model.set_attn_implementation(before)


class ExplicitMask(PackedAttention):
    """0 where a position may look, the smallest number where not: (rows, 1, length, length)."""

    name = "explicit mask"
    quadratic = True

    def mask(self, ends: torch.Tensor, positions: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        place = torch.arange(ends.shape[1], device=ends.device)
        seen = (place[None, None, :] <= place[None, :, None]) & (place[None, :, None] < ends[:, None, :])
        if window is not None:
            seen &= positions[:, :, None] - positions[:, None, :] < window
        mask = torch.zeros(seen.shape, dtype=dtype, device=ends.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


class FlexAttention(PackedAttention):
    """torch's `flex_attention`, which skips blocks in which nothing is seen. Its mask is a `BlockMask`."""

    name = "flex attention"
    implementation = "flex_attention"
    block = FLEX_BLOCK

    def mask(self, ends: torch.Tensor, positions: torch.Tensor, window: int | None, dtype: torch.dtype) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        def seen(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            allowed = (key <= query) & (query < ends[row, key])
            if window is not None:
                allowed = allowed & (positions[row, query] - positions[row, key] < window)
            return allowed

        rows, length = ends.shape
        return create_block_mask(seen, rows, None, length, length, device=str(ends.device), BLOCK_SIZE=FLEX_BLOCK)


class TreeAttention(PackedAttention):
    """The kernel of `kernels.py`. Its mask is four integers a position: (rows, 1, 4, length), int32."""

    name = "tree kernel"
    implementation = "packed_tries"

    @contextmanager
    def of(self, model: PreTrainedModel) -> Iterator[None]:
        from transformers import AttentionInterface

        AttentionInterface.register(self.implementation, attend)
        with super().of(model):
            yield

    def mask(self, ends: torch.Tensor, positions: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        place = torch.arange(ends.shape[1], device=ends.device).expand_as(ends)
        starts = torch.where(positions == 0, place, 0).cummax(1).values  # a trie begins at depth 0
        floors = torch.full_like(positions, UNLIMITED) if window is None else positions - window
        return torch.stack([ends, positions, floors, starts], 1)[:, None].to(torch.int32)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: (output [batch, length, heads, size], no weights).

    Raises NotImplementedError for whatever it is asked that the kernel does not compute, known or not, and RuntimeError
    when the kernel cannot be compiled for the device.
    """
    asked = sorted(name for name, given in named.items() if given is not None and name not in WITHOUT_EFFECT)
    if asked or dropout:
        raise NotImplementedError(f"attention over packed tries has no {', '.join(asked) or 'dropout'}")
    if value.shape != key.shape or key.shape[-1] != query.shape[-1] or not query.dtype == key.dtype == value.dtype:
        raise NotImplementedError("attention over packed tries has one head size and one dtype")
    rule, length = attention_mask, query.shape[2]
    if rule is None or rule.dtype != torch.int32 or rule.shape[1:] != (1, 4, length) or key.shape[2] != length:
        raise ValueError("attention over packed tries needs the rule of its rows as mask, and no cached keys")
    kernels = importlib.import_module("sweep.evaluation.scorer.kernels")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    try:
        return kernels.tree_attention(query, key, value, rule[:, 0], scale=scale, softcap=softcap or None), None
    except kernels.CompilerError as error:
        raise RuntimeError(f"the attention kernel does not run on this device: {error}") from error


def ways(device: torch.device) -> list[PackedAttention]:
    """What is tried on a device, the best first."""
    if device.type != "cuda":
        return [ExplicitMask()]
    return [*([TreeAttention()] if has_triton() else []), FlexAttention(), ExplicitMask()]


def layer_kinds(model: PreTrainedModel) -> dict[str, int | None]:
    """The kinds of attention layers of a model, each with its window in tokens or None."""
    config = model.config.get_text_config()
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo counts its window by place in the row
        return {"local": None}
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {"full_attention": None} if window is None else {"sliding_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in dict.fromkeys(kinds)}

"""Error of a calibration set's weights on a target's inputs, from the first blocks alone: what a set promises a target.

The error of a compressed layer on its own calibration set prefers easy sets; on the text that the model is for it says
what the set does there. Only the first blocks are compressed, to the very weights that they have in a compression of
all, and the target's windows go through them dense and compressed, so it costs a few blocks instead of all blocks and
an evaluation. The model is given back as it was.

The hard case is the scale of hidden states: a few tokens (mostly the first of a window) are hundreds of times as large
as the others and carry nearly all of a sum of squares. So the error is stated twice: of the sums over all tokens, and
as the mean over tokens of each one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calib.settings import SettingsError
from methods.base import Method
from methods.blockwise import compress_model, reach_of, ready_to_walk, steps_of
from methods.lazy import torch
from methods.walk.batches import Batches, Data, capture
from methods.walk.decoder import decoder_blocks
from methods.walk.keeping import KeptBlocks
from methods.walk.residency import home_of, resident


@dataclass(frozen=True)
class TargetError:
    """Relative error of the hidden states that leave each of the first blocks, on the windows of one target.

    y_t is what the dense model's block gives for token t, ŷ_t what the compressed model's gives.
    """

    total: tuple[float, ...]  # (blocks,): Σ_t ‖ŷ_t − y_t‖² / Σ_t ‖y_t‖²
    by_token: tuple[float, ...]  # (blocks,): the mean over tokens of ‖ŷ_t − y_t‖² / ‖y_t‖²


def target_error(
    model: torch.nn.Module,
    method: Method,
    calibration_tokens: Any,
    target_tokens: Mapping[str, Any],
    *,
    blocks: int = 2,
    attention_mask: Any = None,
    token_weights: Any = None,
    batch_size: int | None = None,
    offload: bool | None = None,
) -> dict[str, TargetError]:
    """The errors by name of the target, after compressing the first `blocks` blocks with the calibration tokens.

    model: dense, and the same afterwards. calibration_tokens: [nsamples, seqlen], None for a data-free method.
    target_tokens: by name, whole windows [windows, length] each. attention_mask and token_weights (of the calibration
    tokens), batch_size, offload: as in `compress_model`. A method that looks at all blocks first (OWL, gradients) costs
    that look as well. Raises what `compress_model` raises; the model is given back then too, unless its blocks are
    streamed: then whoever holds it must restore it.
    """
    decoder = decoder_blocks(model)
    if not 1 <= blocks <= len(decoder):
        raise SettingsError(f"blocks: expected 1 to {len(decoder)} of the model's decoder blocks, got {blocks}")
    if not target_tokens:
        raise SettingsError("target_tokens: expected the windows of at least one target")
    if changes_the_whole(method):
        raise SettingsError(f"{method.label}: turns the hidden states, so they cannot be compared with the dense ones")
    whole = None in reach_of(steps_of(method), blocks)
    kept = KeptBlocks(model, decoder, len(decoder) if whole else blocks)
    try:
        compress_model(
            model,
            method,
            calibration_tokens,
            attention_mask=attention_mask,
            token_weights=token_weights,
            batch_size=batch_size,
            offload=offload,
            first_blocks=blocks,
        )
        with ready_to_walk(model):
            streams = {
                name: _Streams.of(capture(model, decoder, Data(tokens, None, batch_size, offload)))
                for name, tokens in target_tokens.items()
            }
            return _measured(model, decoder, kept, streams, blocks)
    finally:
        if home_of(model) is None:
            with torch.no_grad():
                for index in range(len(kept)):
                    kept.put_back(index)


def hidden_after(
    model: torch.nn.Module, blocks: int, tokens: Any, *, batch_size: int | None = None, offload: bool | None = None
) -> list[torch.Tensor]:
    """What leaves the first `blocks` blocks of the model as it is, for whole windows [windows, length]: per batch
    [windows, length, width], in the host's memory where the model's device is crowded."""
    decoder = decoder_blocks(model)
    with ready_to_walk(model):
        batches = capture(model, decoder, Data(tokens, None, batch_size, offload))
        for index in range(blocks):
            with resident(model, index, index + 1 if index + 1 < blocks else None):
                _advance(decoder[index], index, [batches])
    return batches.hidden


def errors_of_windows(
    dense: Sequence[torch.Tensor], compressed: Sequence[torch.Tensor], device: torch.device
) -> torch.Tensor:
    """Of each window Σ_t ‖ŷ_t − y_t‖², Σ_t ‖y_t‖² and the mean over its tokens t of the ratio of the two.

    dense, compressed: the same batches [windows, length, width]. Returns float64 [windows, 3] on `device`.
    """
    parts = []
    for waiting in zip(dense, compressed, strict=True):
        y, other = (hidden.to(device, non_blocking=True) for hidden in waiting)  # parked: nobody waited for it
        y = y if y.dtype == torch.float64 else y.float()
        sizes = y.square().sum(-1, dtype=torch.float64)
        apart = (other.to(y.dtype) - y).square().sum(-1, dtype=torch.float64)
        each = torch.where(apart == 0, 0.0, apart / sizes)  # an output of zeros has no error where none was made
        parts.append(torch.stack([apart.sum(1), sizes.sum(1), each.mean(1)], dim=1))
    return torch.cat(parts)


def changes_the_whole(method: Method) -> bool:
    """Whether a step changes more than the blocks, such as a rotation: then hidden states mean something else."""
    return any(step.whole_model for step in steps_of(method))


@dataclass(frozen=True)
class _Streams:
    """One target on its way through the dense and the compressed blocks."""

    dense: Batches
    compressed: Batches

    @classmethod
    def of(cls, batches: Batches) -> _Streams:
        return cls(batches, replace(batches, hidden=[hidden.clone() for hidden in batches.hidden]))


def _measured(
    model: torch.nn.Module,
    decoder: torch.nn.ModuleList,
    kept: KeptBlocks,
    streams: Mapping[str, _Streams],
    blocks: int,
) -> dict[str, TargetError]:
    """The errors after each of the first `blocks` blocks. Every kept block is dense again in the end."""
    errors: dict[str, list[torch.Tensor]] = {name: [] for name in streams}
    for index in range(len(kept)):
        following = index + 1 if index + 1 < len(kept) else None
        with resident(model, index, following, changes=True):
            if index < blocks:
                _advance(decoder[index], index, [each.compressed for each in streams.values()])
            kept.put_back(index)
            if index < blocks:
                _advance(decoder[index], index, [each.dense for each in streams.values()])
        if index < blocks:
            for name, each in streams.items():
                errors[name].append(_errors(each, kept.device))
    found = {name: torch.stack(sums).cpu().tolist() for name, sums in errors.items()}  # the host waits once
    return {
        name: TargetError(tuple(total for total, _ in pairs), tuple(mean for _, mean in pairs))
        for name, pairs in found.items()
    }


def _advance(block: torch.nn.Module, index: int, targets: list[Batches]) -> None:
    for batches in targets:
        for batch in range(len(batches)):
            batches.keep(batch, batches.run(block, index, batch))


def _errors(target: _Streams, device: torch.device) -> torch.Tensor:
    """(of the sums, mean over tokens), float64 on the device; all windows of a target are of one length."""
    apart, sizes, each = errors_of_windows(target.dense.hidden, target.compressed.hidden, device).unbind(1)
    total = torch.where(apart.sum() == 0, 0.0, apart.sum() / sizes.sum())
    return torch.stack([total, each.mean()])

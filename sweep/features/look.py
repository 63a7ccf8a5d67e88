"""What a dense model says of windows, all of it from one forward pass: likelihoods, block inputs, expert loads.

The pass goes block by block, as a walk does, so a streamed model reads each block once and gives the same numbers as a
model that is held whole. A model that is held whole takes a few windows at a time, so that no hidden states wait. The
vocabulary projection is run window by window by the model's own forward, with the last hidden states in the place of
the last block: whatever an architecture does to its logits is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.settings import SettingsError
from methods.lazy import torch
from methods.walk.batches import Batches, Data, capture
from methods.walk.decoder import decoder_blocks, in_place_of_blocks
from methods.walk.fused import fused
from methods.walk.lengths import forgetful
from methods.walk.residency import home_of, resident
from sweep.features.likelihood import Likelihood, window_likelihood
from sweep.features.routing import routed

LAYERS = 8  # block inputs that are looked at, evenly spread over the depth: every fourth of a model of 32 blocks


@dataclass(frozen=True)
class BlockInputs:
    """What enters some blocks (`layers`), over the tokens of each window; each (windows, layers, width), float32."""

    layers: tuple[int, ...]
    means: np.ndarray  # of x
    variances: np.ndarray  # of x
    sizes: np.ndarray  # means of |x|
    largest: np.ndarray  # max |x|


@dataclass(frozen=True)
class Look:
    """What the model says of windows; None is what was not asked for.

    loads: (windows, mixtures of experts, experts), int64: tokens of the window that go to each expert.
    """

    likelihood: Likelihood | None = None
    inputs: BlockInputs | None = None
    loads: np.ndarray | None = None


def look(
    model: Any,
    tokens: np.ndarray,
    *,
    likelihood: bool = False,
    layers: Sequence[int] = (),
    experts: bool = False,
    batch_size: int | None = None,
) -> Look:
    """Send windows `tokens` [windows, length] through the dense model, in evaluation mode, once.

    layers: numbers of the blocks whose inputs are looked at (`spread_layers` gives some). batch_size: windows of a
    forward, a matter of speed. Raises SettingsError for a block that is not there, windows of one token that shall have
    a likelihood, and a model without experts whose loads are asked for.
    """
    blocks = decoder_blocks(model)
    _check(len(blocks), tokens, layers, likelihood=likelihood)
    found = _Found(blocks=len(blocks), layers=tuple(layers), likelihood=likelihood, experts=experts)
    with torch.inference_mode(), torch.cuda.device_of(next(model.parameters())), forgetful(model), fused(model):
        for part in _parts(model, tokens, batch_size):
            _pass(model, blocks, part, found, batch_size)
    return found.finished(type(model).__name__)


def spread_layers(blocks: int, count: int = LAYERS) -> tuple[int, ...]:
    """Numbers of up to `count` blocks, evenly spread from the second to the last: embeddings say little of a model."""
    places = np.linspace(1, blocks - 1, min(count, blocks - 1)) if blocks > 1 else np.zeros(1)
    return tuple(int(place) for place in np.unique(places.round()))


class _Found:
    """Collects what a pass gives, window by window."""

    def __init__(self, *, blocks: int, layers: tuple[int, ...], likelihood: bool, experts: bool) -> None:
        self.blocks, self.layers, self.likelihood, self.experts = blocks, layers, likelihood, experts
        self.scores: list[list[np.ndarray]] = []  # by window
        self.moments: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}  # (windows, 4, width) each
        self.routes: list[list[np.ndarray]] = [[] for _ in range(blocks)]  # (windows, mixtures of the block, experts)

    def finished(self, name: str) -> Look:
        likelihood = inputs = loads = None
        if self.likelihood:
            likelihood = Likelihood(*(np.stack(column) for column in zip(*self.scores, strict=True)))
        if self.layers:
            numbers = np.stack([np.concatenate(self.moments[layer]) for layer in self.layers], axis=1)
            inputs = BlockInputs(self.layers, *(numbers[:, :, kind] for kind in range(4)))
        if self.experts:
            mixtures = [np.concatenate(parts) for parts in self.routes if parts]
            if not mixtures:
                raise SettingsError(f"model: {name} has no fused experts, so there are no loads of experts to balance")
            loads = np.concatenate(mixtures, axis=1)
        return Look(likelihood, inputs, loads)


def _check(blocks: int, tokens: np.ndarray, layers: Sequence[int], *, likelihood: bool) -> None:
    wrong = [layer for layer in layers if not 0 <= layer < blocks]
    if wrong:
        raise SettingsError(f"layers: expected 0 to {blocks - 1}, the model's blocks, got {wrong[0]}")
    if likelihood and tokens.shape[1] < 2:
        raise SettingsError("tokens: a likelihood needs windows of at least 2 tokens, got 1")


def _parts(model: Any, tokens: np.ndarray, batch_size: int | None) -> list[np.ndarray]:
    """The windows that go through all blocks together: all of them where every block must be fetched."""
    if home_of(model) is not None:
        return [tokens]
    on_gpu = next(model.parameters()).is_cuda
    step = batch_size or max(1, (32768 if on_gpu else 2048) // tokens.shape[1])
    return [tokens[start : start + step] for start in range(0, len(tokens), step)]


def _pass(model: Any, blocks: Any, tokens: np.ndarray, found: _Found, batch_size: int | None) -> None:
    batches = capture(model, blocks, Data(tokens, None, batch_size))
    for index, block in enumerate(blocks):
        with resident(model, index, index + 1 if index + 1 < len(blocks) else None):
            for batch in range(len(batches)):
                if index in found.layers:
                    found.moments[index].append(_moments(batches.hidden[batch], next(block.parameters()).device))
                with routed(block, len(batches.hidden[batch]), wanted=found.experts) as loads:
                    batches.keep(batch, batches.run(block, index, batch))
                if loads:
                    found.routes[index].append(torch.stack(loads, dim=1).cpu().numpy())
    if found.likelihood:
        _score(model, blocks, tokens, batches, found)


def _moments(hidden: torch.Tensor, device: torch.device) -> np.ndarray:
    """(windows, 4, width), float32: mean, variance, mean size and largest size over the tokens of each window."""
    inputs = hidden.to(device, non_blocking=True).float()
    sizes = inputs.abs()
    variances, means = torch.var_mean(inputs, dim=1, correction=0)
    moments: np.ndarray = torch.stack([means, variances, sizes.mean(1), sizes.amax(1)], dim=1).cpu().numpy()
    return moments


def _score(model: Any, blocks: Any, tokens: np.ndarray, batches: Batches, found: _Found) -> None:
    """The likelihood of every window, from the output of the last block."""
    device = next(model.parameters()).device
    ids = torch.as_tensor(tokens.astype(np.int64), device=device)
    number = 0
    for hidden in batches.hidden:
        for window in hidden.to(device, non_blocking=True):
            logits = _logits(model, blocks, ids[number : number + 1], window[None], batches.tuples)
            scores = window_likelihood(logits, ids[number])
            found.scores.append([each.cpu().numpy() for each in scores])
            number += 1


def _logits(model: Any, blocks: Any, tokens: torch.Tensor, hidden: torch.Tensor, tuples: bool | None) -> torch.Tensor:
    """[length, vocabulary]: what the model makes of `hidden`, the output of its last block for the window `tokens`."""
    last = len(blocks) - 1

    def pass_on(index: int, given: Any, _: tuple[Any, ...], __: dict[str, Any]) -> Any:
        return hidden if index == last else given

    run = in_place_of_blocks(blocks, pass_on, lambda: model(input_ids=tokens, use_cache=False), tuples=tuples)
    logits: torch.Tensor = run.logits[0]
    return logits

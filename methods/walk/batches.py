"""Calibration windows on their way through a model: what enters the next block, batch by batch.

Embeddings run once, in a forward without blocks; from then on a batch is its hidden states and what every block gets
beside them (masks, positions, their cosines). What is equal in all batches is kept once. Hard cases: padding, which is
marked so that it never enters a statistic; rotary frequencies that follow the longest window of a call, so that only
windows that share them go together; and a GPU too small for all hidden states, which then wait in host memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from calib.settings import SettingsError
from methods.inputs.statistic import scaled
from methods.lazy import torch
from methods.walk.decoder import record
from methods.walk.lengths import length_rule, padded_positions
from methods.walk.residency import device_memory, parked

TOKENS_PER_BATCH_CPU = 512  # fits the caches of a core: measured on the bundled models
TOKENS_PER_BATCH_GPU = 32768
HIDDEN_SHARE = 0.125  # of the free memory of a GPU for hidden states: the factor of a wide Hessian needs most of it


@dataclass(frozen=True)
class Data:
    """The calibration tokens [nsamples, seqlen], their mask, and how to send them through the model.

    attention_mask: zero at padding. batch_size: windows in a forward. offload: hidden states wait in host memory; None:
    when a GPU is crowded. token_weights: how often each token counts in what is known of the inputs, at least zero;
    None: once. A token that does not count is read by those after it all the same.
    """

    tokens: Any
    attention_mask: Any = None
    batch_size: int | None = None
    offload: bool | None = None
    token_weights: Any = None


PROBE = Data([[0, 0]])  # two tokens: which linears share an input, and how experts are used, shows in any forward


@dataclass
class Batches:
    """The calibration windows as they enter a block, batch by batch.

    hidden: per batch [windows, length, width]. arguments: per batch and block, what the block gets besides. valid: per
    batch a flat mask [windows · length] of the tokens that are not padding, or None. home: where hidden states wait
    between blocks; None: on the model's device. tuples: whether blocks give back a tuple, known when one has run.
    weights: per batch, flat, how often each token counts, as float32, or as bool where each counts once or not at all;
    empty where all of them count once.
    """

    hidden: list[torch.Tensor]
    arguments: list[list[tuple[tuple[Any, ...], dict[str, Any]]]]
    valid: list[torch.Tensor | None]
    home: torch.device | None = None
    tuples: bool | None = None
    weights: list[torch.Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.hidden)

    def run(self, block: torch.nn.Module, index: int, batch: int) -> torch.Tensor:
        """The output of `block`, number `index` of the model, for one batch."""
        positional, keywords = self.arguments[batch][index]
        device = next(block.parameters()).device
        output = block(self.hidden[batch].to(device, non_blocking=True), *positional, **keywords)
        self.tuples = isinstance(output, tuple)
        result: torch.Tensor = output[0] if self.tuples else output
        return result

    def first_window(self) -> Batches:
        """The first window alone, with its part of the arguments that differ from window to window."""
        hidden = self.hidden[0]
        arguments = [_first_of(given, hidden.shape[0]) for given in self.arguments[0]]
        return replace(self, hidden=[hidden[:1]], arguments=[arguments], valid=[None], weights=[])

    def counted(self, batch: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(those of `rows` [windows · length, ...] whose tokens count, how often each does; None: once)."""
        valid = self.valid[batch]
        if not self.weights:
            return (rows if valid is None else rows[valid]), None
        weights = self.weights[batch]
        counts = weights > 0 if valid is None else (weights > 0) & valid
        return rows[counts], None if weights.dtype == torch.bool else weights[counts]

    def weighted(self, batch: int, output: torch.Tensor) -> torch.Tensor:
        """The rows of `output` [windows, length, width] whose tokens count, √w times as large where one counts w times.

        `output` itself where all tokens of the batch count once.
        """
        if self.valid[batch] is None and not self.weights:
            return output
        rows, weights = self.counted(batch, output.reshape(-1, output.shape[-1]))
        return rows if weights is None else scaled(rows, weights)

    def keep(self, batch: int, hidden: torch.Tensor) -> None:
        """`hidden`, the output of a block, is what enters the next one."""
        self.hidden[batch] = self.at_home(hidden, self.hidden[batch])

    def at_home(self, hidden: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states where they wait between blocks, in the memory of `place` where it can be used again."""
        return hidden if self.home is None or hidden.device == self.home else parked(hidden, place)


def capture(model: torch.nn.Module, blocks: torch.nn.ModuleList, data: Data) -> Batches:
    """Run embeddings on all windows, and record what every block would receive.

    One forward per batch in which each block returns its input. Arguments that are equal in all batches (position
    embeddings, masks) are kept once. Raises SettingsError when tokens or mask have another shape than they should.
    """
    device = next(model.parameters()).device
    tokens, mask = _on_device(data, device)
    weights = _weights(data, tokens)
    size = data.batch_size or _batch_size(tokens.shape[1], device)
    result = Batches([], [], [], torch.device("cpu") if data.offload else None)
    for windows, named in _parts(model, blocks, mask, len(tokens), size):
        part = None if mask is None else mask[windows]
        recorded = record(model, blocks, tokens[windows], attention_mask=part, **named)
        if not len(result) and data.offload is None and _crowded(recorded[0][0], tokens):
            result.home = torch.device("cpu")
        result.hidden.append(result.at_home(recorded[0][0]))
        known = result.arguments[0] if result.arguments else [((), {})] * len(recorded)
        result.arguments.append(
            [_kept_once((each[1], each[2]), before) for each, before in zip(recorded, known, strict=True)]
        )
        result.valid.append(None if part is None else part.flatten().bool())
        if weights is not None:
            result.weights.append(weights[windows].flatten())
    return result


def _on_device(data: Data, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens and mask [nsamples, seqlen], int64. Raises SettingsError when they have another shape."""
    tokens = _tensor(data.tokens).to(device=device, dtype=torch.long)
    if tokens.dim() != 2 or not tokens.numel():
        raise SettingsError(f"tokens: expected [nsamples, seqlen] with at least one token, got {tuple(tokens.shape)}")
    if data.attention_mask is None:
        return tokens, None
    mask = _tensor(data.attention_mask).to(device=device, dtype=torch.long)
    if mask.shape != tokens.shape:
        raise SettingsError(
            f"attention_mask: expected the shape of tokens {tuple(tokens.shape)}, got {tuple(mask.shape)}"
        )
    return tokens, mask


def _tensor(values: Any) -> torch.Tensor:
    """`values` as a tensor; of an array that is shared and read-only a copy, since torch warns of such arrays."""
    flags = getattr(values, "flags", None)
    return torch.as_tensor(values if flags is None or flags.writeable else values.copy())


def _weights(data: Data, tokens: torch.Tensor) -> torch.Tensor | None:
    """How often each token counts, like `tokens`: float32, or bool where that tells all; None where each counts once.

    Raises SettingsError for another shape, for weights below zero or infinite, and where no token counts.
    """
    if data.token_weights is None:
        return None
    weights = _tensor(data.token_weights).to(device=tokens.device, dtype=torch.float32)
    if weights.shape != tokens.shape:
        raise SettingsError(
            f"token_weights: expected the shape of tokens {tuple(tokens.shape)}, got {tuple(weights.shape)}"
        )
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise SettingsError("token_weights: expected finite numbers, at least zero")
    if not bool(weights.any()):
        raise SettingsError("token_weights: no token counts; at least one must be above zero")
    if bool((weights == 1).all()):
        return None
    once = bool(((weights == 0) | (weights == 1)).all())
    return weights.bool() if once else weights


def _parts(
    model: torch.nn.Module, blocks: torch.nn.ModuleList, mask: torch.Tensor | None, count: int, size: int
) -> list[tuple[Any, dict[str, torch.Tensor]]]:
    """(index of the windows, what the model is given besides) of each batch of up to `size` of `count` windows.

    Windows with padding are of several lengths. Where rotary frequencies follow the longest of a call, those that share
    them go together, with positions that leave the padding out.
    """
    as_they_are: list[tuple[Any, dict[str, torch.Tensor]]] = [
        (slice(start, start + size), {}) for start in range(0, count, size)
    ]
    if mask is None or bool(mask.all()):
        return as_they_are
    rule = length_rule(model, lambda few: record(model, blocks, few))
    if rule.turn(mask.shape[1]) is None:
        return as_they_are
    lengths = mask.sum(1).tolist()
    members: dict[int, list[int]] = {}
    for number, kind in enumerate(rule.classes(lengths)):
        members.setdefault(kind, []).append(number)
    batches = [alike[start : start + size] for alike in members.values() for start in range(0, len(alike), size)]
    return [(windows, {"position_ids": padded_positions(mask[windows])}) for windows in batches]


def _crowded(first: torch.Tensor, tokens: torch.Tensor) -> bool:
    """Whether the hidden states of all `tokens` are too many for the GPU; `first` are those of the first batch."""
    if first.device.type != "cuda":
        return False
    size = first.element_size() * first.shape[-1] * tokens.numel()
    return size > HIDDEN_SHARE * device_memory(first.device)


def _batch_size(seqlen: int, device: torch.device) -> int:
    return max(1, (TOKENS_PER_BATCH_GPU if device.type == "cuda" else TOKENS_PER_BATCH_CPU) // seqlen)


def _kept_once(value: Any, known: Any) -> Any:
    """`value` with every tensor that equals one of `known` replaced by that one, so that the other can go."""
    pool = list(_tensors(known))

    def known_or_own(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            for other in pool:
                if other is item or (
                    other.shape == item.shape and other.dtype == item.dtype and torch.equal(other, item)
                ):
                    return other
            return item
        if isinstance(item, (tuple, list)):
            return type(item)(known_or_own(part) for part in item)
        if isinstance(item, dict):
            return {key: known_or_own(part) for key, part in item.items()}
        return item

    return known_or_own(value)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _first_of(value: Any, windows: int) -> Any:
    """`value` with the first row of every tensor that has a row for each of `windows`."""
    if isinstance(value, torch.Tensor):
        return value[:1] if value.dim() > 1 and value.shape[0] == windows else value
    if isinstance(value, (tuple, list)):
        return type(value)(_first_of(item, windows) for item in value)
    return {key: _first_of(item, windows) for key, item in value.items()} if isinstance(value, dict) else value

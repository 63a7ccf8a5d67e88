"""Final hidden states of many batches, in the order that suits where the model's weights are.

A model that is held whole runs batch by batch. Of a streamed model every block would be read again for each batch, so
the order is turned around: one pass without any block records what the blocks receive in every batch, then each block
runs all batches while the next is fetched, and a last pass, in which the final block gives back what was computed,
runs the norm (and whatever else follows). Both orders run the same operations on the same shapes, so their results are
the same to the last bit. The hard case is room: batches are taken in waves whose hidden states fit the device, or the
host's pinned memory; every wave reads the model once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from methods.lazy import torch
from methods.walk.batches import Batches
from methods.walk.decoder import decoder_blocks, in_place_of_blocks, record
from methods.walk.lengths import LengthRule, forgetful, length_rule
from methods.walk.residency import device_memory, home_of, resident
from sweep.evaluation.scorer.forward import body
from sweep.evaluation.scorer.placewise import Reading, only_where_read
from sweep.weights.memory import host_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEVICE_SHARE = 0.3  # of a GPU's free memory for the hidden states of a wave: logits and activations need the rest
HOST_SHARE = 0.4  # of the host's: the page cache keeps blocks in the rest


@dataclass(frozen=True)
class ModelCall:
    """What the model is given once: token ids (rows, length), and masks or positions as keyword arguments.

    reading: where the result is read, when not everywhere; what it holds at other places means nothing.
    """

    tokens: torch.Tensor
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading | None = None


Forward = Callable[..., Any]  # logits or states of (model, tokens, **arguments)


def final_states(model: PreTrainedModel, calls: Iterable[ModelCall], forward: Forward = body) -> Iterator[torch.Tensor]:
    """What `forward` gives for every call, in order; by default final hidden states (rows, length, width).

    `forward` must run the model's decoder once. `calls` are taken one at a time from a model that is held whole.
    """
    if home_of(model) is None:
        for call in calls:
            with only_where_read(_last_block(model, call), call.reading):
                found = forward(model, call.tokens, **call.arguments)
            yield found
        return
    blocks, waiting = decoder_blocks(model), iter(calls)
    upcoming = next(waiting, None)
    while upcoming is not None:
        wave, upcoming = _wave(model, upcoming, waiting)
        yield from _block_by_block(model, blocks, wave, forward, again=upcoming is not None)


def lengths_of(model: PreTrainedModel) -> LengthRule:
    """Which lengths of sequences may share a call of the model, wherever its blocks are."""
    if home_of(model) is None:
        return length_rule(model, lambda tokens: model(input_ids=tokens, use_cache=False))
    return length_rule(model, lambda tokens: record(model, decoder_blocks(model), tokens))


def check_blocks_alone(model: PreTrainedModel, blocks: Any) -> None:
    """Raise SettingsError unless the model's blocks, run one by one, compute what the model computes.

    `model` is held whole: of a streamed model its first blocks (`StreamedBlocks.sample`).
    """
    tokens = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    with torch.inference_mode(), forgetful(model):
        expected = body(model, tokens)
        try:
            found = next(_block_by_block(model, blocks, [ModelCall(tokens)], body, again=False))
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
            raise SettingsError(f"{_name(model)}: its blocks do not run one by one ({error}), so {_REMEDY}") from None
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()):
        raise SettingsError(f"{_name(model)}: its blocks hand more to each other than hidden states, so {_REMEDY}")


_REMEDY = "it cannot be streamed; use placement: whole"


def _name(model: PreTrainedModel) -> str:
    return f"models: {type(model).__name__}"


def _last_block(model: PreTrainedModel, call: ModelCall) -> Any:
    return None if call.reading is None else decoder_blocks(model)[-1]


def _wave(
    model: PreTrainedModel, first: ModelCall, waiting: Iterator[ModelCall]
) -> tuple[list[ModelCall], ModelCall | None]:
    """(`first` and the calls after it whose hidden states have room somewhere, the call after those)."""
    room = max(_device_room(model), int(HOST_SHARE * host_memory()))
    wave, taken = [first], _bytes(model, first)
    for call in waiting:
        taken += _bytes(model, call)
        if taken > room:
            return wave, call
        wave.append(call)
    return wave, None


def _device_room(model: PreTrainedModel) -> int:
    return int(DEVICE_SHARE * device_memory(model.device)) if model.device.type == "cuda" else 0


def _bytes(model: PreTrainedModel, call: ModelCall) -> int:
    """Of the hidden states of one call."""
    width: int = model.config.get_text_config().hidden_size
    return call.tokens.numel() * width * model.dtype.itemsize


def _block_by_block(
    model: PreTrainedModel, blocks: Any, wave: list[ModelCall], forward: Forward, *, again: bool
) -> Iterator[torch.Tensor]:
    """`again`: another wave begins with the first block."""
    crowded = model.device.type == "cuda" and sum(_bytes(model, call) for call in wave) > _device_room(model)
    batches = Batches([], [], [], torch.device("cpu") if crowded else None)
    for call in wave:
        recorded = record(model, blocks, call.tokens, **call.arguments)
        batches.hidden.append(batches.at_home(recorded[0][0]))
        batches.arguments.append([(positional, keywords) for _, positional, keywords in recorded])
        batches.valid.append(None)
    last = len(blocks) - 1
    for index, block in enumerate(blocks):
        following = index + 1 if index < last else 0 if again else None
        with resident(model, index, following):
            for batch, call in enumerate(wave):
                with only_where_read(block, call.reading if index == last else None):
                    batches.keep(batch, batches.run(block, index, batch))
    for number, call in enumerate(wave):
        hidden = batches.hidden[number].to(model.device, non_blocking=True)
        batches.hidden[number] = hidden.new_empty(0)  # what was given out needs no room here
        batches.arguments[number] = []
        yield _finish(model, blocks, call, hidden, forward, batches.tuples)


def _finish(
    model: PreTrainedModel, blocks: Any, call: ModelCall, hidden: torch.Tensor, forward: Forward, tuples: bool | None
) -> torch.Tensor:
    """What `forward` makes of `hidden`, the output of the last block."""
    last = len(blocks) - 1

    def pass_on(number: int, given: Any, _: tuple[Any, ...], __: dict[str, Any]) -> Any:
        return hidden if number == last else given

    finished: torch.Tensor = in_place_of_blocks(
        blocks, pass_on, lambda: forward(model, call.tokens, **call.arguments), tuples=tuples
    )
    return finished

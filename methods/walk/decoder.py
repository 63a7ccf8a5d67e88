"""Where the blocks of a decoder are, and how to run it without them.

No table of architectures says where blocks are kept: they are the `ModuleList` with as many entries as the
configuration counts layers. A forward of the model with something else in the place of every block shows what each of
them receives. The hard case is a model that is no plain chain: blocks that hand on more than hidden states, or that run
twice. It is refused with the reason. Whether its blocks give back tensors or tuples is found out by trying.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from calib.settings import SettingsError
from methods.lazy import torch
from methods.walk.lengths import forgetful

BlockForward = Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Any]  # (number, hidden, arguments, keywords)


def decoder_blocks(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The `ModuleList` of the model's decoder blocks. Raises SettingsError when there is none."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    wanted = getattr(text, "num_hidden_layers", None)
    lists = [module for module in decoder_of(model).modules() if isinstance(module, torch.nn.ModuleList)]
    for blocks in lists:
        if len(blocks) and (wanted is None or len(blocks) == wanted):
            return blocks
    raise SettingsError(
        f"model: {type(model).__name__} has no ModuleList of {wanted} decoder blocks; give a decoder-only model"
    )


def decoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """The model without its vocabulary projection; all of it where `get_decoder` gives a part without blocks."""
    get_decoder = getattr(model, "get_decoder", None)
    found: Any = None if get_decoder is None else get_decoder()
    holds_blocks = found is not None and any(isinstance(module, torch.nn.ModuleList) for module in found.modules())
    return found if holds_blocks else model


def record(
    model: torch.nn.Module, blocks: torch.nn.ModuleList, tokens: torch.Tensor, **arguments: Any
) -> list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]]:
    """(hidden, other arguments, keyword arguments) of every block, from one forward that runs none of them.

    `tokens` [windows, length] and `arguments` are what the decoder is given. Raises SettingsError when the model is no
    chain of blocks that hand on hidden states alone.
    """
    recorded: list[tuple[Any, Any, Any]] = []

    def note(number: int, hidden: Any, positional: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if hidden.dim() != 3:
            raise ValueError(f"hidden states of shape {list(hidden.shape)}, not [windows, length, width]")
        del recorded[number:]  # of an earlier try
        recorded.append((hidden, positional, keywords))
        return hidden

    try:
        with forgetful(model):
            in_place_of_blocks(blocks, note, lambda: decoder_of(model)(input_ids=tokens, use_cache=False, **arguments))
    except (torch.OutOfMemoryError, torch.AcceleratorError, SettingsError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise SettingsError(
            f"model: {type(model).__name__} cannot be walked block by block: its blocks must turn hidden states into "
            f"hidden states of the same shape and pass nothing else on ({type(error).__name__}: {error})"
        ) from error
    return recorded


def in_place_of_blocks(
    blocks: torch.nn.ModuleList, forward: BlockForward, call: Callable[[], Any], *, tuples: bool | None = None
) -> Any:
    """`call()` with `forward(number, hidden, arguments, keywords)` in place of every block's own.

    tuples: whether blocks of this model give back a tuple; None finds it out by trying.
    """

    def stand_in(number: int, given: list[Any], *, as_tuple: bool) -> Callable[..., Any]:
        def run(hidden: Any, *arguments: Any, **keywords: Any) -> Any:
            if len(given) != number:
                raise SettingsError(
                    f"model: block {number} of {len(blocks)} runs as number {len(given)} of the pass: a walk needs "
                    "blocks that run one after the other, each of them once (the model shares or repeats its blocks)"
                )
            if number and not as_tuple and hidden.shape != given[-1].shape:
                raise IndexError("the model took the first row of a tensor for the first item of a tuple")
            given.append(forward(number, hidden, arguments, keywords))
            return (given[-1],) if as_tuple else given[-1]

        return run

    own = [vars(block).get("forward") for block in blocks]  # such as a hook of accelerate
    for as_tuple in (False, True) if tuples is None else (tuples,):
        try:
            given: list[Any] = []
            for number, block in enumerate(blocks):
                block.forward = stand_in(number, given, as_tuple=as_tuple)
            return call()
        except (IndexError, AttributeError, TypeError):
            if as_tuple or tuples is not None:
                raise
        finally:
            for block, forward_before in zip(blocks, own, strict=True):
                vars(block).pop("forward", None)  # a block may be there twice
                if forward_before is not None:
                    block.forward = forward_before
    raise AssertionError("unreachable")

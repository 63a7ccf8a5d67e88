"""Squared gradients of the loss, window by window, against one backward pass each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from methods.walk.decoder import decoder_blocks
from methods.walk.gradients import squared_gradients
from methods.walk.linears import linears_of


def test_sums_are_the_mean_over_windows_of_squares_of_plain_backward_passes(
    make_llama: Callable[..., Any], tokens: np.ndarray
) -> None:
    model = make_llama(num_hidden_layers=1)
    linears = linears_of(decoder_blocks(model)[0])
    found = squared_gradients(model, linears, tokens)
    weight = linears[-1].module.weight
    squares = torch.zeros_like(weight)
    for window in tokens:
        model.zero_grad()
        ids = torch.as_tensor(window[None], device=model.device).long()
        model(input_ids=ids, labels=ids).loss.backward()
        squares += weight.grad.square() / len(tokens)
    rows, columns = found[len(linears) - 1]
    assert torch.allclose(rows, squares.sum(1), rtol=1e-3)
    assert torch.allclose(columns, squares.sum(0), rtol=1e-3)


def test_which_weights_want_gradients_is_left_as_it_was(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama(num_hidden_layers=1)
    model.model.embed_tokens.weight.requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    squared_gradients(model, linears_of(decoder_blocks(model)[0]), tokens[:1])
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())


def test_padding_has_no_part_in_the_loss(make_llama: Callable[..., Any], tokens: np.ndarray) -> None:
    model = make_llama(num_hidden_layers=1)
    linears, short = linears_of(decoder_blocks(model)[0]), tokens[:, :16]
    mask = np.ones_like(tokens)
    mask[:, 16:] = 0
    padded, plain = squared_gradients(model, linears, tokens, mask), squared_gradients(model, linears, short)
    for index in range(len(linears)):
        assert torch.allclose(padded[index][0], plain[index][0], rtol=1e-3, atol=1e-9)

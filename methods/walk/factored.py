"""Two factors in the place of a linear: how they stand in a model, and why such a model is not saved as it is.

The linear becomes an `nn.Sequential` of two, [cols -> rank] and [rank -> rows] with the bias. transformers knows no
such layer: a checkpoint of the two is read without an error, and random numbers take the place of the linear. So
`save_pretrained` of a model that holds factors refuses; `merge_factors` multiplies them into linears of the kind that
was there (GPT-2's are stored transposed), which can be saved. The hard case is a model that gets its dense weights
back: the refusal looks at the model as it is when it is saved, not as it was when it was compressed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from methods.lazy import torch

MARK = "in_place_of"  # attribute of the Sequential that holds two factors: the class of the linear that was there


class SavingError(ValueError):
    """A model cannot be saved so that what is loaded is what was saved. The message names the remedy."""


def factors_of(linear: Any, left: torch.Tensor, right: torch.Tensor) -> Any:
    """The module that takes the place of `linear`: `right` [rank, cols] first, then `left` [rows, rank] and the bias.

    `linear` is an `nn.Linear` or a `Conv1D`; its dtype, device and mode are kept.
    """
    like, bias = linear.weight, linear.bias
    (rank, cols), rows = right.shape, left.shape[0]
    first = torch.nn.Linear(cols, rank, bias=False, device=like.device, dtype=like.dtype)
    second = torch.nn.Linear(rank, rows, bias=bias is not None, device=like.device, dtype=like.dtype)
    first.weight.data.copy_(right)
    second.weight.data.copy_(left)
    if bias is not None:
        second.bias = bias
    for parameter in (first.weight, second.weight):
        parameter.requires_grad_(like.requires_grad)
    pair = torch.nn.Sequential(first, second).train(linear.training)
    setattr(pair, MARK, type(linear))
    return pair


def factored(model: torch.nn.Module) -> list[str]:
    """The names of the linears of `model` in whose place two factors stand."""
    return [name for name, module in model.named_modules() if hasattr(module, MARK)]


def merge_factors(model: torch.nn.Module) -> list[str]:
    """Put one linear of the kind that was there in the place of every two factors, in place; returns their names.

    The weight is the factors' product, in the model's dtype: the model computes what it did, to the rounding of that,
    and has as many numbers as the dense one again.
    """
    names = factored(model)
    for name in reversed(names):  # factors of factors first
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _merged(model.get_submodule(name)))
    return names


def _merged(pair: Any) -> Any:
    (first, second), kind = pair, getattr(pair, MARK)
    like, bias = first.weight, second.bias
    product = second.weight.detach().float() @ first.weight.detach().float()
    if issubclass(kind, torch.nn.Linear):
        merged = torch.nn.Linear(first.in_features, second.out_features, bias is not None)
    else:  # Conv1D, [cols, rows]
        merged, product = kind(second.out_features, first.in_features), product.T.contiguous()
    merged.weight = torch.nn.Parameter(product.to(like.dtype), requires_grad=like.requires_grad)
    if bias is not None:
        merged.bias = bias
    return merged.train(pair.training)


def refuse_to_save_factors(model: torch.nn.Module) -> None:
    """From now on `model.save_pretrained` raises SavingError for as long as the model holds factors."""
    if factored(model) and hasattr(type(model), "save_pretrained"):
        vars(model)["save_pretrained"] = partial(
            save_pretrained, model
        )  # copies and pickles of the model get one of their own


def save_pretrained(model: torch.nn.Module, *arguments: Any, **keywords: Any) -> Any:
    """The model's own `save_pretrained`, unless it would write factors that cannot be loaded. Raises SavingError."""
    names = factored(model)
    if names and keywords.get("state_dict") is None:
        raise SavingError(
            f"save_pretrained: two low-rank factors stand in the place of {len(names)} linears ({names[0]}, ...), and "
            "no model class loads them (from_pretrained would fill in random weights); call "
            "methods.walk.factored.merge_factors(model) before, which multiplies them into dense matrices, or save "
            "model.state_dict() with torch"
        )
    kind: Any = type(model)
    return kind.save_pretrained(model, *arguments, **keywords)

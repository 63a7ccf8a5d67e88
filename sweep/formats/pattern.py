"""Whether the weights of a model keep to an n:m pattern, looked at in the model that is written.

A kernel for 2:4 sparsity takes the pattern for granted and drops what does not fit, so a single group with three
weights would go unnoticed. Rows are looked at along the inputs, where the pattern was chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.blockwise import CompressionReport, decoder_blocks
from methods.families.pruning import parse_pattern
from methods.lazy import torch
from methods.walk.job import NO_TOKENS
from methods.walk.linears import linears_of
from methods.walk.residency import resident
from sweep.formats.format import FormatError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_pattern(model: PreTrainedModel, pattern: str, report: CompressionReport) -> int:
    """The number of compressed linears, each of which keeps to `pattern` ("2:4": at most two of four are not zero).

    Raises FormatError naming the first that does not. Linears that no token reached were left dense, and do not count.
    """
    kept, of = parse_pattern(pattern)
    compressed = {(layer.block, layer.linear) for layer in report.final if layer.fallback != NO_TOKENS}
    for index, block in enumerate(decoder_blocks(model)):
        with resident(model, index):
            for linear in linears_of(block):
                if (index, linear.name) in compressed and not keeps_to(linear.weight, kept, of):
                    raise FormatError(
                        f"block {index} {linear.name}: more than {kept} of {of} weights are not zero, so the model "
                        f"does not keep to the pattern {pattern}"
                    )
    return len(compressed)


def keeps_to(weight: torch.Tensor, kept: int, of: int) -> bool:
    """Whether at most `kept` of every `of` consecutive inputs of `weight` [rows, cols] are not zero."""
    return bool(((weight != 0).unflatten(1, (-1, of)).sum(2) <= kept).all())

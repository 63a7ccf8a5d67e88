"""Random Hadamard rotation (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456; R1 and R2 of SpinQuant, arXiv:2405.16406).

The vectors of the residual stream, and the values of each attention head, are turned by an orthogonal matrix that is
multiplied into the weights. The model computes what it did, but a weight or input that is large in one place is spread
over all of them, so that the grids of the next step of a composition are finer. Nothing is quantized here and no data
is looked at. What is lost are the norms' weights, which often are small where the stream is large and so spare inputs
that matter: GPTQ, which knows its inputs, makes up for it, RTN may not (docs/methods.md has figures).

Only what can be folded into weights is turned: the inputs of `o_proj` by head, those of `down_proj` not at all, for
which QuaRot computes a Hadamard transform while the model runs. The hard case is the type of the model: rotated weights
are rounded to it, and the error in the report is that of this rounding.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from calib.settings import SettingsError, settings
from methods.base import BlockMethod, register
from methods.inputs.telemetry import Replacement, measured
from methods.lazy import torch
from methods.numerics.hadamard import Rotation
from methods.outcome import CompressedWeight, Measurement
from methods.protocols import BlockLinear, BlockWork
from methods.walk.stream import (
    ATTENTION_NORM,
    CLASSES,
    MLP_NORM,
    OUTPUTS,
    ROUTER,
    VALUES,
    check_stream,
    norm_before,
    turn_outside,
    turn_readers,
    writes,
)


@register("rotation")
@settings
class HadamardRotation(BlockMethod):
    """seed: of the signs of the rotations. heads: the values of attention are turned as well, head by head."""

    keeps_zeros: ClassVar[bool] = False
    whole_model: ClassVar[bool] = True
    architectures: ClassVar[tuple[str, ...] | None] = CLASSES

    seed: int = Field(default=0, ge=0)
    heads: bool = True

    def describe(self) -> str:
        parts = ["Rotation", *([] if self.heads else ["of the stream"]), *([f"seed {self.seed}"] if self.seed else [])]
        return " ".join(parts)

    def check_model(self, model: torch.nn.Module) -> None:
        try:
            check_stream(model)
        except SettingsError as error:
            raise SettingsError(f"{self.name}: {error}; leave the method out for this model") from None

    def change_outside(self, model: torch.nn.Module) -> None:
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        turn_outside(model, self._stream(embedding.weight.shape[1]))

    def compress_block(self, work: BlockWork) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}
        for linear in work.linears:
            exact = self._turned(work.block, linear)
            stored = exact.to(linear.weight.dtype)
            found |= measured([Replacement(linear.name, exact, stored, CompressedWeight(stored))], None)
            linear.store(stored)
        self._turn_the_rest(work.block)
        return found

    def _turned(self, block: Any, linear: BlockLinear) -> torch.Tensor:
        """The weight of a linear of the block in the turned model, float64 [rows, cols]."""
        name = linear.name.rpartition(".")[0] if linear.kind == "expert" else linear.name
        weight = linear.weight.double()
        if writes(name):
            if name == OUTPUTS and self.heads:
                heads = self._heads(block)
                weight = heads.rows(weight.unflatten(1, (-1, heads.width))).flatten(1)
            return self._stream(weight.shape[0]).columns(weight)
        gain = block.get_submodule(norm_before(name)).weight
        weight = self._stream(weight.shape[1]).rows(weight * gain.double())
        if name == VALUES and self.heads:
            heads = self._heads(block)
            weight = heads.rows(weight.unflatten(0, (-1, heads.width)).mT).mT.flatten(0, 1)
        return weight

    def _turn_the_rest(self, block: Any) -> None:
        """Biases, a router and norms, in place, when the linears have been turned."""
        for name, parameter in block.named_parameters():
            linear, _, kind = name.rpartition(".")
            if kind == "bias" and writes(linear):
                parameter.detach().copy_(self._stream(len(parameter)).rows(parameter))
            elif kind == "bias" and linear == VALUES and self.heads:
                heads = self._heads(block)
                parameter.detach().copy_(heads.rows(parameter.view(-1, heads.width)).flatten())
            elif linear == ROUTER and kind == "weight":
                turn_readers(parameter, self._stream(parameter.shape[1]), block.get_submodule(MLP_NORM).weight)
        for norm in (ATTENTION_NORM, MLP_NORM):
            block.get_submodule(norm).weight.detach().fill_(1.0)

    def _stream(self, width: int) -> Rotation:
        return Rotation(width, self.seed, "stream")

    def _heads(self, block: Any) -> Rotation:
        return Rotation(int(block.self_attn.head_dim), self.seed, "head")

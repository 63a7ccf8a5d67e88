"""What a solver fitted, kept while a model is compressed: for formats whose scales the weights do not tell.

Weights that were rounded to 16 bits do not say on which real-valued grid they were. So the witness of `compress_model`
puts what the solver hands over into a file for each linear, and no more than those of one linear are in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from methods.lazy import torch
from methods.outcome import CompressedWeight, FittedBlocks, FittedGroups


class Kept(Protocol):
    """The kept numbers of a model's linears, and what is stored of a weight with them."""

    format: ClassVar[str]

    def names(self) -> list[str]:
        """The linears that something is kept of, by the block's number and the name inside it: `0.mlp.up_proj`."""
        ...

    def packed(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is stored of the linear's `weight` [rows, cols], by the names that follow the linear's."""
        ...

    def describe(self, linears: Sequence[str], dtype: str) -> dict[str, Any]:
        """What a loader of a model in `dtype` must know besides the tensors of these `linears`."""
        ...


class KeptFiles:
    """A file of tensors for every linear, in `folder`."""

    keeps: ClassVar[type[FittedGroups] | type[FittedBlocks]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, block: int, linear: str, compressed: CompressedWeight) -> None:
        """Keep what the solver fitted; a step that fitted nothing of the kind takes away what an earlier one did."""
        from safetensors.torch import save_file

        file = self._file(f"{block}.{linear}")
        file.unlink(missing_ok=True)
        if isinstance(compressed.fitted, self.keeps):
            tensors = {key: part for key, part in vars(compressed.fitted).items() if part is not None}
            share = float(compressed.outlier_share or 0.0)
            save_file(
                {key: part.detach().cpu().contiguous() for key, part in tensors.items()},
                file,
                metadata={"outlier_share": repr(share)},
            )

    def names(self) -> list[str]:
        """The linears that something is kept of, by the block's number and the name inside it: `0.mlp.up_proj`."""
        return sorted(file.name.removesuffix(".safetensors") for file in self.folder.glob("*.safetensors"))

    def _kept(self, name: str, device: torch.device) -> tuple[Mapping[str, torch.Tensor], float]:
        """The kept tensors of a linear, on `device`, and its share of outliers."""
        from safetensors import safe_open

        with safe_open(self._file(name), "pt") as opened:
            tensors = {key: opened.get_tensor(key).to(device) for key in opened.keys()}  # noqa: SIM118
            return tensors, float(opened.metadata()["outlier_share"])

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

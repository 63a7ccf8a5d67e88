"""What runs on a tensor: the Triton kernels of `methods/kernels`, or their twins in plain torch in this room.

Column loops, sums over 16-bit inputs and the search for thresholds have both, and a Protocol says what both can do. On
a CUDA device the kernels run, everywhere else the twins. `column_backend` forces one of the two, for tests and
benchmarks. The hard case is a CUDA device without Triton: the twins do the work, a log message says so once, and
`backend_of` names what ran, so that a slow run explains itself.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Literal, Protocol, cast

from methods.lazy import torch
from methods.numerics.blocks import ColumnBlock, GridTable, GroupPlan, PruneRule
from methods.numerics.spqr import SpQRRule

Backend = Literal["auto", "torch", "triton"]

_backend: Backend = "auto"


class ColumnKernels(Protocol):
    """What solves a block of columns: `methods/kernels/columns.py`, or its twin `methods/numerics/columns.py`."""

    def quantize_block(self, block: ColumnBlock, grids: GridTable, keep: torch.Tensor | None) -> torch.Tensor: ...

    def prune_block(self, block: ColumnBlock, rule: PruneRule) -> torch.Tensor: ...

    def fit_groups(self, groups: torch.Tensor, plan: GroupPlan, table: GridTable) -> None: ...


class SpQRKernels(Protocol):
    """What solves a block of SpQR's columns: `methods/kernels/spqr.py`, or its twin `methods/numerics/spqr.py`."""

    def spqr_block(
        self,
        rule: SpQRRule,
        block: ColumnBlock,
        threshold: torch.Tensor | None,
        keep: torch.Tensor | None,
        outliers: torch.Tensor,
        fitted: torch.Tensor,
    ) -> torch.Tensor: ...


class SelectionKernels(Protocol):
    """What searches scores: `methods/kernels/selection.py`; its twins are inside `methods/numerics/selection.py`."""

    WIDEST_ROW: int

    def kth_smallest(self, scores: torch.Tensor, k: int) -> torch.Tensor: ...

    def smallest_of_rows(self, scores: torch.Tensor, count: int) -> torch.Tensor: ...

    def block_mask(
        self,
        block: torch.Tensor,
        diagonal: torch.Tensor,
        segments: Sequence[int],
        ranks: Sequence[int],
        forced: torch.Tensor | None,
    ) -> torch.Tensor: ...


class GramKernels(Protocol):
    """What sums XᵀX: `methods/kernels/gram.py`; its twin is inside `methods/numerics/gram.py`."""

    def suits(self, inputs: torch.Tensor) -> bool: ...

    def add_gram(self, total: torch.Tensor, inputs: torch.Tensor) -> None: ...


@contextmanager
def column_backend(backend: Backend) -> Iterator[None]:
    """Inside the `with` block: `torch` runs the twin everywhere, `triton` the kernels everywhere.

    Kernels on a CPU need Triton's interpreter (environment variable TRITON_INTERPRET=1).
    """
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


def runs_kernels(tensor: torch.Tensor) -> bool:
    """Whether work on `tensor` runs as kernels; false when plain torch does it."""
    if _backend == "torch" or (_backend == "auto" and not tensor.is_cuda):
        return False
    if _backend == "auto" and not has_triton():
        say_that_triton_is_missing()
        return False
    return True


def column_kernels(tensor: torch.Tensor) -> ColumnKernels | None:
    """The kernels for columns on the device of `tensor`; None when their twin does the work."""
    return cast(ColumnKernels, _kernels("columns")) if runs_kernels(tensor) else None


def spqr_kernels(tensor: torch.Tensor) -> SpQRKernels | None:
    """The kernels for SpQR's columns on the device of `tensor`; None when their twin does the work."""
    return cast(SpQRKernels, _kernels("spqr")) if runs_kernels(tensor) else None


def selection_kernels(tensor: torch.Tensor) -> SelectionKernels | None:
    """The kernels that search scores on the device of `tensor`; None when torch does it."""
    return cast(SelectionKernels, _kernels("selection")) if runs_kernels(tensor) else None


def gram_kernels(tensor: torch.Tensor) -> GramKernels | None:
    """The kernels that sum inputs on the device of `tensor`; None when torch does it."""
    return cast(GramKernels, _kernels("gram")) if runs_kernels(tensor) else None


def backend_of(tensor: torch.Tensor) -> str:
    """`triton 3.6.0`, or `torch` for the twin: what solves the columns of a weight on the device of `tensor`."""
    if not runs_kernels(tensor):
        return "torch"
    return f"triton {importlib.import_module('triton').__version__}"


def _kernels(name: str) -> ModuleType:
    """The module of that name in `methods/kernels`, imported here alone: it needs Triton."""
    return importlib.import_module(f"methods.kernels.{name}")


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def say_that_triton_is_missing() -> None:
    """A warning, once."""
    logging.getLogger(__name__).warning(
        "Triton is not installed: on the CUDA device column loops, Hessians and thresholds run in plain torch, with the"
        " same results and much slower for GPTQ, SparseGPT and SpQR; install triton, which CUDA builds of torch ask for"
    )

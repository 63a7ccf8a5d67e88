"""What runs on a tensor: the Triton kernels of this folder, or the plain torch twin beside them.

Column loops, sums over 16-bit inputs and the search for thresholds have both. On a CUDA device the kernels run,
everywhere else the twin. `column_backend` forces one of the two, for tests and benchmarks. The hard case is a CUDA
device without Triton: the twin does the work, a log message says so once, and `backend_of` names what ran, so that a
slow run explains itself.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

from methods.lazy import torch

Backend = Literal["auto", "torch", "triton"]

_backend: Backend = "auto"


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


def device_kernels(tensor: torch.Tensor, name: str = "columns") -> ModuleType | None:
    """The module `name` of `methods.kernels` when work on `tensor` runs as kernels, None when plain torch does it."""
    if _backend == "torch" or (_backend == "auto" and not tensor.is_cuda):
        return None
    if _backend == "auto" and not has_triton():
        _say_once()
        return None
    return importlib.import_module(f"methods.kernels.{name}")


def backend_of(tensor: torch.Tensor) -> str:
    """`triton 3.6.0`, or `torch` for the twin: what solves the columns of a weight on the device of `tensor`."""
    if device_kernels(tensor) is None:
        return "torch"
    return f"triton {importlib.import_module('triton').__version__}"


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _say_once() -> None:
    logging.getLogger(__name__).warning(
        "Triton is not installed: on the CUDA device column loops, Hessians and thresholds run in plain torch, with the"
        " same results and much slower for GPTQ, SparseGPT and SpQR; install triton, which CUDA builds of torch ask for"
    )

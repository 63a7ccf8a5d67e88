"""`from methods.lazy import torch`: torch, loaded at its first use.

Planning a study reads every method's settings and must answer within a second or two; importing torch alone takes
longer. Files in `methods/` that import torch directly work as well, they only make planning slower. `Lazy` does the
same for any other package: `ray = Lazy("ray")`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class Lazy(ModuleType):
    """A package that is loaded when one of its names is first asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch as torch
else:
    torch = Lazy("torch")

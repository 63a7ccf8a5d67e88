"""Named plug-ins: a file dropped into a package registers what it offers, and a typo gets a suggestion."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from calib.settings import SettingsError, shown, suggestion

T = TypeVar("T")


class Registry(Generic[T]):
    """What `package` offers under a name. The modules of the package are imported at the first look-up."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that offers a class or function as `name`. Raises SettingsError when the name is taken."""

        def add(entry: T) -> T:
            taken = self._entries.get(name)
            if taken is not None and _origin(taken) != _origin(entry):
                raise SettingsError(
                    f"{self.kind} '{name}' is registered twice: {_origin(taken)} and {_origin(entry)}; rename one"
                )
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Raises SettingsError with a suggestion when nothing has that name."""
        self._discover()
        if name not in self._entries:
            raise SettingsError(f"unknown {self.kind} {shown(name)}{suggestion(str(name), self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        self._discover()
        return sorted(self._entries)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        folder = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(folder.__path__):
            if not module.ispkg:
                importlib.import_module(f"{self.package}.{module.name}")


def _origin(entry: object) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', entry)}"

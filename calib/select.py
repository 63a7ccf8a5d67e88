"""Choosing windows: out of a pool of windows that a source gives, those that a set shall have.

`select: {by: lexical, pool: 10}` draws ten times as many windows as the set holds and keeps the best tenth, by a rule
in a file of `calib/selectors/`. Set k selects from the k-th block of the pool, so sets stay disjoint; every rule gives
an order, of which a smaller set is the beginning, so sets stay nested. What a rule costs and does is only known against
`random`, which takes the same pool and no look at it.

Some rules need a model (activations, perplexity). Nothing here knows one: such a rule names what it `needs`, and who
builds the set brings a function that measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field

from calib.registry import Registry
from calib.settings import INSIDE, SettingsError, parse, settings, shown
from calib.source import Source

S = TypeVar("S", bound="type[Selector]")

Measure = Callable[[str, np.ndarray], np.ndarray]  # (what is needed, tokens (windows, length)) -> (windows, ...)
MAX_POOL = 1_000  # times the set


@dataclass(frozen=True, eq=False)
class Candidates:
    """The windows to choose from."""

    tokens: np.ndarray  # (windows, length), int32
    words_of: Callable[[np.ndarray], Sequence[str]]  # the texts of token ids, each for itself
    features: np.ndarray | None = None  # (windows, ...), float64: what the rule asked to be measured
    target: np.ndarray | None = None  # (windows, length), int32: text that the set shall resemble
    target_features: np.ndarray | None = None  # (target windows, ...), float64: the same of the target

    @property
    def measured(self) -> np.ndarray:
        """The features, which a rule that `needs` some is given."""
        if self.features is None:
            raise ValueError("features: the rule needs what a model measures of the windows, got None")
        return self.features

    def standardised(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Features of the windows and of the target, in standard deviations of the pool from its mean.

        A feature that is the same in all windows is 0.
        """
        mean = self.measured.mean(axis=0)
        known = np.ptp(self.measured, axis=0) > 0  # the SD of equal numbers may be a rounding error, which would divide
        scale = np.where(known, self.measured.std(axis=0), 1.0)

        def scaled(features: np.ndarray) -> np.ndarray:
            return np.where(known, (features - mean) / scale, 0.0)

        return scaled(self.measured), None if self.target_features is None else scaled(self.target_features)


@settings
class Selector:
    """Base of the rules. `pool`: how many times as many windows are drawn as a set may hold."""

    selector_name: ClassVar[str] = ""
    needs: ClassVar[str | None] = None  # what a model must measure of each window, see sweep/features/measure.py
    version: ClassVar[int] = 1  # raised when the same windows come to be ordered otherwise

    pool: Annotated[int, Field(ge=1, le=MAX_POOL)] = 10

    @property
    def label(self) -> str:
        """Its name in tables: `lexical`, or `herding (pool 4, target books)` where settings are not the defaults."""
        described = getattr(type(self), "__pydantic_fields__", {})
        given = {
            name: value.label if isinstance(value, Source) else value
            for name, value in ((item.name, getattr(self, item.name)) for item in fields(self))  # type: ignore[arg-type]
            if value != described[name].get_default(call_default_factory=True)
        }
        told = ", ".join(f"{name} {value}" for name, value in given.items())
        return f"{self.selector_name} ({told})" if told else self.selector_name

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        """The `count` windows to keep, the most wanted first; (count,), int64. `random` gives seeded 64-bit numbers."""
        raise NotImplementedError(f"{type(self).__name__} must order the windows")

    def target_source(self) -> Source | None:
        """The text that the set shall resemble, for rules that have one."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, which `get_selector` turns back into this rule."""
        return {"by": self.selector_name, **self._values(lambda source: source.to_dict())}

    def identity(self) -> dict[str, Any]:
        """What can change the choice, without names and places."""
        values = self._values(lambda source: {**source.identity(), "revision": source.revision()})
        return {"by": self.selector_name, **values, "code": self.version}

    def located(self, folder: str | Path, place: str = "select") -> Selector:
        """The same rule, the relative paths of its target read from `folder`."""
        return parse(type(self), self._values(lambda source: source.located(folder, place)), place)

    def _values(self, change: Callable[[Source], Any]) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        return {name: change(value) if isinstance(value, Source) else value for name, value in values.items()}


SELECTORS: Registry[type[Selector]] = Registry("selection", "calib.selectors")


def register(name: str) -> Callable[[S], S]:
    """Decorator that offers a rule under a name."""

    def add(cls: S) -> S:
        cls.selector_name = name
        SELECTORS.register(name)(cls)
        return cls

    return add


def get_selector(entry: str | Mapping[str, Any] | Selector, path: str = "select") -> Selector:
    """The rule that an entry means: `"lexical"`, or `{"by": "lexical", "pool": 10}`. Raises SettingsError."""
    if isinstance(entry, Selector):
        return entry
    values = {"by": entry} if isinstance(entry, str) else entry
    if not isinstance(values, Mapping) or not isinstance(values.get("by"), str):
        raise SettingsError(f"{path}: expected the name of a rule or a mapping with the key 'by', got {shown(entry)}")
    try:
        cls = SELECTORS.get(values["by"])
    except SettingsError as error:
        raise SettingsError(f"{path}.by: {error}") from None
    return parse(cls, {key: value for key, value in values.items() if key != "by"}, path)


def _setting(entry: Any) -> Selector:
    return get_selector(entry, INSIDE)


SelectorSetting = Annotated[Selector, BeforeValidator(_setting)]


def choose(selector: Selector, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
    """The windows to keep, each once, the most wanted first; (count,), int64."""
    chosen = np.asarray(selector.order(candidates, count, random), dtype=np.int64)
    if len(chosen) != count or len(np.unique(chosen)) != count:
        raise ValueError(f"{type(selector).__name__} must choose {count} different windows, got {chosen.tolist()}")
    return chosen

"""What describes a calibration set to a model by a number, to be related to what the set did to that model.

A descriptor is a function in a file of this room, decorated with `@register("name")`:

    @register("perplexity")
    def perplexity(described: Described) -> Numbers:
        return {SET: float(...)}

It gets a `Described` (the dense model, the set's tokens, the targets' windows, what else there is) and gives a number
by name of the target, or one under `SET` where it is of the set alone; an empty mapping where it needs what is not
given. What several descriptors need of the model is found once and kept by `Described`. `describe` asks all of them, or
those of some names. Those of the tokens alone are in `calib/describe/`.

The hard case is comparison: most of these numbers move with the number of tokens and the length of windows, so sets are
compared at equal size, and targets are given windows of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from calib.registry import Registry
from methods.base import Method
from methods.walk.decoder import decoder_blocks
from sweep.features.likelihood import Likelihood
from sweep.features.look import BlockInputs, Look, look, spread_layers

SET = ""  # in the place of a target's name: a number of the set alone

Numbers = dict[str, float]  # by name of the target, or SET
Descriptor = Callable[["Described"], Numbers]
DESCRIPTORS: Registry[Descriptor] = Registry("descriptor", "sweep.describe")
register = DESCRIPTORS.register


@dataclass(frozen=True, eq=False)
class Described:
    """A set and the dense model that is to be compressed with it; the model is as it was afterwards.

    targets: windows of each text that the compressed model is for, [windows, length], by name; not what is evaluated,
    where the numbers are to choose a set. own: windows that the model wrote. method: how it will be compressed;
    weights: how often each token of the set counts in that (None: once), which no other descriptor looks at.
    batch_size: windows of a forward, a matter of speed.
    """

    model: Any
    tokens: np.ndarray  # (nsamples, seqlen), int32
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)
    own: np.ndarray | None = None  # (windows, length), int32
    method: Method | None = None
    weights: np.ndarray | None = None  # (nsamples, seqlen), float64
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if SET in self.targets:
            raise ValueError("targets: a target needs a name, got ''")

    @cached_property
    def seen(self) -> Look:
        """One pass of the set: likelihoods and block inputs."""
        return self._look(self.tokens, likelihood=True)

    @property
    def likelihood(self) -> Likelihood:
        """Of the set."""
        assert self.seen.likelihood is not None
        return self.seen.likelihood

    @cached_property
    def target_inputs(self) -> dict[str, BlockInputs]:
        """Block inputs of each target."""
        return {name: self.inputs_of(windows) for name, windows in self.targets.items()}

    def inputs_of(self, windows: np.ndarray) -> BlockInputs:
        """Block inputs of any windows, one pass."""
        found = self._look(windows, likelihood=False).inputs
        assert found is not None
        return found

    @property
    def blocks(self) -> int:
        """How many decoder blocks the model has."""
        return len(decoder_blocks(self.model))

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks whose inputs are looked at."""
        return spread_layers(self.blocks)

    def _look(self, windows: np.ndarray, *, likelihood: bool) -> Look:
        return look(self.model, windows, likelihood=likelihood, layers=self.layers, batch_size=self.batch_size)


@dataclass(frozen=True)
class Description:
    """A descriptor's number: of the set alone (`target` None), or of the set and a target."""

    descriptor: str
    target: str | None
    value: float


def describe(described: Described, names: Sequence[str] = ()) -> list[Description]:
    """What each descriptor of these `names` (all of them, if none is given) says, by name and target.

    Raises SettingsError for a name that no descriptor has.
    """
    return [
        Description(name, None if target == SET else target, value)
        for name in names or DESCRIPTORS.names()
        for target, value in sorted(DESCRIPTORS.get(name)(described).items())
    ]

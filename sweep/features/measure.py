"""What rules of selection may ask of a model, by name: the seam between `calib.select` and one pass of the model.

A rule of `calib/selectors/` names what it `needs`; `Measure` answers with one row a window. Several rules on one pool
ask several times, and each time the pool goes through the model again: a set is built once and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.settings import SettingsError, shown, suggestion
from methods.walk.decoder import decoder_blocks
from sweep.features.look import BlockInputs, look, spread_layers


@dataclass(frozen=True)
class ModelMeasure:
    """The `Measure` of a dense model (a function of what is needed and tokens [windows, length])."""

    model: Any
    batch_size: int | None = None

    def __call__(self, needed: str, tokens: np.ndarray) -> np.ndarray:
        """(windows, ...), float64; see FEATURES. Raises SettingsError for a name that no feature has."""
        if needed not in FEATURES:
            raise SettingsError(f"select: no model measures {shown(needed)}{suggestion(needed, FEATURES)}")
        return FEATURES[needed](self, tokens).astype(np.float64)

    def inputs(self, tokens: np.ndarray) -> BlockInputs:
        """Of the blocks that `spread_layers` gives."""
        found = look(
            self.model, tokens, layers=spread_layers(len(decoder_blocks(self.model))), batch_size=self.batch_size
        )
        assert found.inputs is not None
        return found.inputs


def _perplexity(measure: ModelMeasure, tokens: np.ndarray) -> np.ndarray:
    """(windows,)"""
    found = look(measure.model, tokens, likelihood=True, batch_size=measure.batch_size)
    assert found.likelihood is not None
    return found.likelihood.perplexity


def _activations(measure: ModelMeasure, tokens: np.ndarray) -> np.ndarray:
    """(windows, layers, width): mean sizes of the inputs of blocks over the depth."""
    return measure.inputs(tokens).sizes


def _moments(measure: ModelMeasure, tokens: np.ndarray) -> np.ndarray:
    """(windows, layers, 2 width): means, then variances, of the inputs of blocks over the depth."""
    inputs = measure.inputs(tokens)
    return np.concatenate([inputs.means, inputs.variances], axis=2)


def _outliers(measure: ModelMeasure, tokens: np.ndarray) -> np.ndarray:
    """(windows, layers, width): the largest sizes of the inputs of blocks over the depth."""
    return measure.inputs(tokens).largest


def _expert_loads(measure: ModelMeasure, tokens: np.ndarray) -> np.ndarray:
    """(windows, mixtures of experts, experts): tokens of the window that go to each expert."""
    found = look(measure.model, tokens, experts=True, batch_size=measure.batch_size)
    assert found.loads is not None
    return found.loads


FEATURES: dict[str, Callable[[ModelMeasure, np.ndarray], np.ndarray]] = {
    "activations": _activations,
    "expert_loads": _expert_loads,
    "moments": _moments,
    "outliers": _outliers,
    "perplexity": _perplexity,
}

"""`calibsweep calib`: the commands of `calib`, which knows the bundled models by name here, and asks models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib import __main__ as sets
from calib.writer import AskedModel
from methods.lazy import torch
from sweep.features.measure import ModelMeasure
from sweep.generation.writer import ModelWriter
from sweep.models import MODELS, bundled_models, resolve_model
from sweep.runs.asked_model import dense_of


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    return sets.main(arguments, {name: MODELS / name for name in bundled_models()}, asked, "calibsweep calib")


def asked(name: str) -> AskedModel:
    """The model of a name, a folder or the hub; loaded when it is first asked. Raises SettingsError."""
    ref = resolve_model(name, "--model")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def measure(needed: str, tokens: np.ndarray) -> np.ndarray:
        return ModelMeasure(dense_of(ref, device).model)(needed, tokens)

    return AskedModel(ref.fingerprint, ModelWriter(ref, device), measure)

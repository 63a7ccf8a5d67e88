from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.features.look import look
from sweep.features.measure import FEATURES, ModelMeasure
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel


@pytest.fixture(scope="module")
def dense(tiny_model: Path) -> DenseModel:
    return DenseModel(resolve_model({"model": str(tiny_model)}, "models[0]"))


TOKENS = np.random.default_rng(0).integers(0, 60, size=(5, 12), dtype=np.int32)


@pytest.mark.parametrize("name", sorted(set(FEATURES) - {"expert_loads"}))
def test_every_feature_has_a_row_for_every_window(dense: DenseModel, name: str) -> None:
    found = ModelMeasure(dense.model)(name, TOKENS)
    assert len(found) == 5
    assert found.dtype == np.float64
    assert np.isfinite(found).all()


def test_features_are_what_the_pass_found(dense: DenseModel) -> None:
    measure = ModelMeasure(dense.model, batch_size=5)
    found = look(dense.model, TOKENS, likelihood=True, layers=(1,), batch_size=5)
    assert found.likelihood is not None and found.inputs is not None
    assert np.array_equal(measure("perplexity", TOKENS), found.likelihood.perplexity)
    assert np.array_equal(measure("activations", TOKENS), found.inputs.sizes)
    assert np.array_equal(measure("outliers", TOKENS), found.inputs.largest)
    width = found.inputs.means.shape[2]
    assert np.array_equal(measure("moments", TOKENS)[..., :width], found.inputs.means)
    assert np.array_equal(measure("moments", TOKENS)[..., width:], found.inputs.variances)


def test_an_unknown_feature_gets_a_suggestion(dense: DenseModel) -> None:
    with pytest.raises(SettingsError, match="select: no model measures 'activation', did you mean 'activations'?"):
        ModelMeasure(dense.model)("activation", TOKENS)

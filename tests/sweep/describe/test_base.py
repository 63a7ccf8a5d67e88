from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.describe.base import DESCRIPTORS, Described, Description, describe
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash

NAMES = [
    "activation_distance",
    "min_k_plus",
    "own_distance",
    "participation_ratio",
    "perplexity",
    "predictive_entropy",
    "stein_loss",
    "target_error",
]


def test_all_descriptors_are_found_and_give_numbers(described: Described) -> None:
    assert DESCRIPTORS.names() == NAMES
    found = describe(described)
    assert {each.descriptor for each in found} == set(NAMES)
    assert all(np.isfinite(each.value) for each in found)
    by_target = {each.descriptor for each in found if each.target is not None}
    assert by_target == {"activation_distance", "stein_loss", "target_error"}
    assert {each.target for each in found} == {None, "near", "far"}


def test_what_needs_more_than_is_given_says_nothing(described: Described) -> None:
    alone = replace(described, targets={}, own=None, method=None)
    found = {each.descriptor for each in describe(alone)}
    assert found == {"min_k_plus", "participation_ratio", "perplexity", "predictive_entropy"}


def test_the_model_is_left_as_it_was(described: Described, dense: DenseModel) -> None:
    before, tokens = weights_hash(dense.model), copy.deepcopy(described.tokens)
    describe(described)
    assert weights_hash(dense.model) == before
    assert np.array_equal(described.tokens, tokens)


def test_only_what_is_asked_for_is_said(described: Described) -> None:
    [found] = describe(described, ["perplexity"])
    assert found == Description("perplexity", None, found.value)
    with pytest.raises(SettingsError, match="unknown descriptor 'perplexty', did you mean 'perplexity'?"):
        describe(described, ["perplexty"])


def test_a_target_without_a_name_is_refused(described: Described) -> None:
    with pytest.raises(ValueError, match="targets: a target needs a name"):
        replace(described, targets={"": described.tokens})


def test_the_nearer_target_is_said_to_be_nearer(described: Described) -> None:
    found = {(each.descriptor, each.target): each.value for each in describe(described)}
    for name in ("activation_distance", "stein_loss"):
        assert found[name, "near"] < found[name, "far"]

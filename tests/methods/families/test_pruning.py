from __future__ import annotations

import pytest

from calib.settings import SettingsError
from methods.base import get_method
from methods.families.pruning import parse_pattern


@pytest.mark.parametrize("text", ["4:2", "4:4", "0:4", "2-4", "", "a:b", 124, -1, "²:4"])
def test_impossible_patterns_are_refused(text):
    with pytest.raises(ValueError, match="got"):
        parse_pattern(text)


def test_unquoted_yaml_pattern_gets_a_hint():
    with pytest.raises(SettingsError, match=r'wanda.pattern: expected text such as "2:4" \(quoted in YAML\).*got 124'):
        get_method("wanda", pattern=124)


def test_sparsity_and_pattern_exclude_each_other():
    with pytest.raises(SettingsError, match=r"wanda.sparsity: got 0.5 beside pattern '2:4'"):
        get_method("wanda", sparsity=0.5, pattern="2:4")


@pytest.mark.parametrize("value", [1.0, -0.1, 1.5])
def test_sparsity_outside_zero_to_one_is_refused(value):
    with pytest.raises(SettingsError, match=r"magnitude.sparsity: expected at least 0.* and less than 1.*, got"):
        get_method("magnitude", sparsity=value)


def test_half_is_the_default_and_a_pattern_sets_the_share():
    assert get_method("wanda").nominal() == {"bits": None, "sparsity": 0.5, "pattern": None}
    assert get_method("wanda", pattern="1:4").nominal() == {"bits": None, "sparsity": 0.75, "pattern": "1:4"}

from __future__ import annotations

from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.study_file.levels import check_levels


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], r"here: expected at least one value, got \[\]"),
        ([1, 2, 1], r"here\[2\]: 1 is there twice; leave the repeated one out"),
        (["x" * 200] * 2, r"here\[1\]: 'x{79}\.\.\. is there twice"),
    ],
)
def test_no_level_and_a_repeated_one_are_named(levels: list[Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_levels(levels, "here")


def test_levels_that_only_look_alike_are_different() -> None:
    check_levels([1, "1", 1.0, None], "here")

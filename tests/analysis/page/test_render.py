"""Numbers as people read them."""

from __future__ import annotations

import polars as pl
import pytest

from analysis.page.render import markdown, number


@pytest.mark.parametrize(
    "value, digits, text",
    [(1.4e-5, 2, "0.000014"), (-3.21e-8, 3, "-0.0000000321"), (2.5e8, 2, "250,000,000"), (0.5, 2, "0.50")],
)
def test_small_and_large_numbers_have_all_their_places(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_a_column_of_small_numbers_has_no_powers_of_ten() -> None:
    assert "e-0" not in markdown(pl.DataFrame({"js": [1.4e-5, 2.25e-5]}))

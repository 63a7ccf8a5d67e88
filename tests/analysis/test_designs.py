"""Six cells of docs/coverage.md, from the same simulator and the same checks; few studies here, many where marked slow.

The bounds are those of a true coverage of 0.92 to 0.985 and the binomial luck of so many studies (three and a half
standard errors), so that a cell which holds fails once in a thousand runs at most; seeds are fixed besides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.designs import checks, others, sets
from benchmarks.designs.__main__ import markdown, page

CELLS: tuple[tuple[Callable[..., checks.Row], object, str], ...] = (
    (checks.intervals_of_sets, sets.SETS[2], "two sources"),
    (checks.intervals_of_sets, sets.SETS[10], "SD of a set"),
    (checks.intervals_of_sets, sets.SETS[12], "SD of a set"),
    (checks.component_intervals, others.EXAMPLES[0], "residual"),
    (checks.method_intervals, others.METHODS[3], "difference"),
    (checks.trend_intervals, others.SIZES[2], "factor per tenfold"),
)


def holds(cell: tuple[Callable[..., checks.Row], object, str], studies: int) -> None:
    """The coverage of one cell lies where one of 0.92 to 0.985 may lie."""
    row, design, column = cell
    found = float(row(design, np.random.default_rng(1), studies)[column])
    low = 0.92 - 3.5 * (0.92 * 0.08 / studies) ** 0.5
    high = 0.985 + 3.5 * (0.985 * 0.015 / studies) ** 0.5
    assert low <= found <= high, (column, found)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[1].name}: {cell[2]}")
def test_interval_holds_in_few_studies(
    cell: tuple[Callable[..., checks.Row], object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "FEWEST", 10)  # the page has no coverage of so few
    holds(cell, 40)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[1].name}: {cell[2]}")
def test_interval_holds_in_many_studies(cell: tuple[Callable[..., checks.Row], object, str]) -> None:
    holds(cell, 1500)


def test_probabilities_of_unlike_sources_come_true() -> None:
    """The leader is best at least as often as stated, and what the answers name will do."""
    row = checks.answers_about_sets(sets.SETS[10], np.random.default_rng(2), 60)
    stated, true = (float(part) for part in str(row["P(best) of the leader"]).split(" / "))
    assert stated - true < 3.5 * (0.25 / 60) ** 0.5


def test_there_are_designs_for_everything_that_is_stated() -> None:
    assert len(sets.SETS) >= 25
    names = [design.name for design in (*sets.SETS, *others.EXAMPLES, *others.METHODS, *others.TASKS)]
    assert len(set(names)) == len(names)


def test_page_has_a_table_for_each_check() -> None:
    tables: list[list[checks.Row]] = [[{"design": "a", "coverage": 0.95}] for _ in checks.CHECKS]
    text = page(tables, 100)
    assert text.count(markdown(tables[0])) == len(checks.CHECKS)
    assert "| a | 0.950 |" in text

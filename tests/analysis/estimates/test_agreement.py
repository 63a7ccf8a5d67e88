"""Agreement of tasks that knows that one set moves them all."""

from __future__ import annotations

import numpy as np
from scipy import stats

from analysis.estimates.agreement import agreement


def test_w_follows_friedman_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=(5, 6)), np.array([[1, 1, 2, 3], [1, 2, 2, 3], [1, 1, 2, 2]], float).T):
        found = agreement(values, np.arange(len(values)), permutations=9)  # one set per source
        judges, items = values.shape[1], values.shape[0]
        assert np.isclose(found.w, stats.friedmanchisquare(*values).statistic / (judges * (items - 1)))
        assert np.isnan(found.p)
        assert "one set per source" in found.why


def test_sources_that_differ_on_every_task_are_seen() -> None:
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(4), 4)
    found = agreement(owner[:, None] + 0.3 * rng.normal(size=(16, 5)), owner)
    assert found.w > 0.9
    assert found.p < 0.01
    assert (np.diff(found.ranks) > 0).all()


def test_sets_that_move_all_tasks_alike_are_no_agreement_on_sources() -> None:
    rng = np.random.default_rng(2)
    owner = np.repeat(np.arange(5), 3)
    alarms = 0
    for _ in range(150):
        together = rng.normal(size=(15, 1)) + 0.3 * rng.normal(size=(15, 8))
        alarms += agreement(together, owner, permutations=199).p < 0.05
    assert alarms <= 16  # three standard errors above 7.5


def test_where_every_task_ties_all_sources_there_is_no_order() -> None:
    found = agreement(np.ones((6, 3)), np.repeat([0, 1], 3))
    assert np.isnan(found.w)
    assert "ties" in found.why

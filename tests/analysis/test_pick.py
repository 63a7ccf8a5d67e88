"""The trial that is shipped is of the recommended source, and its draw is the most ordinary one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.frames import Study, load
from analysis.pick import pick
from analysis.recommend import recommend
from calib.settings import SettingsError


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


@pytest.mark.parametrize(("text", "better"), [("books", -1.0), ("piqa", 1.0)])
def test_the_set_nearest_to_the_middle_of_its_source_is_picked(study: Study, text: str, better: float) -> None:
    said = recommend(study, "large", "sparsegpt", [text])
    found = pick(study, "large", "sparsegpt", [text])
    row = study.trials.filter(pl.col("trial_id") == found.trial).row(0, named=True)
    assert (row["source"], row["set"], row["model"], row["method"]) == (said.best, found.set, "large", "sparsegpt")
    assert said.known is not None
    column = sorted(said.table["source"]).index(said.best)
    middle = better * float(np.median(said.known.truth[:, column]))
    values = dict(said.sets.filter(source=said.best).select("set", "value").iter_rows())
    assert found.value == values[found.set]
    assert abs(found.value - middle) == min(abs(value - middle) for value in values.values())
    new = better * said.known.new_sets()[:, column]
    assert found.at_least_as_good == np.mean(new >= found.value if better > 0 else new <= found.value)
    assert found.sentences[:3] == said.sentences
    assert f"set {found.set} of {said.best}" in found.sentences[3]


def test_an_answer_over_several_methods_asks_for_one(study: Study) -> None:
    with pytest.raises(SettingsError, match=r"--method: the answer is over 4 methods; give one: "):
        pick(study, "small")

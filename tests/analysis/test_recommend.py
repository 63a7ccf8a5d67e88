"""A recommendation: the right source, honest about its doubt, and about what would remove it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.frames import Study, load
from analysis.recommend import recommend
from calib.settings import SettingsError


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


def test_own_domain_is_recommended_for_its_text(study: Study) -> None:
    for text in ("books", "code", "legal"):
        answer = recommend(study, "large", "sparsegpt", [text])
        assert answer.best == text
        assert f"calibrate on {text}" in answer.sentences[0]
        means = answer.table["mean"].to_list()
        assert means == sorted(means)  # perplexity: lower is better, best first
        assert answer.table.item(0, "p_best") == answer.table["p_best"].max()


def test_accuracy_is_the_default_and_the_table_is_best_first(study: Study) -> None:
    answer = recommend(study, "small", "wanda", ["piqa"])
    means = answer.table["mean"].to_list()
    assert means == sorted(means, reverse=True)
    cells = study.calibrated.filter(model="small", method="wanda", measure="accuracy", task="piqa")
    best = answer.table.row(0, named=True)
    assert np.isclose(best["mean"], cells.filter(source=best["source"])["value"].mean())
    assert "new test questions" in answer.sentences[1]


def test_without_a_method_it_averages_over_all_of_them(study: Study) -> None:
    answer = recommend(study, "small")
    cells = study.calibrated.filter(model="small", measure="accuracy", task="mean")
    best = answer.table.row(0, named=True)
    assert "4 methods" in answer.sentences[0]
    assert best["n"] == 3
    assert np.isclose(best["mean"], cells.filter(source=best["source"])["value"].mean())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smal",), "--model: .* did you mean 'small'"),
        (("small", "wnada"), "--method: no 'wnada' on small, did you mean"),
        (("small", None, ["pika"]), "--tasks: no result for pika"),
        (("small", None, [], "acuracy"), "--measure: no 'acuracy' on small, did you mean 'accuracy'"),
    ],
)
def test_wrong_names_are_refused_with_a_suggestion(study: Study, arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SettingsError, match=message):
        recommend(study, *arguments)


def test_command_prints_three_sentences_and_a_table(simulated: Path) -> None:
    command = [sys.executable, "-m", "analysis.recommend", str(simulated), "--model", "large", "--method", "gptq"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for start in ("For large", "How sure:", "What would settle it:"):
        assert start in done.stdout
    assert "P best" in done.stdout

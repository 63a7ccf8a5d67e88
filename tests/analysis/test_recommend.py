"""A recommendation: the right source, honest about its doubt, and about what would remove it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.frames import Study, load
from analysis.page.render import percent_below
from analysis.recommend import _named, recommend
from calib.settings import SettingsError


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


def test_own_domain_is_recommended_for_its_text(study: Study) -> None:
    for text in ("books", "code", "legal"):
        answer = recommend(study, "large", "sparsegpt", [text])
        assert answer.best == text
        assert (answer.kind, answer.sources) == ("use", (text,))
        assert f"use {text}:" in answer.sentences[0]
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


def test_wanted_tasks_choose_a_measure_that_all_of_them_have(study: Study) -> None:
    lambada = pl.col("task") == "lambada"
    some = replace(study, values=study.values.filter(~((pl.col("measure") == "accuracy") & lambada)))
    kept = some.values.filter((pl.col("measure") == "perplexity") & (pl.col("task") == "books"))
    both = pl.concat([some.values, kept.with_columns(task=pl.lit("piqa")), kept.with_columns(task=pl.lit("lambada"))])
    answer = recommend(replace(some, values=both), "small", "wanda", ["piqa", "lambada"])
    assert answer.measure == "perplexity"


def test_the_mean_is_all_tasks_and_stands_beside_none(study: Study) -> None:
    assert recommend(study, "small", "wanda", ["mean"]).sentences == recommend(study, "small", "wanda").sentences
    with pytest.raises(SettingsError, match="--tasks: no 'mean' with"):
        recommend(study, "small", "wanda", ["piqa", "mean"])


def test_labels_with_commas_and_spaces_can_be_named() -> None:
    known = {"a note, old", "b", "c d"}
    assert _named(["a note, old", "b,c d"], known) == ["a note, old", "b", "c d"]
    assert _named(["b x, y"], known) == ["b", "x", "y"]
    assert _named([], known) == []


def test_without_a_method_it_averages_over_all_of_them(study: Study) -> None:
    answer = recommend(study, "small")
    cells = study.calibrated.filter(model="small", measure="accuracy", task="mean")
    best = answer.table.row(0, named=True)
    assert "4 methods" in answer.sentences[0]
    assert best["n"] == 3
    assert np.isclose(best["mean"], cells.filter(source=best["source"])["value"].mean())


def test_the_three_answers_and_what_would_settle_them(study: Study) -> None:
    any_will_do = recommend(study, "small", matters=30.0)
    assert any_will_do.kind == "any"
    assert "any source will do" in any_will_do.sentences[0]
    assert "nothing more is needed" in any_will_do.sentences[2]
    unclear = recommend(study, "small", "wanda", ["piqa"], matters=0.01)
    assert unclear.kind == "cannot tell yet"
    assert "it cannot be told yet" in unclear.sentences[0]
    assert "more would not" in unclear.sentences[2]
    sooner = recommend(study, "small", "wanda", measure="perplexity", matters=0.05)
    assert "more sets of each source would allow an answer" in sooner.sentences[2]
    assert "most likely one source that will do" in sooner.sentences[2]
    for answer in (any_will_do, unclear):
        assert answer.probability is not None
        assert "as asked" in answer.sentences[0]


def test_sentences_speak_of_the_source_that_leads_the_answer(study: Study) -> None:
    for matters in (0.01, 0.5, 5.0):
        answer = recommend(study, "large", "wanda", matters=matters)
        assert answer.best in answer.sentences[0] or "any source" in answer.sentences[0]
        assert answer.sentences[1].startswith(f"How sure: {answer.best} is the very best") or (
            f"need not be it; {answer.best} costs" in answer.sentences[1]
        )
        settled = "nothing more is needed" in answer.sentences[2]
        assert settled == (answer.kind != "cannot tell yet")


def test_a_difference_of_no_size_is_refused(study: Study) -> None:
    for size in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match=f"--matters: expected a finite difference above 0, got {size}"):
            recommend(study, "small", matters=size)


def test_differences_by_measure_are_read_as_in_the_report(study: Study) -> None:
    one = recommend(study, "small", "wanda", measure="accuracy", matters={"accuracy": 5.0, "perplexity": 1.0})
    assert one.sentences == recommend(study, "small", "wanda", measure="accuracy", matters=5.0).sentences
    with pytest.raises(SettingsError, match="the answer is about accuracy, not about perplexity"):
        recommend(study, "small", "wanda", measure="accuracy", matters={"perplexity": 1.0})


def test_a_word_for_a_difference_is_refused_in_one_line(simulated: Path) -> None:
    for module, more in (("recommend", ["--model", "small"]), ("summary", []), ("report", [])):
        command = [sys.executable, "-m", f"analysis.{module}", str(simulated), *more, "--matters", "abc"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "--matters: expected NUMBER or MEASURE=NUMBER, got 'abc'\n"


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
    assert "95 % interval" in done.stdout and "regret" in done.stdout
    assert "P best" not in done.stdout  # these sets do not show that sources differ


def test_no_number_of_the_table_is_cut_in_a_narrow_terminal(simulated: Path) -> None:
    command = [sys.executable, "-m", "analysis.recommend", str(simulated), "--model", "large", "--method", "gptq"]
    narrow = {**os.environ, "COLUMNS": "40"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=narrow)
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout
    assert "95 % interval" in done.stdout


def test_a_probability_that_falls_short_of_the_level_never_reads_like_it() -> None:
    assert [percent_below(p, 0.9) for p in (0.62, 0.894, 0.897, 0.89999)] == ["62 %", "89 %", "89.7 %", "89.9 %"]


def test_a_runner_up_with_the_better_plain_mean_is_told_to_have_it(study: Study) -> None:
    made = {"books": [60.0, 60.1, 60.2], "code": [55.4, 60.4, 65.4], "legal": [59.7, 59.8, 59.9]}
    rows = study.calibrated.filter(model="small", method="wanda", measure="accuracy", task="mean").sort("source", "set")
    value = pl.Series(
        "value", [made[source][index] for source, index in zip(rows["source"], [0, 1, 2] * 3, strict=True)]
    )
    said = recommend(
        replace(study, values=rows.with_columns(value, pl.lit("top1_agreement").alias("measure"))),
        "small",
        "wanda",
        measure="top1_agreement",
        matters=0.3,
    )
    assert said.best == "books"
    assert "next is code (whose plain mean is better)" in said.sentences[1]


def test_among_sources_with_one_mean_none_has_the_best(study: Study) -> None:
    same = study.values.with_columns(pl.lit(50.0).alias("value"))
    said = recommend(replace(study, values=same), "small", "wanda")
    assert "all 3 have the same mean, Accuracy 50.0 %" in said.sentences[0]
    assert "best mean" not in said.sentences[0]


def test_sets_that_settle_nothing_are_told_with_their_chance(study: Study) -> None:
    said = recommend(study, "small", "wanda", ["piqa"], matters=0.01)
    assert "no number of sets does so with 80 %" in said.sentences[2]

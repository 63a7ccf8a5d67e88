"""What a loss is."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from calib.settings import SettingsError
from sweep.adviser.question import Question
from sweep.adviser.targets import GENERAL, Target, examples, losses, make_targets

TEXTS = Target("both", "text", ("one", "two"))
TASKS = Target("tasks", "accuracy", tasks=("a", "b"))


def rows(perplexities: dict[str, float | None], accuracy: dict[str, float], worth: dict[str, float]) -> pl.DataFrame:
    found: list[dict[str, Any]] = [
        {"kind": "perplexity", "task": task, "metric": "perplexity", "value": value, "n": 8}
        for task, value in perplexities.items()
    ]
    found += [
        {"kind": "task", "task": task, "metric": name, "value": value * scale, "n": 50, "accuracy": "acc"}
        for task, value in accuracy.items()
        for name, scale in (("acc", 1.0), ("acc_norm", 0.5))
    ]
    found += [
        {"kind": "answers", "task": task, "metric": "loglikelihood", "value": value, "n": 50}
        for task, value in worth.items()
    ]
    schema = {"kind": pl.String, "task": pl.String, "metric": pl.String, "value": pl.Float64, "n": pl.Int64}
    return pl.DataFrame(found, {**schema, "accuracy": pl.String})


DENSE = rows({"one": 10.0, "two": 20.0, "other": 5.0}, {"a": 0.6, "b": 0.8}, {"a": -1.0, "b": -2.0})
TRIED = rows({"one": 11.0, "two": 24.0, "other": 9.0}, {"a": 0.5, "b": 0.74}, {"a": -1.5, "b": -2.1})


def test_everything_wrong_with_a_target_has_a_line_of_its_own() -> None:
    wrong = {"source": "noisy", "of": "boks", "kind": "casin"}
    with pytest.raises(SettingsError) as caught:
        make_targets(Question("reference-2m", "gptq", ["books", "code"], targets=[wrong]))
    first, last = caught.value.lines
    assert first.startswith("--target.") and last.startswith("--target.")
    assert "or a bundled held-out text: books" in last and "bundled" not in first


def test_of_texts_it_is_the_mean_rise_of_the_logarithm_in_per_cent() -> None:
    expected = 100 * (math.log(1.1) + math.log(1.2)) / 2
    assert losses(TRIED, DENSE, [TEXTS], screen=False) == pytest.approx((expected,))
    assert losses(TRIED, DENSE, [TEXTS], screen=True) == pytest.approx((expected,))
    assert losses(DENSE, DENSE, [TEXTS], screen=False) == (0.0,)
    assert examples(DENSE, TEXTS) == 16


def test_screens_of_texts_are_judged_by_their_divergence() -> None:
    def apart(one: float | None, two: float | None, other: float = 0.5) -> pl.DataFrame:
        values = {"one": one, "two": two, "other": other}
        found = [
            {"kind": "divergence", "task": t, "metric": "js_divergence", "value": v, "n": 8} for t, v in values.items()
        ]
        return pl.concat([TRIED, pl.DataFrame(found, TRIED.drop("accuracy").schema)], how="diagonal")

    assert losses(apart(0.1, 0.3), DENSE, [TEXTS], screen=True) == pytest.approx((100 * math.log(0.2),))
    assert losses(apart(0.1, 0.3), DENSE, [TEXTS], screen=False) == losses(TRIED, DENSE, [TEXTS], screen=False)
    assert math.isfinite(losses(apart(0.0, 0.0), DENSE, [TEXTS], screen=True)[0])
    assert losses(apart(0.1, None), DENSE, [TEXTS], screen=True) == (math.inf,)


def test_first_blocks_are_judged_by_the_logarithm_of_their_error() -> None:
    def behind(one: float | None, two: float | None) -> pl.DataFrame:
        found = [
            {"kind": "blocks", "task": task, "metric": metric, "value": value, "n": 8}
            for task, value in (("one", one), ("two", two), ("other", 0.9))
            for metric in ("block_error", "block_error_total")
        ]
        return pl.DataFrame(found, TRIED.drop("accuracy").schema)

    assert losses(behind(0.01, 0.04), DENSE, [TEXTS], screen=True) == pytest.approx((100 * math.log(0.02),))
    assert math.isfinite(losses(behind(0.0, 0.01), DENSE, [TEXTS], screen=True)[0])
    assert losses(behind(0.01, None), DENSE, [TEXTS], screen=True) == (math.inf,)


def test_of_tasks_it_is_points_of_their_own_accuracy_and_nats_in_a_screen() -> None:
    assert losses(TRIED, DENSE, [TASKS], screen=False) == pytest.approx((8.0,))
    assert losses(TRIED, DENSE, [TASKS], screen=True) == pytest.approx((0.3,))
    assert examples(DENSE, TASKS) == 100


def test_tasks_without_log_likelihoods_are_screened_by_accuracy() -> None:
    bare = rows({}, {"a": 0.6}, {}), rows({}, {"a": 0.5}, {})
    assert losses(bare[1], bare[0], [TASKS], screen=True) == pytest.approx((10.0,))


def test_a_perplexity_that_overflowed_is_infinite() -> None:
    broken = rows({"one": 11.0, "two": None}, {}, {})
    assert losses(broken, DENSE, [TEXTS], screen=False) == (math.inf,)


def test_each_text_is_a_target_and_all_tasks_are_one() -> None:
    books = {"source": "heldout", "domain": "books"}
    asked = make_targets(Question("m", "gptq", [], targets=["code", books], tasks=["a", "b"]))
    assert [(target.name, target.unit) for target in asked.targets] == [
        ("code", "% of perplexity"),
        ("books", "% of perplexity"),
        ("2 tasks", "points of accuracy"),
    ]
    assert [target.name for target in make_targets(Question("m", "gptq", [])).targets] == [GENERAL]

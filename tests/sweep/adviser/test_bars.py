"""A few cells of `python -m benchmarks.adviser`, and what its tables rest on."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from benchmarks.adviser import replay, simulation
from benchmarks.adviser.extract import DATA
from benchmarks.adviser.informed import informed
from benchmarks.adviser.play import advise, even, sequential_halving
from benchmarks.adviser.worlds import LUCK, WORLDS, World, sources
from sweep.adviser.outcomes import Costs, Rules

STUDIES = DATA / "studies.parquet"


@pytest.fixture(scope="module")
def questions() -> list[replay.Question]:
    return replay.questions(pl.read_parquet(STUDIES))


def test_simulated_sources_are_what_their_name_says() -> None:
    found = sources(World("", 400, 3.0, 0.6), 50, np.random.default_rng(0))
    assert found.truth.std() == pytest.approx(3, rel=0.1)
    assert np.corrcoef(found.truth, found.low.mean(axis=1))[0, 1] == pytest.approx(0.6, abs=0.1)
    rest = found.high - found.truth[:, None]
    assert rest.std() == pytest.approx(1, rel=0.05)
    other = found.low - found.low.mean(axis=1, keepdims=True)
    assert np.corrcoef(rest.ravel(), other.ravel())[0, 1] == pytest.approx(LUCK, abs=0.05)


def test_a_failing_arm_and_far_draws_are_simulated() -> None:
    rng = np.random.default_rng(0)
    assert np.isnan(sources(World("", 9, 1.0, 0.8, broken=1), 12, rng).high).all(axis=1).sum() == 1
    assert np.mean(sources(World("", 50, 0.0, 0.8, far=0.1), 40, rng).high > 6) == pytest.approx(0.1, abs=0.03)


def test_policies_without_the_adviser_find_what_is_plain() -> None:
    losses = np.arange(8.0)[::-1, None] + 0.1 * np.random.default_rng(0).standard_normal((8, 12))
    assert sequential_halving(losses, 24) == 7 and even(losses, 24) == 7
    losses[7] = np.nan
    assert sequential_halving(losses, 24) == 6 and even(losses, 24) == 6


def test_the_adviser_pays_for_what_it_sees_and_no_more() -> None:
    found = sources(WORLDS[0], 12, np.random.default_rng(0))
    played = advise(found.low[:, :, None], found.high[:, :, None], Rules(budget=24.0), Costs(0.125, 1.0))
    assert 0 < played.spent <= 24


def test_the_shipped_studies_are_whole(questions: list[replay.Question]) -> None:
    cells = {(q.model, q.method) for q in questions}
    assert len(cells) == 8 and STUDIES.stat().st_size < 1e6
    assert all(q.high.shape[:2] == q.low.shape[:2] == (9, 12) for q in questions)
    assert {q.high.shape[2] for q in questions} == {1, 8}
    spread = [np.median(q.high.var(axis=1, ddof=1), axis=0) for q in questions]
    assert np.allclose(np.concatenate(spread), 1)


def test_who_is_told_the_laws_finds_what_can_be_found(questions: list[replay.Question]) -> None:
    asked = next(q for q in questions if (q.model, q.method, q.name) == ("reference-5m", "awq", "worst text"))
    sets = np.random.default_rng(0).integers(12, size=(9, 12))
    own = int(asked.truth.argmin())
    assert informed(asked.low, asked.high, sets, 27.0, 0.25, 0) == own
    moved = np.roll(asked.high, 1, axis=0)
    assert informed(np.roll(asked.low, 1, axis=0), moved, np.roll(sets, 1, axis=0), 27.0, 0.25, 0) == (own + 1) % 9


def test_errors_of_first_blocks_stand_in_place_of_screens(questions: list[replay.Question]) -> None:
    blocks = pl.read_parquet(DATA / "blocks.parquet")
    asked = [q for q in questions if (q.model, q.method) == ("smollm2", "sparsegpt")]
    for name, targets in (("books", ["books"]), ("texts", None), ("worst text", None)):
        question = next(q for q in asked if q.name == name)
        found = replay.with_blocks(question, blocks)
        assert found.low.shape == question.low.shape and found.seconds[0] == pytest.approx(0.1 * found.seconds[1])
        rows = blocks.filter(pl.col("method") == "sparsegpt", pl.col("source") == "books", pl.col("set") == 3)
        rows = rows if targets is None else rows.filter(pl.col("target").is_in(targets))
        expected = rows.sort("target")["value"].to_numpy() if name == "worst text" else [rows["value"].mean()]
        assert found.low[found.sources.index("books"), 3] == pytest.approx(expected)


def test_screens_are_judged_by_divergence_where_the_target_is_text(questions: list[replay.Question]) -> None:
    frame = pl.read_parquet(STUDIES)
    asked = {q.name: q for q in questions if (q.model, q.method) == ("reference-17m", "awq")}
    found = {name: replay.with_divergence(question, frame) for name, question in asked.items()}
    assert all(found[name].low.shape == asked[name].low.shape for name in asked)
    assert np.allclose(found["worst text"].low[:, :, 1], found["code"].low[:, :, 0])
    assert np.corrcoef(np.exp(found["texts"].low.ravel()), asked["texts, JS"].low.ravel())[0, 1] == pytest.approx(1)
    assert found["tasks"] is asked["tasks"]


def test_in_the_replay_of_equal_sources_nothing_is_lost(questions: list[replay.Question]) -> None:
    costs = replay.costs_of(questions[0], nominal=True)
    found = replay.repeat(questions[0], "equal", 0, costs)
    assert set(found.regret.values()) == {0.0}


def test_the_same_seed_is_the_same_repetition(questions: list[replay.Question]) -> None:
    costs = replay.costs_of(questions[0], nominal=True)
    first, again = (replay.repeat(questions[0], "held out", 3, costs) for _ in range(2))
    assert first.regret == again.regret and first.gain == again.gain


@pytest.mark.slow
@pytest.mark.parametrize("world", [w for w in WORLDS if w.arms == 8 and w.unlike == 1 and not w.far][:4])
def test_a_quarter_of_the_time_loses_little_in_simulation(world: World) -> None:
    regret = np.array([simulation.repeat(world, seed).regret["adviser"] for seed in range(60)])
    assert regret.mean() <= 0.25 + 2 * regret.std() / len(regret) ** 0.5


@pytest.mark.slow
def test_a_quarter_of_the_time_loses_little_in_every_finished_study(questions: list[replay.Question]) -> None:
    for question in questions:
        if question.name == "tasks":
            costs = replay.costs_of(question, nominal=True)
            regret = np.array([replay.repeat(question, "resampled", s, costs).regret["adviser"] for s in range(40)])
            assert regret.mean() <= 0.25 + 2 * regret.std() / len(regret) ** 0.5, (question.model, question.method)

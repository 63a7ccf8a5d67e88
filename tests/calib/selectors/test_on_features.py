"""Rules on what a model measures, each against brute force on a small pool, and the promises that sets keep."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.build import build, build_sets
from calib.sampling import raw_numbers
from calib.select import Candidates, choose, get_selector
from calib.selectors.expert_balance import balance, unevenness
from calib.selectors.kmeans import cluster, projected
from calib.selectors.outlier_coverage import cover_weighted
from calib.settings import SettingsError
from calib.source import Source, get_source
from calib.spec import CalibrationSpec

RULES = (
    "activation_herding",
    "centroid",
    "expert_balance",
    "kmeans",
    "least_perplexity",
    "middle_perplexity",
    "outlier_coverage",
)


def candidates_of(features: np.ndarray, target: np.ndarray | None = None) -> Candidates:
    tokens = np.zeros((len(features), 4), dtype=np.int32)
    return Candidates(tokens, lambda ids: [str(number) for number in ids], features, target_features=target)


def rule_of(by: str, **settings: Any) -> Any:
    more = {"target": "books"} if by == "centroid" else {}
    return get_selector({"by": by, **more, **settings})


def measure(needed: str, tokens: np.ndarray) -> np.ndarray:
    """Numbers that depend on the tokens of each window alone, in the shapes that a model's have."""
    seeds = [np.random.default_rng(window.tolist()) for window in tokens]
    if needed == "perplexity":
        return np.array([rng.uniform(5, 50) for rng in seeds])
    if needed == "expert_loads":
        return np.array([rng.multinomial(32, [0.5, 0.2, 0.2, 0.1], size=3) for rng in seeds]).astype(np.float64)
    heavy = np.where(np.arange(24) % 8 == 0, 20.0, 1.0)
    return np.stack([np.abs(rng.normal(size=(2, 24))) * heavy for rng in seeds])


# against brute force


@pytest.mark.parametrize(("by", "away"), [("least_perplexity", None), ("middle_perplexity", "median")])
def test_perplexities_are_taken_from_the_nearest_on(by: str, away: str | None) -> None:
    values = np.random.default_rng(0).uniform(3, 90, 31)
    middle = np.log(np.median(values)) if away else -np.inf
    expected = sorted(range(31), key=lambda i: abs(np.log(values[i]) - middle) if away else values[i])
    assert choose(rule_of(by), candidates_of(values), 9, raw_numbers(0)).tolist() == expected[:9]


def test_centroid_takes_the_nearest_to_the_target() -> None:
    random = np.random.default_rng(0)
    windows, target = random.normal(size=(20, 3, 6)) * 5, random.normal(size=(7, 3, 6)) + 2
    windows[:, 1, 2] = 4.0  # a feature that says nothing
    spread = windows.std(0)
    spread[1, 2] = np.inf
    middle = target.mean(0)
    expected = sorted(
        range(20), key=lambda i: sum(np.linalg.norm(((windows[i] - middle) / spread)[layer]) for layer in range(3))
    )
    assert choose(rule_of("centroid"), candidates_of(windows, target), 8, raw_numbers(0)).tolist() == expected[:8]


@pytest.mark.parametrize("with_target", [True, False])
def test_each_step_of_herding_brings_the_mean_nearest(with_target: bool) -> None:
    random = np.random.default_rng(0)
    windows, target = random.normal(size=(25, 2, 5)) * 3 + 1, random.normal(size=(6, 2, 5)) if with_target else None
    chosen = choose(rule_of("activation_herding"), candidates_of(windows, target), 10, raw_numbers(0)).tolist()
    scaled = (windows - windows.mean(0)) / windows.std(0)
    middle = np.zeros((2, 5)) if target is None else ((target - windows.mean(0)) / windows.std(0)).mean(0)
    for turn, best in enumerate(chosen):
        distances = {
            i: np.linalg.norm(scaled[[*chosen[:turn], i]].mean(0) - middle) for i in range(25) if i not in chosen[:turn]
        }
        assert distances[best] == pytest.approx(min(distances.values()))


def test_each_step_of_coverage_covers_most_and_begins_anew() -> None:
    random = np.random.default_rng(0)
    covers, weights = random.random((14, 9)) < 0.3, random.uniform(1, 9, 9)
    waiting = set(range(9))
    chosen = cover_weighted(covers, weights, 14).tolist()
    assert sorted(chosen) == list(range(14))
    for turn, best in enumerate(chosen):
        rest = [i for i in range(14) if i not in chosen[:turn]]
        if not any(covers[i, j] for i in rest for j in waiting):
            waiting = set(range(9))
        gains = {i: sum(weights[j] for j in waiting if covers[i, j]) for i in rest}
        assert gains[best] == pytest.approx(max(gains.values()))
        waiting -= set(np.flatnonzero(covers[best]).tolist())


def test_coverage_is_near_the_best_of_all_pairs() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        covers, weights = random.random((12, 10)) < 0.3, random.uniform(1, 9, 10)
        best = max(weights[covers[list(pair)].any(0)].sum() for pair in combinations(range(12), 2))
        assert weights[covers[cover_weighted(covers, weights, 2)].any(0)].sum() >= (1 - 1 / np.e) * best


def test_outliers_are_found_and_covered() -> None:
    sizes = np.ones((6, 1, 8))
    sizes[2, 0, 5], sizes[4, 0, 1], sizes[3, 0, 1] = 40.0, 20.0, 15.0  # of which 15 is not 80 %
    found = choose(rule_of("outlier_coverage"), candidates_of(sizes), 2, raw_numbers(0))
    assert found.tolist() == [2, 4]


def test_a_pool_without_outliers_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no channel reaches 6 times the median channel .* \(the largest 1 times"):
        choose(rule_of("outlier_coverage"), candidates_of(np.ones((6, 1, 8))), 2, raw_numbers(0))


def test_each_step_of_balance_is_the_most_even() -> None:
    loads = np.random.default_rng(0).integers(0, 30, size=(16, 2, 5)).astype(np.float64)
    chosen = balance(loads, 10).tolist()
    for turn, best in enumerate(chosen):
        found = {}
        for i in set(range(16)) - set(chosen[:turn]):
            total = loads[[*chosen[:turn], i]].sum(0)
            found[i] = sum((layer / layer.sum()).std() for layer in total)
        assert found[best] == pytest.approx(min(found.values()))


def test_balanced_sets_are_more_even_than_random_ones() -> None:
    loads = measure("expert_loads", np.arange(400).reshape(100, 4))
    ours = unevenness(loads[balance(loads, 10)].sum(0))
    assert all(ours < unevenness(loads[i : i + 10].sum(0)) for i in range(0, 100, 10))


def inertia(points: np.ndarray, owners: np.ndarray) -> float:
    groups = [points[owners == number] for number in np.unique(owners)]
    return float(sum(((group - group.mean(0)) ** 2).sum() for group in groups))


@pytest.mark.parametrize("apart", [4, 9])
def test_clusters_are_the_best_of_all_partitions(apart: int) -> None:
    places = apart * np.repeat([[0, 0], [1, 0], [0, 1]], 3, axis=0)
    points = np.random.default_rng(2).normal(size=(9, 2)) + places
    best = min(inertia(points, np.array(owners)) for owners in product(range(3), repeat=9))
    owners, distances = cluster(points, 3, raw_numbers(0))
    assert inertia(points, owners) <= best * (1.05 if apart < 9 else 1 + 1e-9)  # only a local minimum where they meet
    assert distances.sum() == pytest.approx(inertia(points, owners))


def test_every_point_belongs_to_the_nearest_mean() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3))
    owners, _ = cluster(points, 7, raw_numbers(0))
    means = np.stack([points[owners == number].mean(0) for number in range(7)])
    nearest = ((points[:, None] - means) ** 2).sum(2).argmin(1)
    assert np.array_equal(owners, nearest)


def test_kmeans_takes_the_nearest_of_each_cluster_the_largest_first() -> None:
    random = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2, 3], [3, 9, 5, 7])
    points = random.normal(size=(24, 1, 6)) + 50 * np.eye(6)[kinds][:, None]
    found = choose(rule_of("kmeans", pool=6), candidates_of(points), 4, raw_numbers(0)).tolist()
    assert kinds[found].tolist() == [1, 3, 2, 0]
    scaled = (points - points.mean(0)) / points.std(0)
    for window in found:
        members = np.flatnonzero(kinds == kinds[window])
        distances = np.linalg.norm(scaled[members, 0] - scaled[members, 0].mean(0), axis=1)
        assert window == members[distances.argmin()]


def test_projection_keeps_distances_on_average() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2_000))
    shorter = projected(points, raw_numbers(0))
    assert shorter.shape == (30, 256)
    pairs = list(combinations(range(30), 2))
    ratios = [((shorter[a] - shorter[b]) ** 2).sum() / ((points[a] - points[b]) ** 2).sum() for a, b in pairs]
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)
    assert max(abs(np.array(ratios) - 1)) < 0.5
    assert projected(points[:, :9], raw_numbers(0)).shape == (30, 9)


# the promises of sets


@pytest.fixture
def source(jsonl: Callable[..., Path], text_of: Callable[..., str]) -> Source:
    return get_source({"source": "file", "path": str(jsonl([{"text": text_of(number)} for number in range(120)]))})


def specs_of(source: Source, by: str, **values: Any) -> list[CalibrationSpec]:
    given = {"nsamples": 4, "seqlen": 16, "max_nsamples": 6, **values}
    select = rule_of(by, pool=3)
    return [CalibrationSpec(source=source, set=number, select=select, **given) for number in range(3)]


@pytest.mark.parametrize("by", RULES)
def test_sets_are_disjoint_nested_and_the_same_every_time(source: Source, tokenizer: Any, by: str) -> None:
    large = build_sets(specs_of(source, by, nsamples=6), tokenizer, measure=measure)
    small = build_sets(specs_of(source, by, nsamples=2), tokenizer, measure=measure)
    for one, other in zip(small, large, strict=True):
        assert np.array_equal(one.tokens, other.tokens[:2])
    assert len({window.tobytes() for one in large for window in one.tokens}) == 18
    alone = build(specs_of(source, by, nsamples=6)[2], tokenizer, measure=measure)
    assert alone.hash == large[2].hash
    other_seed = build_sets(specs_of(source, by, nsamples=6, seed=1), tokenizer, measure=measure)
    assert not {one.hash for one in large} & {one.hash for one in other_seed}


@pytest.mark.parametrize("by", RULES)
def test_every_window_can_be_taken_once_and_a_smaller_set_is_the_beginning(by: str) -> None:
    needed = rule_of(by).needs
    windows = measure(needed, np.arange(120).reshape(30, 4))
    candidates = candidates_of(windows, measure(needed, 500 + np.arange(20).reshape(5, 4)))
    whole = choose(rule_of(by), candidates, 30, raw_numbers(3))
    assert sorted(whole) == list(range(30))
    for count in (1, 7, 29):
        assert choose(rule_of(by), candidates, count, raw_numbers(3)).tolist() == whole[:count].tolist()


@pytest.mark.parametrize("by", RULES)
def test_windows_that_are_all_alike_are_taken_in_their_order_or_seeded(by: str) -> None:
    needed = rule_of(by).needs
    windows = np.repeat(measure(needed, np.arange(4)[None]), 12, axis=0)
    found = choose(rule_of(by, pool=4), candidates_of(windows, windows[:2]), 12, raw_numbers(0))
    assert sorted(found) == list(range(12))


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 10))
def test_kmeans_chooses_whatever_the_points(seed: int, windows: int, pool: int) -> None:
    random = np.random.default_rng(seed)
    points = random.integers(0, 3, size=(windows, 1, 3)).astype(np.float64)  # many of them alike
    found = choose(rule_of("kmeans", pool=pool), candidates_of(points), windows, raw_numbers(seed))
    assert sorted(found) == list(range(windows))


def test_rules_with_a_target_measure_as_much_of_it_as_of_the_pool(source: Source, tokenizer: Any) -> None:
    asked: list[tuple[str, int]] = []

    def told(needed: str, tokens: np.ndarray) -> np.ndarray:
        asked.append((needed, len(tokens)))
        return measure(needed, tokens)

    [spec, *_] = specs_of(source, "centroid")
    build(spec, tokenizer, measure=told)
    assert asked == [("moments", 18), ("moments", 18)]


def test_a_centroid_without_a_target_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"select\.target: give the source of the text"):
        get_selector("centroid")


def test_features_that_are_missing_are_an_error() -> None:
    nothing = Candidates(np.zeros((3, 4), dtype=np.int32), lambda ids: [str(number) for number in ids])
    with pytest.raises(ValueError, match="features: the rule needs what a model measures"):
        choose(rule_of("least_perplexity"), nothing, 1, raw_numbers(0))
    with pytest.raises(ValueError, match="target_features: the rule needs those of its target"):
        choose(rule_of("centroid"), candidates_of(np.ones((3, 1, 4))), 1, raw_numbers(0))


def test_feature_that_is_the_same_in_all_windows_counts_for_nothing() -> None:
    features = np.stack([np.full(12, 0.1), np.arange(12.0)], axis=1)
    assert features[:, 0].std() > 0  # by rounding
    windows, target = candidates_of(features, np.array([[0.05, 0.0]])).standardised()
    assert target is not None
    assert not windows[:, 0].any() and not target[:, 0].any()
    assert windows[:, 1] == pytest.approx((np.arange(12) - 5.5) / np.std(np.arange(12)))

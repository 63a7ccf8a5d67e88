"""Selection against the published code and brute force, and the promises that sets keep when they are selected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.build import build, build_sets, preflight
from calib.sampling import raw_numbers
from calib.select import SELECTORS, Candidates, Selector, choose, get_selector, register
from calib.selectors.herding import herd
from calib.selectors.lexical import cover
from calib.settings import SettingsError, settings
from calib.source import Source, get_source
from calib.spec import CalibrationSpec

GOLDEN = np.load(Path(__file__).parent / "golden" / "zipcal_40_8.npz")
MODEL_FREE = ("herding", "lexical", "random")


@register("widest")
@settings
class Widest(Selector):
    """A rule that needs a model: the windows with the largest measured number."""

    needs = "activations"

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        assert candidates.features is not None
        return np.argsort(-candidates.features[:, 0], kind="stable")[:count]


@pytest.fixture
def source(jsonl: Callable[..., Path], text_of: Callable[..., str]) -> Source:
    path = jsonl([{"text": text_of(number)} for number in range(120)])
    return get_source({"source": "file", "path": str(path)})


def specs_of(source: Source, by: Any, **values: Any) -> list[CalibrationSpec]:
    given = {"nsamples": 4, "seqlen": 16, "max_nsamples": 6, **values}
    return [CalibrationSpec(source=source, set=number, select=by, **given) for number in range(3)]


def golden_concepts() -> list[np.ndarray]:
    words = [word.lower().strip() for word in GOLDEN["vocab"]]
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    of_id = np.array([numbers[word] for word in words])
    offsets = GOLDEN["offsets"]
    return [np.unique(of_id[GOLDEN["ids"][a:b]]) for a, b in pairwise(offsets)]


def test_lexical_coverage_chooses_as_the_published_code() -> None:
    assert cover(golden_concepts(), 8).tolist() == GOLDEN["unique_tokens"].tolist()


def test_herding_chooses_as_the_published_code() -> None:
    vectors = GOLDEN["embeddings"].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert herd(vectors, vectors.mean(axis=0), 8).tolist() == GOLDEN["herding"].tolist()


def test_each_step_of_lexical_coverage_is_the_best_one() -> None:
    concepts, covered = golden_concepts(), set[int]()
    for best in cover(concepts, 8):
        gains = [len(set(window.tolist()) - covered) for window in concepts]
        assert gains[best] == max(gains)
        covered |= set(concepts[best].tolist())
    many = max(len(set().union(*(concepts[i].tolist() for i in two))) for two in combinations(range(40), 2))
    two = cover(concepts, 2)
    assert len(set(concepts[two[0]].tolist()) | set(concepts[two[1]].tolist())) >= (1 - 1 / np.e) * many


def test_each_step_of_herding_is_the_best_one() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 5))
    target = vectors[:10].mean(axis=0)
    chosen: list[int] = []
    for best in herd(vectors, target, 12):
        distances = {
            i: np.linalg.norm(vectors[[*chosen, i]].mean(axis=0) - target) for i in range(30) if i not in chosen
        }
        assert distances[best] == pytest.approx(min(distances.values()))
        chosen.append(int(best))


@pytest.mark.parametrize("by", MODEL_FREE)
def test_selected_sets_are_disjoint_nested_and_seeded(source: Source, tokenizer: Any, by: str) -> None:
    select = {"by": by, "pool": 3}
    large = build_sets(specs_of(source, select, nsamples=6), tokenizer)
    small = build_sets(specs_of(source, select, nsamples=2), tokenizer)
    for one, other in zip(small, large, strict=True):
        assert np.array_equal(one.tokens, other.tokens[:2])
    assert len({window.tobytes() for one in large for window in one.tokens}) == 18
    assert [one.hash for one in large] == [
        one.hash for one in build_sets(specs_of(source, select, nsamples=6), tokenizer)
    ]
    other_seed = build_sets(specs_of(source, select, nsamples=6, seed=1), tokenizer)
    assert not {one.hash for one in large} & {one.hash for one in other_seed}


def test_lexical_sets_hold_more_words_than_random_ones(source: Source, tokenizer: Any) -> None:
    def words(by: str) -> float:
        built = build_sets(specs_of(source, {"by": by, "pool": 5}), tokenizer)
        return float(np.mean([len(np.unique(one.tokens)) for one in built]))

    assert words("lexical") > words("random")


def test_herding_moves_a_set_toward_its_target(source: Source, tokenizer: Any, jsonl: Callable[..., Path]) -> None:
    from calib.descriptor import describe

    path = jsonl([{"text": "river stream river window " * 30}], "target.jsonl")
    target = {"source": "file", "path": str(path)}
    wanted = np.asarray(tokenizer("river stream river window " * 30)["input_ids"])[None]

    def distance(select: Any) -> float:
        built = build(specs_of(source, select)[0], tokenizer)
        return describe(built, target=wanted, names=["unigram_divergence"])["unigram_divergence"] or 0

    assert distance({"by": "herding", "target": target, "n": 1}) < distance("random") - 0.02


def test_rule_and_its_target_are_part_of_the_id(source: Source, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path = jsonl([{"text": "the river"}], "target.jsonl")
    herding = {"by": "herding", "target": {"source": "file", "path": "target.jsonl"}}

    def key(select: Any) -> str:
        return specs_of(source, select)[0].id("tiny")

    located = get_selector(herding).located(tmp_path)
    keys = {key(select) for select in (None, "random", "lexical", {"by": "random", "pool": 3}, "herding", located)}
    assert len(keys) == 6
    before = key(located)
    path.write_text('{"text": "a window"}\n')
    assert key(located) != before
    [spec, *_] = specs_of(source, located)
    again = CalibrationSpec(
        source=source, **{k: v for k, v in spec.to_dict().items() if k not in ("source", "revision")}
    )
    assert again == spec


def test_rules_that_need_a_model_get_its_numbers(source: Source, tokenizer: Any) -> None:
    asked: list[str] = []

    def measure(kind: str, tokens: np.ndarray) -> np.ndarray:
        asked.append(kind)
        return tokens[:, :1].astype(np.float64)

    built = build(specs_of(source, "widest")[0], tokenizer, measure=measure)
    assert asked == ["activations"]
    assert (np.diff(built.tokens[:, 0]) <= 0).all()
    with pytest.raises(SettingsError, match="'widest' needs a model's activations, and no model is at hand"):
        build(specs_of(source, "widest")[0], tokenizer)


def test_pool_that_the_text_cannot_fill_is_refused(source: Source, tokenizer: Any) -> None:
    [spec, *_] = specs_of(source, {"by": "random", "pool": 900})
    with pytest.raises(SettingsError, match="set 0 of 5400 windows"):
        preflight([spec])
    with pytest.raises(SettingsError, match="set 0 of 5400 windows need 5,400"):
        build(spec, tokenizer)


def test_too_little_text_for_a_pool_names_the_selection_and_its_pool(source: Source, tokenizer: Any) -> None:
    [spec, *_] = specs_of(source, {"by": "random", "pool": 900})
    why = r"\(select chooses them out of a pool of 900 windows for each that it keeps\); .*, a smaller select\.pool, or"
    with pytest.raises(SettingsError, match=why):
        preflight([spec])
    with pytest.raises(SettingsError, match=why):
        build(spec, tokenizer)
    with pytest.raises(SettingsError) as caught:
        build(replace(spec, select=None, set=900), tokenizer)
    assert "select" not in str(caught.value)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("lexcal", "select.by: unknown selection 'lexcal', did you mean 'lexical'?"),
        ({"by": "lexical", "pol": 3}, "select.pol: unknown key 'pol', did you mean 'pool'?"),
        ({"pool": 3}, "select: expected the name of a rule or a mapping with the key 'by'"),
        ({"by": "random", "pool": 0}, "select.pool: expected 1 to 1000, got 0"),
    ],
)
def test_wrong_rules_are_refused(select: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        get_selector(select)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("by", MODEL_FREE)
def test_every_rule_chooses_each_window_once(by: str) -> None:
    tokens = np.random.default_rng(0).integers(0, 9, (20, 12)).astype(np.int32)
    candidates = Candidates(tokens, lambda ids: [f"w{number}" for number in ids])
    assert sorted(choose(get_selector(by), candidates, 20, raw_numbers(0))) == list(range(20))
    assert by in SELECTORS.names()

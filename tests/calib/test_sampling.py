"""The windows of a set: exact, seeded, disjoint, and independent of how many sets are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.sampling import POLICIES, Draw, Pool, TooLittleText, Window, apportion, draw_windows, turns

SEPARATOR = -1  # no token of a pool has this id


def make_pool(lengths: list[int]) -> Pool:
    """Documents whose tokens are all different numbers, so that every token tells where it comes from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = tuple(f"d{number}" for number in range(len(lengths)))
    return Pool(ids, np.arange(offsets[-1], dtype=np.int32), offsets)


def make_draw(sampling: str, **changes: object) -> Draw:
    base = Draw(sampling, set=0, nsamples=2, length=5, seed=0, separator=np.array([SEPARATOR], dtype=np.int32))
    return replace(base, **changes)  # type: ignore[arg-type]


def all_sets(pool: Pool, draw: Draw) -> list[list[Window]]:
    """Sets 0, 1, ... until the pool is used up."""
    sets: list[list[Window]] = []
    while True:
        try:
            sets.append(draw_windows(pool, replace(draw, set=len(sets))))
        except TooLittleText as few:
            assert few.sets == len(sets)
            return sets


def text_tokens(windows: list[Window]) -> list[int]:
    return [int(token) for window in windows for token in window.tokens if token != SEPARATOR]


def origins(pool: Pool, windows: list[Window]) -> list[int]:
    """Where in the pool each token of the windows comes from; separators come from nowhere."""
    return [
        int(pool.offsets[document]) + start + token
        for window in windows
        for document, start, length in zip(window.documents, window.starts, window.lengths, strict=True)
        for token in range(length)
    ]


pools = st.lists(st.integers(1, 30), min_size=1, max_size=25).map(make_pool)
draws = st.builds(
    make_draw,
    st.sampled_from(sorted(POLICIES)),
    nsamples=st.integers(1, 4),
    length=st.integers(1, 12),
    seed=st.integers(0, 5),
    separator=st.integers(0, 3).map(lambda count: np.full(count, SEPARATOR, dtype=np.int32)),
    reserve=st.sampled_from([None, 4, 5, 9]),
)


@settings(max_examples=150, deadline=None)
@given(pools, draws, st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_sets_of_any_size_share_nothing_and_lie_inside_each_other(pool: Pool, draw: Draw, sizes: list[int]) -> None:
    """Every set at a size of its own; the sizes in any order, and each asked for alone."""
    largest: dict[int, list[Window]] = {}
    for number, size in enumerate(sizes):
        for nsamples in (size, max(1, size // 2), 9):
            try:
                windows = draw_windows(pool, replace(draw, set=number, nsamples=nsamples, reserve=9))
            except TooLittleText:
                continue
            known = largest.get(number, [])
            shared = min(len(known), len(windows))
            assert [w.tokens.tolist() for w in windows[:shared]] == [w.tokens.tolist() for w in known[:shared]]
            largest[number] = max(known, windows, key=len)
    used = [origin for windows in largest.values() for origin in origins(pool, windows)]
    assert len(used) == len(set(used))


@settings(max_examples=100, deadline=None)
@given(pools, draws)
def test_a_pool_gives_as_many_sets_as_it_says(pool: Pool, draw: Draw) -> None:
    made = len(all_sets(pool, draw))
    with pytest.raises(TooLittleText) as caught:
        draw_windows(pool, replace(draw, set=made + 3))
    assert caught.value.sets == made


@settings(max_examples=100, deadline=None)
@given(pools, st.integers(1, 12), st.integers(0, 5))
def test_sets_of_one_window_cover_the_text(pool: Pool, length: int, seed: int) -> None:
    """All of it but a tail with `windows`; every document that is long enough with `long_documents`."""
    draw = make_draw("windows", nsamples=1, length=length, seed=seed, separator=np.empty(0, dtype=np.int32))
    used = {origin for windows in all_sets(pool, draw) for origin in origins(pool, windows)}
    assert len(used) == len(pool.tokens) // length * length
    sets = all_sets(pool, replace(draw, sampling="long_documents"))
    assert {windows[0].documents[0] for windows in sets} == set(np.flatnonzero(pool.lengths >= length))


@settings(max_examples=100, deadline=None)
@given(pools, draws.filter(lambda draw: draw.sampling == "document_start"))
def test_document_start_begins_every_window_with_a_fresh_document(pool: Pool, draw: Draw) -> None:
    seen: set[int] = set()
    for windows in all_sets(pool, draw):
        for window in windows:
            assert window.starts[0] == 0 and window.tokens[0] == pool.tokens[pool.offsets[window.documents[0]]]
            assert not seen & set(window.documents)
            seen |= set(window.documents)


@settings(max_examples=150, deadline=None)
@given(pools, draws)
def test_sets_share_no_token(pool: Pool, draw: Draw) -> None:
    tokens = [token for windows in all_sets(pool, draw) for token in text_tokens(windows)]
    assert len(tokens) == len(set(tokens))


@settings(max_examples=150, deadline=None)
@given(pools, draws.filter(lambda draw: draw.sampling in ("packed", "document_start", "long_documents")))
def test_packed_and_long_documents_share_no_document_between_sets(pool: Pool, draw: Draw) -> None:
    sets = [{document for window in windows for document in window.documents} for windows in all_sets(pool, draw)]
    assert sum(len(documents) for documents in sets) == len(set().union(*sets))


@settings(max_examples=150, deadline=None)
@given(pools, draws)
def test_pieces_tell_where_every_token_comes_from(pool: Pool, draw: Draw) -> None:
    for windows in all_sets(pool, draw):
        assert len(windows) == draw.nsamples
        for window in windows:
            assert window.tokens.shape == (draw.length,)
            pieces = [
                pool.tokens[pool.offsets[document] + start : pool.offsets[document] + start + length]
                for document, start, length in zip(window.documents, window.starts, window.lengths, strict=True)
            ]
            assert text_tokens([window]) == [int(token) for piece in pieces for token in piece]
            for document, start, length in zip(window.documents, window.starts, window.lengths, strict=True):
                assert 0 <= start < start + length <= pool.lengths[document]


@settings(max_examples=150, deadline=None)
@given(pools, draws.filter(lambda draw: draw.sampling != "long_documents"))
def test_windows_are_cut_from_one_joined_text(pool: Pool, draw: Draw) -> None:
    """Against the plain way: join the documents in the order in which they occur, cut, and look every window up."""
    for windows in all_sets(pool, draw):
        for window in windows:
            order = list(window.documents)
            joined: list[int] = []
            for number, document in enumerate(order):
                joined += [SEPARATOR] * len(draw.separator) if number else []
                joined += pool.tokens[pool.offsets[document] : pool.offsets[document + 1]].tolist()
            if order:
                begin = window.starts[0]
                body = [int(token) for token in window.tokens]
                leading = next(i for i, token in enumerate(body) if token != SEPARATOR)
                inside = joined[begin : begin + draw.length - leading]
                assert body[leading : leading + len(inside)] == inside
                assert body[leading + len(inside) :] == [SEPARATOR] * (draw.length - leading - len(inside))


@pytest.mark.parametrize("sampling", sorted(POLICIES))
def test_a_larger_set_begins_with_the_smaller_one(sampling: str) -> None:
    pool = make_pool([11] * 40)
    small, large = (draw_windows(pool, make_draw(sampling, nsamples=nsamples)) for nsamples in (3, 12))
    assert text_tokens(large[:3]) == text_tokens(small)


def test_windows_use_all_text_but_the_tail() -> None:
    pool = make_pool([7, 13, 4, 40, 1])
    sets = all_sets(pool, make_draw("windows", nsamples=1, separator=np.empty(0, dtype=np.int32)))
    assert len(sets) == 65 // 5


def test_separator_stands_between_documents_and_not_around_them() -> None:
    pool = make_pool([3, 3])
    windows = draw_windows(pool, make_draw("sequential", nsamples=1, length=7))
    assert windows[0].tokens.tolist() == [0, 1, 2, SEPARATOR, 3, 4, 5]


def test_sequential_goes_through_the_documents_in_order() -> None:
    pool = make_pool([4, 9, 2])
    windows = draw_windows(pool, make_draw("sequential", nsamples=None, separator=np.empty(0, dtype=np.int32)))
    assert [window.tokens.tolist() for window in windows] == [list(range(i, i + 5)) for i in (0, 5, 10)]


def test_long_documents_takes_one_window_from_each_long_document() -> None:
    pool = make_pool([4, 9, 5, 20, 3])
    sets = all_sets(pool, make_draw("long_documents", nsamples=1))
    assert sorted(windows[0].documents[0] for windows in sets) == [1, 2, 3]


def test_long_documents_starts_anywhere_in_a_document() -> None:
    pool = make_pool([12])
    starts = {draw_windows(pool, make_draw("long_documents", nsamples=1, seed=seed))[0].starts[0] for seed in range(99)}
    assert starts == set(range(8))


def test_packed_begins_each_set_with_a_fresh_document() -> None:
    pool = make_pool([8] * 12)
    for windows in all_sets(pool, make_draw("packed", nsamples=2, length=5)):
        assert windows[0].starts[0] == 0


@pytest.mark.parametrize("sampling", ["windows", "packed", "document_start", "long_documents"])
def test_changed_seed_changes_the_sample(sampling: str) -> None:
    pool = make_pool([10] * 50)
    samples = {tuple(text_tokens(draw_windows(pool, make_draw(sampling, nsamples=8, seed=seed)))) for seed in range(20)}
    assert len(samples) == 20


def test_order_is_random_and_not_sorted_by_document() -> None:
    """The first set of many seeds sees every part of the pool about equally often."""
    pool = make_pool([10] * 20)
    seen = np.zeros(20)
    for seed in range(400):
        for window in draw_windows(pool, make_draw("windows", nsamples=4, length=10, seed=seed)):
            for document, length in zip(window.documents, window.lengths, strict=True):
                seen[document] += length
    share = seen / seen.sum()
    assert share.min() > 0.035 and share.max() < 0.065  # 0.05 expected, SD about 0.0025


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("windows", "0d3b62b63354"),
        ("packed", "53ffbd65fc58"),
        ("document_start", "5d9534b7013d"),
        ("long_documents", "2032b09e2af7"),
        ("sequential", "45dfbdda3613"),
    ],
)
def test_same_draw_gives_same_tokens_on_every_machine(sampling: str, expected: str) -> None:
    """Raise SAMPLING_VERSION in calib/spec.py when these hashes must change."""
    pool = make_pool([3 + (7 * number) % 31 for number in range(60)])
    windows = draw_windows(pool, make_draw(sampling, set=1, nsamples=4, length=8, seed=3))
    tokens = np.stack([window.tokens for window in windows]).astype("<i4")
    assert hashlib.sha256(tokens.tobytes()).hexdigest()[:12] == expected


def test_too_little_text_tells_how_much_there_is() -> None:
    pool = make_pool([10] * 10)
    with pytest.raises(TooLittleText) as caught:
        draw_windows(pool, make_draw("windows", set=3, nsamples=6, length=5))
    assert (caught.value.available, caught.value.needed, caught.value.sets) == (21, 24, 3)


shares_of_parts = st.lists(st.floats(0.01, 1), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.integers(0, 300), shares_of_parts)
def test_at_every_point_the_parts_have_given_their_shares(total: int, shares: list[float]) -> None:
    order = turns(total, shares)
    given_so_far = np.cumsum(order[:, None] == np.arange(len(shares)), axis=0).reshape(total, len(shares))
    due = np.arange(1, total + 1)[:, None] * np.array(shares) / np.sum(shares)
    assert (abs(given_so_far - due) < 1).all()


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 100), shares_of_parts)
def test_order_of_a_small_set_begins_that_of_a_large_one(total: int, more: int, shares: list[float]) -> None:
    assert turns(total + more, shares)[:total].tolist() == turns(total, shares).tolist()
    assert all(a <= b for a, b in zip(apportion(total, shares), apportion(total + more, shares), strict=True))
    assert sum(apportion(total, shares)) == total


def test_equal_shares_take_turns() -> None:
    assert turns(8, [0.5, 0.5]).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert apportion(128, [0.75, 0.25]) == [96, 32]

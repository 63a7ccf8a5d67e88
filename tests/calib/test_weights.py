from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.settings import SettingsError
from calib.source import get_source
from calib.spec import CalibrationSpec
from calib.weights import length_weights, part_weights, token_weights


@given(st.integers(2, 40), st.data())
def test_one_weighted_pass_is_the_sum_over_windows_cut_to_each_scale(seqlen: int, data: st.DataObject) -> None:
    scales = data.draw(st.lists(st.integers(1, seqlen), min_size=1, unique=True))
    inputs = np.random.default_rng(0).normal(size=(seqlen, 3))
    cut = sum(inputs[:scale].T @ inputs[:scale] / scale for scale in scales)
    weighted = (inputs * length_weights(seqlen, scales)[:, None]).T @ inputs
    np.testing.assert_allclose(weighted, cut * seqlen / len(scales), rtol=1e-9, atol=1e-12)
    assert length_weights(seqlen, scales).mean() == pytest.approx(1)


def test_the_window_alone_weighs_all_tokens_alike() -> None:
    assert np.array_equal(length_weights(8, [8]), np.ones(8))
    assert length_weights(4, [1, 2]).tolist() == [3.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("scales", "message"),
    [([], "expected different lengths"), ([4, 4], "expected different lengths"), ([4, 9], "expected 1 to 8.*got 9")],
)
def test_scales_that_cannot_be_are_refused(scales: list[int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        length_weights(8, scales)


def test_parts_are_the_prompt_the_response_and_both() -> None:
    responses = np.array([[False, True, True], [False, False, False]])
    assert part_weights(responses, "response").tolist() == [[0, 1, 1], [0, 0, 0]]
    assert part_weights(responses, "prompt").tolist() == [[1, 0, 0], [1, 1, 1]]
    assert part_weights(responses, "both").tolist() == [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(SettingsError, match="no token of the set belongs to the response"):
        part_weights(responses[1:], "response")


def test_a_part_that_no_length_reaches_is_refused() -> None:
    responses = np.arange(8) >= np.array([[5], [8]])
    assert token_weights(8, [2, 6], "response", responses).tolist() == [[0, 0, 0, 0, 0, 8 / 12, 0, 0], [0] * 8]
    with pytest.raises(SettingsError, match="length_weights: no token of the response stands in the first 4"):
        token_weights(8, [2, 4], "response", responses)


def test_the_order_of_lengths_means_nothing_and_whole_windows_alone_are_none() -> None:
    def weighing(lengths: list[int] | None) -> CalibrationSpec:
        return CalibrationSpec(source=get_source("books"), set=0, nsamples=4, seqlen=64, length_weights=lengths)

    assert weighing([64, 16]) == weighing([16, 64])
    assert weighing([64, 16]).id("t") == weighing([16, 64]).id("t") != weighing([16]).id("t")
    assert weighing([64]).id("t") == weighing(None).id("t") and not weighing([64]).weighs

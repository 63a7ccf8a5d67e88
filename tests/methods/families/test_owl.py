from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.families.owl import allocate, outlier_share
from methods.numerics.selection import smallest_spread


def test_mean_sparsity_is_kept_and_outliers_lower_it():
    sparsities = allocate([1.0, 3.0, 2.0, 8.0], [7] * 4, 0.5, 0.08)
    assert sum(sparsities) / 4 == pytest.approx(0.5)
    assert sparsities[3] == min(sparsities)
    assert sparsities[0] == max(sparsities)
    assert max(sparsities) - min(sparsities) == pytest.approx(0.16)


def test_equal_shares_change_nothing():
    assert allocate([2.0, 2.0], [10, 20], 0.5, 0.08) == [0.5, 0.5]


@given(
    blocks=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 10**9)), min_size=1, max_size=40),
    sparsity=st.one_of(st.floats(0, 0.999), st.sampled_from([0.0, 0.01, 0.98, 0.99, 0.995])),
    width=st.floats(0, 0.499),
)
def test_mean_over_all_weights_is_the_asked_one_at_every_size_and_limit(blocks, sparsity, width):
    shares, sizes = zip(*blocks, strict=True)
    found = allocate(shares, sizes, sparsity, width)
    mean = sum(value * size for value, size in zip(found, sizes, strict=True)) / sum(sizes)
    assert mean == pytest.approx(sparsity, abs=1e-9)
    assert all(0 <= value <= max(0.99, sparsity) for value in found)
    by_outliers = [value for _, value in sorted(zip(shares, found, strict=True), key=lambda pair: pair[0])]
    assert all(more >= less - 1e-9 for more, less in itertools.pairwise(by_outliers))


def test_outlier_share_counts_over_all_linears_of_a_block():
    assert outlier_share([torch.ones(9), torch.tensor([100.0])], 5.0) == pytest.approx(10.0)


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_blocks_with_outliers_are_pruned_less(make_llama, tokens, name):
    model = make_llama()
    decoder_blocks(model)[2].input_layernorm.weight.data[:2] *= 30
    report = compress_model(model, get_method(name, allocation="owl"), tokens)
    by_block = [sum(x.sparsity for x in report.layers if x.block == b) / 7 for b in range(3)]
    assert by_block[2] == min(by_block)
    assert max(by_block) - min(by_block) > 0.1


@pytest.mark.parametrize("sparsity", [0.03, 0.3, 0.5, 0.97])
@pytest.mark.parametrize(
    "settings",
    [{"method": "magnitude"}, {"method": "magnitude", "compare": "row"}, {"method": "wanda"}, {"method": "sparsegpt"}],
    ids=str,
)
def test_the_model_loses_what_was_asked_to_the_weight(make_llama, tokens, settings, sparsity):
    """Whole weights allow half a weight of each matrix, also where blocks differ in size and reach a limit."""
    model = make_llama(
        num_hidden_layers=3, hidden_size=36, intermediate_size=50, num_attention_heads=3, num_key_value_heads=1
    )
    blocks = decoder_blocks(model)
    blocks[2].input_layernorm.weight.data[:2] *= 30
    wider = make_llama(
        num_hidden_layers=1, hidden_size=36, intermediate_size=150, num_attention_heads=3, num_key_value_heads=1
    )
    blocks[1].mlp = decoder_blocks(wider)[0].mlp
    method = parse_method({**settings, "sparsity": sparsity, "allocation": "owl"}, "m")
    report = compress_model(model, method, tokens)
    weights = sum(layer.rows * layer.cols for layer in report.layers)
    zeros = sum(layer.sparsity * layer.rows * layer.cols for layer in report.layers)
    assert abs(zeros - sparsity * weights) <= 0.5 * len(report.layers) + 0.5


@given(rows=st.integers(1, 9), cols=st.integers(1, 20), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_rows_lose_their_smallest_and_together_the_share(rows, cols, share, seed):
    scores = torch.randint(0, 6, (rows, cols), generator=torch.Generator().manual_seed(seed)).float()
    mask = smallest_spread(scores, share)
    assert int(mask.sum()) == round(rows * cols * share)
    lost = mask.sum(1)
    assert lost.max() - lost.min() <= 1
    for row, gone in zip(scores, mask, strict=True):
        if gone.any() and not gone.all():
            assert row[gone].max() <= row[~gone].min()
    following = [row.sort().values[lost.min()] for row in scores] if lost.min() < cols else []
    more = [value for value, count in zip(following, lost, strict=False) if count > lost.min()]
    fewer = [value for value, count in zip(following, lost, strict=False) if count == lost.min()]
    assert not more or not fewer or max(more) <= min(fewer)


def test_uniform_pruning_keeps_the_published_counts_and_its_identity():
    """Only OWL's numbers have changed, so only its trials have another id."""
    for name in ("magnitude", "wanda", "sparsegpt"):
        versions = [get_method(name, allocation=allocation).identity()["version"] for allocation in ("uniform", "owl")]
        assert versions == [1, 2]


def test_a_model_of_which_every_block_is_skipped_stays_dense(make_llama, tokens):
    model, dense = make_llama(), make_llama()
    report = compress_model(model, get_method("wanda", allocation="owl", skip_blocks=[0, 1, 2]), tokens)
    assert not report.layers
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))


def test_magnitude_with_owl_is_no_longer_data_free():
    assert get_method("magnitude").data_free
    assert not get_method("magnitude", allocation="owl").data_free


def test_patterns_leave_no_room_for_allocation():
    with pytest.raises(SettingsError, match=r"wanda.allocation: owl needs an unstructured sparsity, got pattern '2:4'"):
        get_method("wanda", allocation="owl", pattern="2:4")

from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method
from methods.blockwise import compress_model, decoder_blocks
from methods.owl import block_sparsities, outlier_share


def test_mean_sparsity_is_kept_and_outliers_lower_it():
    sparsities = block_sparsities([1.0, 3.0, 2.0, 8.0], 0.5, 0.08)
    assert sum(sparsities) / 4 == pytest.approx(0.5)
    assert sparsities[3] == min(sparsities)
    assert sparsities[0] == max(sparsities)
    assert max(sparsities) - min(sparsities) == pytest.approx(0.16)


def test_equal_shares_change_nothing():
    assert block_sparsities([2.0, 2.0], 0.5, 0.08) == [0.5, 0.5]


def test_outlier_share_counts_over_all_linears_of_a_block():
    assert outlier_share([torch.ones(9), torch.tensor([100.0])], 5.0) == pytest.approx(10.0)


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_blocks_with_outliers_are_pruned_less(make_llama, tokens, name):
    model = make_llama()
    decoder_blocks(model)[2].input_layernorm.weight.data[:2] *= 30
    report = compress_model(model, get_method(name, allocation="owl"), tokens)
    by_block = [sum(x.sparsity for x in report.layers if x.block == b) / 7 for b in range(3)]
    assert by_block[2] == min(by_block)
    assert report.achieved_sparsity == pytest.approx(0.5, abs=0.02)  # whole weights per row
    assert max(by_block) - min(by_block) > 0.1


def test_magnitude_with_owl_is_no_longer_data_free():
    assert get_method("magnitude").data_free
    assert not get_method("magnitude", allocation="owl").data_free


def test_patterns_leave_no_room_for_allocation():
    with pytest.raises(SettingsError, match=r"wanda.allocation: owl needs an unstructured sparsity, got pattern '2:4'"):
        get_method("wanda", allocation="owl", pattern="2:4")

"""Blocks of sixteen levels are those of bitsandbytes, code by code, and those of a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.numerics.fourbit import (
    LEVELS,
    FourBitRule,
    block_codes,
    block_weight,
    largest_values,
    nearest,
    nested_levels,
    quantize_blocks,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "bitsandbytes" / "fourbit.npz"
RULES = {
    "nf4_64": FourBitRule("nf4", 64),
    "fp4_64": FourBitRule("fp4", 64),
    "nf4_32_double": FourBitRule("nf4", 32, double_quant=True),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def codes_of(packed: torch.Tensor) -> torch.Tensor:
    return torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten()


@pytest.mark.parametrize("name", RULES)
def test_codes_scales_and_weights_are_those_of_the_original(name: str, golden: dict[str, torch.Tensor]) -> None:
    rule, weight = RULES[name], golden["weight"]
    codes, fitted = quantize_blocks(weight, rule)
    found = block_weight(codes, largest_values(fitted), rule, (100, 96)).half()
    assert torch.equal(codes, codes_of(golden[f"{name}.weight"]))
    if not rule.double_quant:
        assert torch.equal(fitted.largest, golden[f"{name}.weight.absmax"])
        assert torch.equal(found, golden[f"{name}.expected"])
        return
    # the mean of the largest values is a sum, whose last bit depends on the processor
    assert (fitted.largest == golden[f"{name}.weight.absmax"]).float().mean() > 0.99
    torch.testing.assert_close(fitted.nested, golden[f"{name}.weight.nested_absmax"], rtol=1e-5, atol=0)
    assert (found == golden[f"{name}.expected"]).float().mean() > 0.98


def test_levels_are_those_of_the_original(golden: dict[str, torch.Tensor]) -> None:
    for name, rule in RULES.items():
        assert torch.equal(torch.tensor(LEVELS[rule.quant_type]), golden[f"{name}.weight.quant_map"])
    assert torch.equal(nested_levels(), golden["nf4_32_double.weight.nested_quant_map"])


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_value_half_way_takes_the_lower_level_as_in_the_original(kind: Any, golden: dict[str, torch.Tensor]) -> None:
    codes = block_codes(golden[f"ties_{kind}.values"], torch.ones(1), FourBitRule(kind))
    assert torch.equal(codes, codes_of(golden[f"ties_{kind}.weight"]))
    middle = (LEVELS["nf4"][14] + LEVELS["nf4"][15]) / 2
    assert nearest(torch.tensor([middle, middle + 1e-6]), torch.tensor(LEVELS["nf4"])).tolist() == [14, 15]


@pytest.mark.parametrize("rule", [FourBitRule("nf4", 32), FourBitRule("fp4", 64), FourBitRule("nf4", 32, True)])
def test_a_plain_loop_over_the_flattened_weight_gives_the_same(rule: FourBitRule) -> None:
    weight = torch.randn(7, 45, generator=torch.Generator().manual_seed(0))  # the last block is not full
    codes, fitted = quantize_blocks(weight, rule)
    levels, flat = LEVELS[rule.quant_type], weight.flatten().tolist()
    largest = [max(map(abs, flat[start : start + rule.block_size])) for start in range(0, 315, rule.block_size)]
    for place, value in enumerate(flat):
        share = value / largest[place // rule.block_size]
        assert abs(levels[codes[place]] - share) <= min(abs(level - share) for level in levels) + 1e-6
    found = largest_values(fitted)
    assert len(found) == len(largest)
    spread = max(largest) - min(largest)
    assert (found - torch.tensor(largest)).abs().max() <= (0.05 * spread if rule.double_quant else 1e-6)


def test_stored_bits_count_codes_and_scales() -> None:
    assert FourBitRule("nf4", 64).stored_bits(64 * 1000) == 4.5
    assert FourBitRule("nf4", 64, True).stored_bits(64 * 256) == 4 + (8 * 256 + 32 + 32) / (64 * 256)
    assert FourBitRule("nf4", 64).stored_bits(65) == 4 + 2 * 32 / 65


def test_a_block_of_zeros_stays_zero() -> None:
    for rule in RULES.values():
        weight = torch.zeros(2, 192)
        weight[1, 5] = 1.0
        codes, fitted = quantize_blocks(weight, rule)
        found = block_weight(codes, largest_values(fitted), rule, (2, 192))
        assert (found[weight == 0] == 0).all()
        assert torch.isfinite(found).all()

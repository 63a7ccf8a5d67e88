"""What solvers fitted is kept for each linear, and forgotten when a later step fits something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods.numerics.fourbit import FourBitRule
from methods.outcome import CompressedWeight, FittedBlocks, FittedGroups
from sweep.formats.bitsandbytes import KeptBlocks

BLOCKS = FittedBlocks(torch.tensor([0.5, 0.25]))
GROUPS = FittedGroups(torch.ones(1, 2), torch.zeros(1, 2), None)
WEIGHT = torch.zeros(2, 64)


@pytest.mark.parametrize("later", [None, GROUPS])
def test_a_step_that_fits_nothing_of_the_kind_takes_away_what_was_kept(
    tmp_path: Path, later: FittedGroups | None
) -> None:
    kept = KeptBlocks(tmp_path, FourBitRule())
    kept(0, "mlp.up_proj", CompressedWeight(WEIGHT, fitted=BLOCKS))
    kept(1, "mlp.up_proj", CompressedWeight(WEIGHT, fitted=BLOCKS))
    assert kept.names() == ["0.mlp.up_proj", "1.mlp.up_proj"]
    kept(0, "mlp.up_proj", CompressedWeight(WEIGHT, fitted=later))
    assert kept.names() == ["1.mlp.up_proj"]


def test_the_last_fit_counts(tmp_path: Path) -> None:
    kept = KeptBlocks(tmp_path, FourBitRule())
    for fitted in (FittedBlocks(torch.zeros(2)), BLOCKS):
        kept(0, "mlp.up_proj", CompressedWeight(WEIGHT, fitted=fitted))
    assert torch.equal(kept.packed("0.mlp.up_proj", WEIGHT)["weight.absmax"], BLOCKS.largest)

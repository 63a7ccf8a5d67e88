"""A pruning method is one short file: one that nobody has written yet meets every promise of the contract at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

RIA = '''
"""RIA (Zhang et al. 2024, arXiv:2402.17946): prune by a weight's share of its row and column, times its input."""

from typing import ClassVar

from pydantic import Field

from calib.settings import settings
from methods.base import register
from methods.families.pruning import ScoredPruning
from methods.inputs.norms import FeatureNorms
from methods.lazy import torch


@register("ria")
@settings
class RIA(ScoredPruning[FeatureNorms]):
    """power: of the input's norm, 0.5 in the paper."""

    needs: ClassVar[type[FeatureNorms]] = FeatureNorms

    power: float = Field(default=0.5, ge=0)

    def describe(self) -> str:
        return f"RIA {self.amount}" + ("" if self.power == 0.5 else f" power {self.power:g}")

    def scores(self, weight: torch.Tensor, statistic: FeatureNorms) -> torch.Tensor:
        sizes = weight.float().abs()
        least = torch.finfo(torch.float32).tiny  # rows and columns of zeros
        shares = sizes / sizes.sum(0).clamp_min(least) + sizes / sizes.sum(1, keepdim=True).clamp_min(least)
        return shares * statistic.squared_norms.pow(self.power / 2)
'''

CHECKED = """
import torch

from methods.base import compress_linear, get_method
from methods.families.pruning import ScoredPruning


def test_ria_prunes_what_a_double_loop_prunes():
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(6, 8, generator=generator), torch.randn(2, 20, 8, generator=generator)
    result = compress_linear(get_method("ria"), weight, inputs).weight
    norms = inputs.double().square().sum(1).mean(0).sqrt()
    for i in range(6):
        row, columns = weight[i].abs(), [weight[:, j].abs() for j in range(8)]
        shares = [row[j] / columns[j].sum() + row[j] / row.sum() for j in range(8)]
        order = sorted(range(8), key=lambda j: float(shares[j] * norms[j] ** 0.5))
        assert set((result[i] == 0).nonzero().flatten().tolist()) == set(order[:4])
"""


def test_a_new_pruning_method_of_thirty_lines_keeps_every_promise(tmp_path):
    assert len([line for line in RIA.splitlines() if line.strip()]) <= 30
    (tmp_path / "newcomer.py").write_text(RIA)
    (tmp_path / "test_ria.py").write_text(CHECKED)
    contract = PROJECT / "tests" / "methods" / "test_contract.py"
    options = ["-q", "-p", "no:cacheprovider", "-p", "newcomer", "-k", "ria and not cuda"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(contract), str(tmp_path / "test_ria.py")],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    passed = int(done.stdout.rpartition(" passed")[0].split()[-1])
    assert passed >= 20

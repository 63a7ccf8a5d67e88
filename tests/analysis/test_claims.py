"""A published claim is agreed with, refused, or left open, by a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.claims import _Case, claim_table, judge
from analysis.frames import load
from analysis.simulate import Design, SimulatedMethod, simulate_study


def told(root: Path, sources: tuple[str, ...], **methods: float) -> dict[str, bool | None]:
    """What is said of each claim in a study of sparsity 50 %, with the sensitivity of each method."""
    kinds = tuple(SimulatedMethod(name, f"{name} 50%", sparsity=0.5, sensitivity=s) for name, s in methods.items())
    design = Design(
        models={"m": 10**6}, methods=kinds, sources=sources, sets=10, tasks={"t": 400}, heldout=("wikitext2",)
    )
    simulate_study(str(root), design)
    return dict(claim_table(load(str(root))).select("claim", "agrees").iter_rows())


@pytest.mark.parametrize(
    ("cases", "verdict"),
    [
        ([], (0, 0, None)),
        ([(True, 0.4), (True, 0.2)], (0, 0, None)),
        ([(True, 0.001), (False, 0.6)], (1, 0, True)),
        ([(False, 0.001), (True, 0.6)], (0, 1, False)),
        ([(False, 0.001), (True, 0.001)], (1, 1, None)),
        ([(True, 0.03)] * 3, (0, 0, None)),  # Holm
    ],
)
def test_a_claim_needs_a_clear_case_and_none_against(
    cases: list[tuple[bool, float]], verdict: tuple[int, int, bool | None]
) -> None:
    assert judge([_Case(*case) for case in cases]) == verdict


def test_equal_cells_seldom_agree_or_disagree() -> None:
    rng = np.random.default_rng(0)
    said = [judge([_Case(bool(rng.random() < 0.5), float(rng.random())) for _ in range(6)])[2] for _ in range(400)]
    assert np.mean([verdict is not None for verdict in said]) < 0.05 + 3.5 * (0.05 * 0.95 / 400) ** 0.5


def test_sensitivity_in_the_published_order_is_seen_and_its_reverse_too(tmp_path: Path) -> None:
    claim = "Sensitivity to calibration data: SparseGPT > Wanda > GPTQ > SpQR"
    sources = ("a", "b", "c")
    assert told(tmp_path / "order", sources, sparsegpt=6.0, wanda=1.0)[claim] is True
    assert told(tmp_path / "reverse", sources, sparsegpt=1.0, wanda=6.0)[claim] is False
    assert told(tmp_path / "alike", sources, sparsegpt=2.0, wanda=2.0)[claim] is None


def test_what_a_study_does_not_hold_cannot_be_told(tmp_path: Path) -> None:
    verdicts = told(tmp_path, ("a", "b"), wanda=1.0)
    assert verdicts["With SparseGPT, RefinedWeb is better than Wikipedia"] is None
    assert verdicts["More calibration windows lower SparseGPT's perplexity"] is None

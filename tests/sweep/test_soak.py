"""A short soak: kills, a full disk and packing between launches leave nothing lost, doubled, wrong or unexplained."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import soak

pytestmark = pytest.mark.ray


def test_disturbed_launches_give_the_undisturbed_tables(tmp_path: Path) -> None:
    said: list[str] = []
    found = soak(tmp_path / "soak", trials=41, seed=1, launches=2, say=said.append)
    assert not any(found.values()), (found, said)

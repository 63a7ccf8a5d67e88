"""What is read back from a record, and what JSON makes of numbers that are none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.adviser.outcomes import Outcome
from sweep.adviser.record import FILE, plain, recorded_workers
from sweep.results import Results


def test_a_folder_without_a_record_names_no_workers(tmp_path: Path) -> None:
    assert recorded_workers(Results(str(tmp_path))) is None


def test_the_workers_of_the_first_command_are_read_back(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"workers": 3}')
    assert recorded_workers(Results(str(tmp_path))) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"workers": 0}', '{"workers": true}', '{"workers": "3"}', "[" * 100_000])
def test_another_file_of_that_name_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SettingsError, match=r"adviser\.json there is no record of an adviser"):
        recorded_workers(Results(str(tmp_path)))


def test_infinite_losses_are_null() -> None:
    outcome = Outcome("a", 0, "full", (1.0, math.inf), 2.0)
    assert plain(outcome)["values"] == [1.0, None]
    assert plain({"x": np.float64(2.5), "n": np.int64(3), "nan": float("nan")}) == {"x": 2.5, "n": 3, "nan": None}

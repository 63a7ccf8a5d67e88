"""Times as people write them."""

from __future__ import annotations

import pytest

from calib.settings import SettingsError
from sweep.adviser.question import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("20 min", 1200), ("2h", 7200), ("1h30m", 5400), ("0.5d", 43200)]
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "1h 30", "-1h", "2h!"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--budget '.*': expected a time such as 90s, 20m, 2h or 1h30m"):
        seconds_of(text)

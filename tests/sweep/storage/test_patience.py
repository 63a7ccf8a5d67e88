"""A store that is away for a while costs time and nothing else; one that has answered is believed at once."""

from __future__ import annotations

import logging

import pytest

from sweep.storage import patience
from sweep.storage.patience import patiently

AWAY = (
    "When getting information for key 'x' in bucket 'b': AWS Error NETWORK_CONNECTION during HeadObject operation: "
    "curlCode: 7, Couldn't connect to server",
    "When completing multiple part upload: AWS Error SERVICE_UNAVAILABLE (HTTP status 503)",
    "AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.",
    "google::cloud::Status(UNAVAILABLE: Retry policy exhausted)",
)
ANSWERED = (
    "AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: The specified bucket does not exist",
    "AWS Error ACCESS_DENIED during HeadObject operation: No response body.",
    "AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject operation",
    "AWS Error UNKNOWN (HTTP status 403) during HeadBucket operation",
)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only while somebody waits; returns the pauses."""
    waited: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waited.append)
    monkeypatch.setattr(patience.time, "monotonic", lambda: sum(waited))
    return waited


@pytest.mark.parametrize("message", AWAY)
def test_store_that_is_away_is_asked_again_with_growing_pauses(
    message: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    def write() -> str:
        if sum(pauses) < 100:
            raise OSError(message)
        return "written"

    with caplog.at_level(logging.WARNING):
        assert patiently(write, 600, "writing trials/1.parquet") == "written"
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert "writing trials/1.parquet: the store cannot be reached" in caplog.text


def test_patience_ends_when_it_was_said_to(pauses: list[float]) -> None:
    def fail() -> None:
        raise OSError(AWAY[0])

    with pytest.raises(OSError, match="Couldn't connect"):
        patiently(fail, 100, "listing trials")
    assert sum(pauses) == 100


@pytest.mark.parametrize("error", [*map(OSError, ANSWERED), FileNotFoundError("x"), PermissionError("x")], ids=str)
def test_an_answer_is_believed_at_once(error: OSError, pauses: list[float]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        patiently(fail, 600, "listing trials")
    assert pauses == []

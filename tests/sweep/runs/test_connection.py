"""Whether somebody listens, and what is said when nobody does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.runs.connection import LOGS, answers, arguments, dashboard_line, gone, hint, knock, within
from sweep.runs.runner import RunnerError, RunOptions


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_head_answers_while_it_listens(listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert answers(address, 0.0)
    listener.close()
    assert not answers(address, 0.0)
    with pytest.raises(OSError, match="refused"):
        knock(address)


@pytest.mark.parametrize("address", ["auto", "ray://somewhere:1"])
def test_addresses_that_are_no_socket_are_left_to_ray(address: str) -> None:
    knock(address)


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        (None, "timed out\n during startup", "Ray cannot be started here, tried 2 times (timed out during startup)"),
        ("10.0.0.1:6379", "refused", "--address 10.0.0.1:6379: no Ray cluster answers (refused); start one with"),
        ("auto", "Unauthenticated: no token", "--address auto: the cluster asks for a token"),
    ],
)
def test_hint_says_what_to_do(address: str | None, error: str, said: str) -> None:
    assert hint(address, Exception(error), starts=2).startswith(said)


def test_logs_are_named_where_ray_was_started_here() -> None:
    assert str(LOGS) in (gone(None, None, lambda: False) or "")
    assert gone("10.0.0.1:6379", None, lambda: False) == "no node of Ray is alive any more"
    assert gone("10.0.0.1:6379", None, lambda: True) is None


def test_head_that_says_nothing_is_told_and_not_waited_for() -> None:
    for_ever = threading.Event()
    with pytest.raises(RunnerError, match=r"the head of Ray has not answered for 0 s"):
        within(for_ever.wait, 0.05)
    for_ever.set()


def test_dashboard_is_started_on_request_and_for_this_machine_alone() -> None:
    assert arguments(RunOptions())["include_dashboard"] is False
    asked = arguments(RunOptions(dashboard=8342))
    assert (asked["include_dashboard"], asked["dashboard_host"], asked["dashboard_port"]) == (True, "127.0.0.1", 8342)
    assert "http://127.0.0.1:8342" in dashboard_line(8342)


@pytest.mark.parametrize("options", [{"local": True}, {"address": "auto"}])
def test_dashboard_of_a_ray_that_is_not_started_here_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="--dashboard: is of a Ray that is started here"):
        RunOptions(dashboard=8342, **options)


def test_answer_of_the_head_and_its_errors_are_handed_on() -> None:
    assert within(lambda: ["node"]) == ["node"]
    with pytest.raises(ZeroDivisionError):
        within(lambda: 1 // 0)

"""Functions run in processes of this machine: what they return, how they fail, and that nothing outlives the launch."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.runs import nursery
from sweep.runs.hands import Elsewhere, Hands, Small, argument, fetched, first_there, shared
from sweep.runs.runner import RunnerError
from tests.sweep.processes import family


@dataclass(frozen=True)
class Place:
    """A reference."""

    number: int


class Shelf:
    """Keeps values by reference, as Ray does."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: Any) -> Place:
        self.values.append(value)
        return Place(len(self.values) - 1)

    def get(self, place: Place) -> Any:
        return self.values[place.number]


class Odd(Exception):
    """Cannot be made from its text alone."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def refuse(what: str) -> None:
    raise SettingsError(what)


def odd() -> None:
    raise Odd(1, 2)


def die_until(file: Path, times: int) -> str:
    """Ends its process in the middle, so many times."""
    died = len(file.read_text()) if file.exists() else 0
    if died < times:
        file.write_text("x" * (died + 1))
        print("no memory left", file=sys.stderr, flush=True)
        os._exit(1)
    return f"after {died}"


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(scope="module")
def hands(shelf: Shelf) -> Iterator[Hands]:
    found = Hands(2, shelf, imports=[__name__])
    found.share_from_now()
    yield found
    found.close()


def test_values_are_shared_one_by_one_and_are_arguments_of_others(hands: Hands, shelf: Shelf) -> None:
    seven, two = hands.task(divmod, [37, 5], 2)
    (power,) = hands.task(pow, [seven, two], 1)
    assert [shared(promise) for promise in (seven, two, power)] == [Small(7), Small(2), Small(49)]
    assert shelf.values == []
    (long,) = hands.task(bytes, [200_000], 1)
    (size,) = hands.task(len, [long], 1)
    assert (shared(size), shared(long)) == (Small(200_000), Place(0))
    assert [fetched(shared(one), shelf.get) for one in (two, long)] == [2, bytes(200_000)]
    assert shelf.values == [bytes(200_000)]
    assert [argument(one) for one in (two, long, "another")] == [2, Place(0), "another"]


def test_errors_arrive_as_they_were_with_their_traceback(hands: Hands) -> None:
    with pytest.raises(SettingsError, match="too little text") as found:
        shared(hands.task(refuse, ["too little text"], 1)[0])
    assert isinstance(found.value.__cause__, Elsewhere) and "in refuse" in str(found.value.__cause__)
    with pytest.raises(FileNotFoundError):  # which is no death of the process
        shared(hands.task(os.listdir, ["/nowhere"], 1)[0])
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        shared(hands.task(odd, [], 1)[0])


def test_function_whose_process_dies_is_run_again_and_given_up_the_third_time(hands: Hands, tmp_path: Path) -> None:
    (twice,) = hands.task(die_until, [tmp_path / "twice", 2], 1)
    assert shared(twice) == Small("after 2")
    with pytest.raises(RunnerError, match="died 3 times: no memory left"):
        shared(hands.task(die_until, [tmp_path / "always", 9], 1)[0])


def test_nothing_is_there_before_it_can_be_shared_nor_after_the_end(shelf: Shelf) -> None:
    hands = Hands(2, shelf, imports=[])
    (early,) = hands.task(os.getpid, [], 1)
    (never,) = hands.task(time.sleep, [600], 1)
    assert first_there([early, never], 1.0, never_there) == []
    hands.share_from_now()
    assert first_there([never, early], 30.0, never_there) == [early]
    hands.close()
    with pytest.raises(RunnerError):
        shared(never)


class SlowShelf(Shelf):
    """Takes in nothing before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.told = threading.Event(), threading.Event()

    def put(self, value: Any) -> Place:
        self.asked.set()
        self.told.wait(60)
        return super().put(value)


def test_end_comes_although_functions_wait_for_others_that_have_not_begun() -> None:
    shelf = SlowShelf()
    hands = Hands(1, shelf, imports=[])
    hands.share_from_now()
    hands.task(bytes, [200_000], 1)
    (queued,) = hands.task(divmod, [37, 5], 1)
    (waiting,) = hands.task(len, [queued], 1)
    assert shelf.asked.wait(60)  # so that the only hand takes nothing else
    closing = threading.Thread(target=hands.close, daemon=True)
    closing.start()
    time.sleep(0.3)
    shelf.told.set()
    closing.join(30)
    assert not closing.is_alive()
    with pytest.raises(RunnerError):
        shared(waiting)


def test_files_that_processes_would_remove_when_they_end_go_with_them(shelf: Shelf) -> None:
    hands = Hands(1, shelf, imports=[])
    hands.share_from_now()
    folder = Path(shared(hands.task(tempfile.mkdtemp, [], 1)[0]).value)
    assert folder.is_dir()
    hands.close()
    assert not folder.exists()


def never_there(references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
    time.sleep(timeout)
    return [], references


def wait_for_file(file: Path) -> str:
    while not file.exists():
        time.sleep(0.01)
    return file.read_text()


def test_what_waits_for_others_occupies_no_process(hands: Hands, tmp_path: Path) -> None:
    (first,) = hands.task(wait_for_file, [tmp_path / "go"], 1)
    (second, third) = (hands.task(f, [first], 1)[0] for f in (str, len))
    assert shared(hands.task((tmp_path / "go").write_text, ["now"], 1)[0]) == Small(3)
    assert [shared(promise) for promise in (first, second, third)] == [Small("now"), Small("now"), Small(3)]


def test_what_waits_when_the_launch_ends_ends_as_well(shelf: Shelf) -> None:
    hands = Hands(1, shelf, imports=[])
    (never,) = hands.task(time.sleep, [600], 1)
    (queued,) = hands.task(os.getpid, [], 1)
    (waiting,) = hands.task(str, [never], 1)
    hands.close()
    (late,) = hands.task(os.getpid, [], 1)
    for promise in (never, queued, waiting, late):
        assert promise.there
        with pytest.raises(RunnerError):
            shared(promise)


def test_processes_end_when_nothing_is_left_to_do_and_others_come_when_there_is(shelf: Shelf) -> None:
    hands = Hands(2, shelf, imports=[])
    hands.share_from_now()
    for _ in range(2):
        numbers = {shared(hands.task(os.getpid, [], 1)[0]).value for _ in range(3)}
        wait_until(lambda numbers=numbers: not any(Path(f"/proc/{number}").exists() for number in numbers))
    hands.close()


def test_process_runs_one_function_after_the_other_while_some_are_left(hands: Hands, tmp_path: Path) -> None:
    (last,) = hands.task(wait_for_file, [tmp_path / "end"], 1)
    numbers = {shared(hands.task(os.getpid, [], 1)[0]) for _ in range(3)}
    (tmp_path / "end").write_text("")
    assert (len(numbers), shared(last)) == (1, Small(""))


def test_small_values_touch_no_store() -> None:
    hands = Hands(1, object(), imports=[])
    hands.share_from_now()
    (two,) = hands.task(abs, [-2], 1)
    assert shared(hands.task(abs, [two], 1)[0]) == Small(2)
    hands.close()


def test_references_of_ray_are_looked_at_beside_promises(hands: Hands) -> None:
    (slow,) = hands.task(time.sleep, [60], 1)
    assert first_there([slow, "there"], 30.0, lambda found, **_: (found, [])) == ["there"]
    assert first_there(["not"], 0.0, never_there) == []
    assert first_there([], 30.0, never_there) == []


def test_killed_launch_leaves_no_process(tmp_path: Path) -> None:
    text = (
        "import time; from types import SimpleNamespace; from sweep.runs.hands import Hands\n"
        "hands = Hands(1, SimpleNamespace(get=None, put=None), imports=[])\n"
        "hands.task(time.sleep, [600], 1); time.sleep(600)"
    )
    launch = subprocess.Popen([sys.executable, "-c", text])
    try:
        wait_until(lambda: len(family(launch.pid)) == 3)  # with the nursery, and what it has forked
        others = family(launch.pid) - {launch.pid}
    finally:
        launch.send_signal(signal.SIGKILL)
        launch.wait()
    wait_until(lambda: not any(Path(f"/proc/{number}").exists() for number in others))


def wait_until(true: Any, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_no_thread_with_locks_of_its_own_is_started_by_what_is_imported_before_the_forks() -> None:
    text = f"""
import importlib, pathlib
for name in {nursery.IMPORTS}: importlib.import_module(name)
print({{file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")}})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    threads = ast.literal_eval(found.stdout) - {"jemalloc_bg_thd"}  # of pyarrow: jemalloc takes care of forks
    assert len(threads) == 1

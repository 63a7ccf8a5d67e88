"""Errors as a row keeps them: one line, with what failed and where."""

from __future__ import annotations

import pytest

from calib.settings import SettingsError
from sweep.runs.errors import LONGEST, error_line, last_line, may_pass
from sweep.trial import Clock


def failed_in(clock: Clock) -> BaseException:
    with pytest.raises(IndexError) as caught, clock("evaluate", "hash of the weights"):
        [][0]
    return caught.value


def test_error_of_a_library_names_the_part_that_failed_and_the_line_of_ours() -> None:
    clock = Clock()
    line = error_line(failed_in(clock), clock.part)
    assert line.startswith("IndexError: list index out of range (hash of the weights, ")
    assert "sweep/trial.py:" in line or "test_errors.py:" in line
    assert clock.phase == "evaluate"


def test_part_that_is_over_is_not_named() -> None:
    clock = Clock()
    with clock("load", "model"):
        pass
    assert (clock.phase, clock.part) == ("load", None)
    assert clock.seconds["load"] >= 0


def test_error_of_ours_is_its_message_alone_in_one_short_line() -> None:
    assert error_line(SettingsError("models: tiny: no\n  such file"), "model") == (
        "SettingsError: models: tiny: no such file"
    )
    assert len(error_line(ValueError("x" * 5000))) == LONGEST


def test_cause_of_a_dead_worker_is_the_last_line_of_its_traceback() -> None:
    traceback = 'died in its creation task\n  File "worker.py", line 3\nRuntimeError: no GPU\nThe actor never ran - x\n'
    assert last_line(RuntimeError(traceback)) == "RuntimeError: no GPU"
    assert last_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("error", "worth"),
    [(OSError("no route"), True), (RuntimeError("CUDA out of memory"), True), (ValueError("bad config"), False)],
)
def test_what_others_may_give_back_is_worth_another_try(error: Exception, worth: bool) -> None:
    assert may_pass(error) is worth

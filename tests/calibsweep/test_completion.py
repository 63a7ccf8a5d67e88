"""What a shell offers after a word."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from calibsweep.commands import commands
from calibsweep.completion import KINDS, SCRIPTS, SETS, candidates
from calibsweep.console import BAD_INPUT, OK, main
from calibsweep.listing import Kind
from sweep.config import study_names


def test_commands_come_first() -> None:
    assert set(commands()) < set(candidates([""]))


def test_names_and_flags_of_a_command() -> None:
    assert candidates(["run", ""]) == study_names()
    assert candidates(["ls", ""]) == list(KINDS) == [kind.value for kind in Kind]
    assert {"--results", "--set", "--retry-failed"} <= set(candidates(["run", "reference", "--"]))
    assert "--matters" in candidates(["recommend", "--"])
    assert candidates(["nothing", ""]) == []
    assert candidates(["status", "--"]) == ["--help"]


def test_what_calib_can_do_is_offered_and_can_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert candidates(["calib", ""]) == list(SETS)
    assert main(["calib", "nothing"]) == BAD_INPUT
    told = capsys.readouterr().err
    assert all(name in told for name in SETS)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_are_whole(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == OK
    script = capsys.readouterr().out
    assert "calibsweep completion words --" in script
    if (executable := shutil.which(shell)) is not None:
        assert subprocess.run([executable, "-n"], input=script, text=True, check=False).returncode == 0

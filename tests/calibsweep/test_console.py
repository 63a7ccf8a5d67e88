"""The console: every command by one name, answered at once, with nobody else's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import house
from calibsweep.commands import GROUPS, commands
from calibsweep.console import BAD_INPUT, OK, main
from sweep import shadows

ENTRIES = [entry for group in GROUPS.values() for entry in group]


def console(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, as the script of an installation does."""
    code = "import sys; from calibsweep.console import entry; entry()"
    path = os.pathsep.join([str(house.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **env}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_help_names_every_command_and_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from calibsweep.console import main; main(['--help']);"
        "print([name for name in ('torch', 'ray', 'polars', 'pydantic', 'typer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=house.PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for name in commands():
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.installed], ids=lambda entry: entry.name)
def test_every_command_has_help(entry, capfd: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert main([entry.name, "--help"]) == OK
    printed = capfd.readouterr().out
    assert printed.startswith(f"Usage: calibsweep {entry.name} ")
    assert "Options:" in printed


def test_names_are_used_once_and_a_command_without_its_module_is_not_offered() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names))
    assert set(commands()) == {entry.name for entry in ENTRIES if entry.installed}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rn"], "unknown command 'rn', did you mean 'run'?"),
        (["summary", "--bogus"], "No such option: --bogus"),
        (["ls", "nothing"], "'nothing' is not one of"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
        (["plan", "nothing"], "unknown study 'nothing'"),
        (["export", "--best", "--results", "r"], "--model; calibsweep export --best --help lists all flags"),
    ],
)
def test_what_cannot_be_read_ends_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err
    assert len(printed.err.strip().splitlines()) == 1


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with packages of the user's own that have our names."""
    for name in ("methods", "analysis", "calib", "sweep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    return tmp_path


def test_packages_in_the_working_directory_are_not_taken(elsewhere: Path) -> None:
    done = console("plan", "reference", cwd=elsewhere)
    assert done.returncode == OK, done.stderr
    assert "152 trials" in done.stdout


def test_a_module_that_finds_somebody_elses_package_says_whose(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").touch()
    path = os.pathsep.join([str(house.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "sweep.launch", "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == BAD_INPUT
    assert done.stderr.startswith(f"error: the package 'methods' was found in {tmp_path / 'methods'}")
    assert len(done.stderr.splitlines()) == 1


def test_our_own_packages_are_not_foreign() -> None:
    assert shadows.foreign() == []
    assert [name for name, _ in shadows.foreign(["json", "calib"])] == ["json"]


def test_figures_are_drawn_from_a_folder_with_a_package_of_our_name(elsewhere: Path) -> None:
    code = (
        "from pathlib import Path; from calibsweep.console import only_our_packages; only_our_packages();"
        "from analysis.page.vega import Drawing\n"
        "with Drawing(1) as drawing:\n"
        "    drawing.add({'data': {'values': [{}]}, 'mark': 'point'}, Path('one'))\n"
        "    print(*drawing.wait())\n"
    )
    path = os.pathsep.join([str(house.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == OK, done.stderr
    assert (elsewhere / "one.svg").exists()


def test_version_is_that_of_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == OK
    assert capsys.readouterr().out.startswith("calibsweep ")

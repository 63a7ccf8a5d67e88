"""Whatever is wrong with an input ends in one line that says where and what to do, and exit code 2.

The table is in the files `cases_*.py` beside this one, a file for each area. Nothing may be started or left behind:
no worker, no file outside the results folder, and no package that takes seconds to load where none is needed.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.bad_inputs.common import Case

HEAVY = ("torch", "ray", "transformers", "datasets")  # lm-eval needs them, and its folder is looked for
AREAS = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py"))
TABLE: dict[str, Case] = {
    f"{area.removeprefix('cases_')}: {name}": case
    for area in AREAS
    for name, case in importlib.import_module(f"tests.bad_inputs.{area}").CASES.items()
}


def files_below(folder: Path) -> set[Path]:
    """Every path below the folder but the results: `results/` and what `--results` names there as `out`."""
    results = (folder / "results", folder / "out")
    return {path for path in folder.rglob("*") if not any(path == top or top in path.parents for top in results)}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_bad_input_ends_in_one_line(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = case.build(tmp_path)
    before = files_below(tmp_path)
    if not case.torch:
        for name in HEAVY:  # an import of them would raise
            monkeypatch.setitem(sys.modules, name, None)
    result = CliRunner().invoke(importlib.import_module(case.command).app, arguments)
    assert isinstance(result.exception, SystemExit), f"{result.exception!r}\n{result.output}"
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert re.search(case.message, lines[0]), f"{lines[0]}\n  does not match\n{case.message}"
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("results/*/trials/*")), "a trial ran"
    assert files_below(tmp_path) == before

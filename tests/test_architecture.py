"""The house keeps its order: imports point one way, Ray has one room, and planning stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("calib", "methods", "sweep", "analysis")
MAY_IMPORT = {
    "calib": {"calib"},
    "methods": {"calib", "methods"},
    "sweep": {"calib", "methods", "sweep"},
    "analysis": {"calib", "analysis"},  # and sweep.results, checked apart
}
FILES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that the file imports, inside functions and under TYPE_CHECKING as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(PROJECT).parts[0]
    for module in imported_modules(path):
        root = module.split(".")[0]
        if package == "analysis" and root == "sweep":
            assert module == "sweep.results", f"analysis meets sweep through sweep.results, not {module}"
        elif root in PACKAGES:
            assert root in MAY_IMPORT[package], f"{package} must not import {module}"


def test_ray_lives_in_one_file() -> None:
    users = [path for path in FILES if any(module.split(".")[0] == "ray" for module in imported_modules(path))]
    assert users == [PROJECT / "sweep" / "remote.py"]


@pytest.mark.parametrize("package", [*PACKAGES, "calib/sources", "sweep/evaluation", "methods/kernels"])
def test_packages_do_nothing_on_import(package: str) -> None:
    assert (PROJECT / package / "__init__.py").read_text().strip() == ""


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sweep.results", ("torch", "ray", "transformers", "datasets", "lm_eval")),
        ("sweep.plan", ("torch", "ray", "transformers", "datasets", "lm_eval")),
        ("analysis.report", ("torch", "ray", "transformers", "datasets", "lm_eval")),
    ],
)
def test_light_modules_import_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

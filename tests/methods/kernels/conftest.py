"""Kernels in Triton's interpreter, for runs without a GPU.

The interpreter has to be chosen before Triton is imported, so the default run starts it in a process of its own:
`TRITON_INTERPRET=1 python -m pytest tests/methods/kernels` runs the same tests in one, on small shapes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest

from methods.numerics.backend import has_triton


def interpreter_works() -> bool:
    if not has_triton():
        return False
    numbers = [tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy")]
    return numbers[0] >= (3, 7) or numbers[1] < (2, 4)


@pytest.fixture
def in_interpreter(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs tests of the same file in Triton's interpreter, in another process; they must all pass."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this is the interpreter's run")
    if not interpreter_works():
        pytest.skip("needs Triton, 3.7 or later with numpy 2.4 or later")

    def run(*chosen: str) -> None:
        tests = [f"{request.path}::{test}" for test in chosen]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed is not None
        assert int(passed[1]) >= len(chosen)
        assert "skipped" not in done.stdout

    return run

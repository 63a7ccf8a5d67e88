"""What all tests share: nothing of the machine, of its terminal or of its clock may decide whether they pass.

With `-n` (pytest-xdist, see the Makefile) the files of tests go to several processes, those that start Ray first: they
wait more than they compute.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile

import hypothesis
import pytest

# Before torch is imported. The models are tiny: threads of one would only wait for each other, on a busy machine long,
# and longer when they keep the processor while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # see rich
    os.environ.pop(name, None)
# The home folder may be read-only, and what earlier runs left there decides nothing.
CACHE = tempfile.mkdtemp(prefix="tests-datasets-")
os.environ |= {"HF_DATASETS_CACHE": f"{CACHE}/datasets", "HF_MODULES_CACHE": f"{CACHE}/modules"}

# A busy machine is slow, and no test says how fast anything is.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], parent=hypothesis.settings.default
)
hypothesis.settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """A run without the tests of a GPU is the same on a machine that has one."""
    if "not gpu" in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


MANY_MODULES = 300  # torch, transformers and lm-eval bring thousands
frozen_modules = 0


def pytest_runtest_setup() -> None:
    """Trials collect garbage; what libraries made when they were imported is not looked through each time."""
    global frozen_modules
    if len(sys.modules) > frozen_modules + MANY_MODULES:
        frozen_modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: item.get_closest_marker("ray") is None)

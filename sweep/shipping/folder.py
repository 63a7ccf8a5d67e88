"""Everything that is shipped with the weights: the card, the recipe, the calibration set, the layers' telemetry.

The weights' folder appears when all of it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from calib.export import write_set
from sweep.formats.format import Format
from sweep.formats.grids import grids_by_linear
from sweep.formats.writer import Written, write_model
from sweep.shipping.card import card
from sweep.shipping.choose import Chosen
from sweep.shipping.recompress import Recompressed


def ship(made: Recompressed, chosen: Chosen, out: Path, packed: Format | None, *, with_data: bool = True) -> Written:
    """Write the compressed model and all that belongs to it to the new folder `out`.

    with_data: the calibration set goes along; otherwise its hash and recipe alone. Raises SettingsError, FormatError.
    """
    method = chosen.trial.method
    assert method is not None
    grids = {} if packed is None else grids_by_linear(made.dense.model, method, made.report)

    def complete(folder: Path, written: Written) -> None:
        (folder / "README.md").write_text(card(chosen, made.report, written, packed), encoding="utf-8")
        (folder / "recipe.yaml").write_text(recipe(chosen), encoding="utf-8")
        pl.DataFrame([layer.as_row() for layer in made.report.layers]).write_parquet(folder / "layers.parquet")
        if made.calibration is not None and with_data:
            write_set(made.calibration, folder / "calibration.parquet")

    return write_model(made.dense.model, made.dense.tokenizer, out, packed, grids, complete)


def recipe(chosen: Chosen) -> str:
    """A study of this one trial, with the evaluation of the study that measured it: the trial's id is the same."""
    document = dict(chosen.study.document)
    name = chosen.trial.model.name
    models = zip(document["models"], chosen.study.models, strict=True)
    document["models"] = [entry for entry, ref in models if ref.name == name]
    place = chosen.study.methods.index(chosen.trial.method)
    document["methods"] = [document["methods"][place]]
    document["calibration"] = _calibration(chosen)
    return yaml.safe_dump({key: value for key, value in document.items() if value}, sort_keys=False, allow_unicode=True)


def _calibration(chosen: Chosen) -> list[Mapping[str, Any]]:
    """The one set, as the entry of a study."""
    spec = chosen.trial.spec
    if spec is None:
        return []
    entry = {key: value for key, value in spec.to_dict().items() if key not in ("revision", "set")}
    return [{**entry, "sets": [spec.set]}]

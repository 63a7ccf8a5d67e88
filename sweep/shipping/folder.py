"""Everything that is shipped with the weights: the card, the recipe, the calibration set, the layers' telemetry.

The weights' folder appears when all of it is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from calib.export import write_set
from methods.base import Method
from methods.blockwise import CompressionReport
from sweep.formats.catalog import PACKED
from sweep.formats.grids import grids_by_linear
from sweep.formats.pattern import check_pattern
from sweep.formats.writer import Written, leftovers, write_model
from sweep.models import PACKAGED, ModelRef, bundled_models
from sweep.shipping.card import card
from sweep.shipping.choose import Chosen
from sweep.shipping.recompress import Recompressed
from sweep.storage.schemas import TABLES


@dataclass(frozen=True)
class Parcel:
    """How a model is shipped. format: its name. data: the calibration set goes along, otherwise its hash and recipe
    alone. why: what the card quotes as the reason for this choice."""

    format: str
    data: bool = True
    why: str | None = None


def ship(made: Recompressed, chosen: Chosen, out: Path, parcel: Parcel) -> Written:
    """Write the compressed model and all that belongs to it to the new folder `out`.

    Raises SettingsError, or FormatError when the format cannot hold the model or a promised pattern does not hold.
    """
    method, model = method_of(chosen), made.dense.model
    pattern = method.nominal()["pattern"]
    if pattern is not None:
        check_pattern(model, pattern, made.report)
    grids = grids_by_linear(model, method, made.report)

    def complete(folder: Path, written: Written) -> None:
        named = replace(written, folder=out)  # where it will be
        text = card(chosen, made.report, named, why=parcel.why, pattern=pattern)
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / "recipe.yaml").write_text(recipe(chosen, out), encoding="utf-8")
        _write_layers(made.report, chosen.trial.id, folder / "layers.parquet")
        if made.calibration is not None and parcel.data:
            write_set(made.calibration, folder / "calibration.parquet")

    written = write_model(model, made.dense.tokenizer, out, parcel.format, grids, complete, made.kept)
    written.counted_bits = made.report.average_bits
    return written


def _write_layers(report: CompressionReport, trial_id: str, file: Path) -> None:
    """The telemetry as a table of results folders has it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"trial_id": trial_id, **layer.as_row()} for layer in report.layers]
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLES["layers"]), file)


def told(written: Written) -> str:
    """What was written, in one line; of packed weights the bits that they take and those that the method counts."""
    bits = ""
    if written.bits_per_weight is not None:
        counted = "" if written.counted_bits is None else f" (the method counts {written.counted_bits:.3f})"
        bits = f", {written.bits_per_weight:.3f} bits a packed weight{counted}"
    return f"{written.folder}: {written.format}, {written.bytes / 2**20:,.1f} MiB{bits}"


def reader_note(written: Written) -> str:
    """A line that says who reads groups that are not consecutive inputs, which fewer do; empty where there are none."""
    if not any(grid.scattered for grid in written.grids):
        return ""
    loaders = PACKED[written.format].loaders(written.grids)
    return f"note: groups of inputs that do not stand together are read by {loaders}; static_groups: true by more\n"


def leftover_note(out: Path) -> str:
    """A line that names what earlier exports to `out` left behind; empty when they left nothing."""
    found = ", ".join(map(str, leftovers(out)))
    return f"note: {found} is no model but what an export left that was killed or still runs\n" if found else ""


def recipe(chosen: Chosen, folder: Path) -> str:
    """A study of this one trial, with the evaluation of the study that measured it: the trial's id is the same.

    Files are named relative to `folder`, in which it stands, and what they must hold is said at its head.
    """
    document = dict(chosen.study.document)
    name = chosen.trial.model.name
    models = zip(document["models"], chosen.study.models, strict=True)
    document["models"] = [_model_entry(entry, ref) for entry, ref in models if ref.name == name]
    place = chosen.study.methods.index(method_of(chosen))
    document["methods"] = [document["methods"][place]]
    document["calibration"] = _calibration(chosen)
    document = _relative({key: value for key, value in document.items() if value}, folder.absolute())
    return _head(chosen) + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _head(chosen: Chosen) -> str:
    """How the recipe is run, and what the files that it names must hold."""
    held = [f"model {chosen.trial.model.fingerprint}"]
    if chosen.trial.spec is not None:
        held.append(f"text {chosen.trial.spec.source.revision()}")
    return (
        "# Measures this trial again: cd into this folder, then python -m sweep.launch ./recipe.yaml\n"
        "# Files are named relative to this folder; change the paths where they lie elsewhere. The trial's id stays\n"
        f"# {chosen.trial.id} as long as they hold the same: {', '.join(held)}\n"
    )


def _model_entry(entry: Mapping[str, Any] | str, ref: ModelRef) -> Mapping[str, Any]:
    """The model's entry, which may be its name alone, with the whole path of a folder or file of the user's own."""
    entry = {"model": entry} if isinstance(entry, str) else entry
    if ref.on_hub or entry["model"] in (*bundled_models(), *PACKAGED):
        return entry
    return {**entry, "model": ref.path, "name": ref.name}


def _relative(value: Any, folder: Path) -> Any:
    """`value` with every absolute path in it made relative to `folder`."""
    if isinstance(value, Mapping):
        return {key: _relative(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [_relative(part, folder) for part in value]
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.relpath(os.path.realpath(value), os.path.realpath(folder))
    return value


def _calibration(chosen: Chosen) -> list[Mapping[str, Any]]:
    """The one set, as the entry of a study."""
    spec = chosen.trial.spec
    if spec is None:
        return []
    entry = {key: value for key, value in spec.to_dict().items() if key not in ("revision", "set")}
    return [{**entry, "sets": [spec.set]}]


def method_of(chosen: Chosen) -> Method:
    """The method of the chosen trial, which is never the dense model."""
    if chosen.trial.method is None:
        raise ValueError("the dense model is not shipped")
    return chosen.trial.method

"""`python -m sweep.compress MODEL --method gptq --bits 4 --data my.jsonl --out DIR`: one model, compressed and written.

The one-command way, for those who know which method and text they want. What is written is what `sweep.export` writes
of a measured trial, with the same recipe: `cd DIR && python -m sweep.launch ./recipe.yaml` measures it. From Python:

    from sweep.compress import compress
    compress("my-model", {"method": "gptq", "bits": 4, "group_size": 128}, "my.jsonl", "my-model-4bit")
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from calib.build import build, preflight
from calib.settings import SettingsError, error_lines, one_line
from methods.base import CompressionError, Method, parse_method
from methods.blockwise import CompressionReport, compress_model
from sweep.config import Study, parse_study
from sweep.formats.catalog import DENSE, KEPT, NAMES, check_method, check_name, usual_format
from sweep.formats.format import FormatError
from sweep.formats.grids import grids_by_linear
from sweep.formats.kept import Kept
from sweep.formats.writer import Written, check_apart, check_target, write_model
from sweep.models import context_length, load_tokenizer, resolve_model
from sweep.plan import Trial, check, expand
from sweep.runs.machine import device_name
from sweep.runs.provenance import provenance
from sweep.shipping.choose import Chosen
from sweep.shipping.entries import (
    HELDOUT,
    LONGEST,
    data_note,
    source_entry,
    stored_dtype,
    typed_method,
    typed_source,
    with_scales,
)
from sweep.shipping.folder import Parcel, leftover_note, reader_note, ship, told
from sweep.shipping.recompress import Recompressed, device_of, keeping
from sweep.trial import describe
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import load_dense

NOTHING = pl.DataFrame(
    schema={"kind": pl.String, "task": pl.String, "metric": pl.String, "value": pl.Float64, "stderr": pl.Float64}
    | {"n": pl.Int64}
)  # no metric was computed

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of click, which newer versions of typer bring along

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def compress(
    model: str | Mapping[str, Any],
    method: str | Mapping[str, Any] | Sequence[Any],
    data: str | os.PathLike[str] | Mapping[str, Any] | None,
    out: str | os.PathLike[str],
    *,
    nsamples: int = 128,
    seqlen: int | None = None,
    part: str = "both",
    length_weights: Sequence[int] | None = None,
    format: str | None = None,
    device: str | None = None,
) -> Written:
    """Compress a model with calibration text, and write it to the new folder `out`.

    model: a bundled name, folder, hub id, or an entry of a study. method: a name, an entry such as
    `{"method": "gptq", "bits": 4}`, or a list of those. data: a text or JSONL file (`./books` where a source has its
    name), the name of a source, an entry of a study, or None for a method without data. seqlen: tokens of a window, by
    default 2,048 or the model's context. part, length_weights: how often each token of the windows counts
    (`calib/weights.py`). format: by default the smallest that changes no weight: compressed-tensors for
    integer grids, bitsandbytes for NF4, spqr for SpQR, factored for low rank, else dense. Grids get scales in the
    model's type unless the method says otherwise, since only those can be stored without a change. Raises
    SettingsError, FormatError or CompressionError with the remedy.
    """
    target = Path(out)
    check_target(target)
    if format is not None:
        check_name(format)
    counted: dict[str, Any] = {"part": part}
    if length_weights is not None:
        counted["length_weights"] = [*length_weights]
    trial, study = _plan(model, method, data, nsamples, seqlen, counted)
    check_apart(target, trial.model.path)
    assert trial.method is not None  # `_plan` takes the one trial that has one
    parcel = Parcel(format or usual_format(trial.method))
    check_method(parcel.format, trial.method, trial.model.dtype)
    place = device_of(device)
    calibration = None
    if trial.spec is not None:
        calibration = build(trial.spec, load_tokenizer(trial.model), trial.model.tokenizer_id)
    dense = load_dense(trial.model, place)
    tokens = calibration.tokens.copy() if calibration else None
    weights = calibration.weights if calibration else None
    with keeping(trial.method, parcel.format, target) as kept:
        report = compress_model(dense.model, trial.method, tokens, witness=kept, token_weights=weights)
        made = Recompressed(dense, report, calibration, kept)
        return ship(made, _unmeasured(made, trial, study, place), target, parcel)


def _unmeasured(made: Recompressed, trial: Trial, study: Study, place: str) -> Chosen:
    """A trial that was compressed and not measured, with the row of one as far as there is something to say."""
    report, calibration = made.report, made.calibration
    row = {
        **describe(trial),
        **provenance(),
        "average_bits": report.average_bits,
        "achieved_sparsity": report.achieved_sparsity,
        "calibration_hash": calibration.hash if calibration else None,
        "calibration_documents": calibration.documents if calibration else None,
        "weights_hash": weights_hash(made.dense.model),
        "dtype": made.dense.dtype,
        "device": device_name(place),
    }
    return Chosen(trial, study, row, NOTHING, NOTHING)


def save_compressed(
    model: Any,
    method: Method,
    report: CompressionReport,
    out: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    format: str | None = None,
    kept: Kept | None = None,
) -> Written:
    """Write a model that `compress_model(model, method, ...)` compressed in place to the new folder `out`.

    format: by default the smallest that changes no weight; `dense` multiplies low-rank factors, in `model` as well.
    kept: the witness of a SpQR or NF4 compression, without which `spqr` and `bitsandbytes` cannot be written and the
    default is `dense`.
    Raises FormatError when the format cannot hold it without a change, SettingsError for a folder that is not empty.
    """
    kind = format or usual_format(method)
    if format is None and kept is None and kind in KEPT:
        kind = DENSE  # nobody kept the grids
    check_name(kind)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    check_method(kind, method, dtype)
    return write_model(model, tokenizer, Path(out), kind, grids_by_linear(model, method, report), kept=kept)


def _plan(
    model: Any, method: Any, data: Any, nsamples: int, seqlen: int | None, counted: Mapping[str, Any]
) -> tuple[Trial, Study]:
    """The one trial, from a study that says everything; the checks are those of a study."""
    model_entry = dict(model) if isinstance(model, Mapping) else {"model": str(model)}
    asked = parse_method(method, "methods[0]")
    if data is None and not asked.data_free:
        raise SettingsError(f"--data: {asked.label} needs calibration text; give a text or JSONL file, or a source")
    ref = resolve_model(model_entry, "models[0]")
    dtype = stored_dtype(ref)
    document: dict[str, Any] = {
        "study": "compressed",
        "models": [{**model_entry, "dtype": dtype}],
        "methods": [with_scales(method, asked, dtype)],
        "evaluation": {"heldout": HELDOUT, "heldout_windows": 8, "heldout_seqlen": min(128, context_length(ref))},
    }
    if not asked.data_free:
        length = seqlen or min(LONGEST, context_length(ref))
        document["calibration"] = {
            "source": source_entry(data),
            "sets": 1,
            "nsamples": nsamples,
            "seqlen": length,
            **counted,
        }
    study = parse_study(document)
    trial = next(trial for trial in expand(study) if trial.method is not None)
    if trial.spec is not None:
        preflight([trial.spec])
    check(study)  # the recipe, which says how it was made, must be one that runs
    return trial, study


@app.command()
def command(
    model: Annotated[str, typer.Argument(help="A bundled name, a folder, or a hub id.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    method: Annotated[str, typer.Option(help="gptq, rtn, awq, wanda, sparsegpt, ...")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="<str>", help="A setting of the method, such as bits=4.")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Short for --set bits=.")] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Turn the model by a Hadamard rotation before.")] = False,
    data: Annotated[
        str | None, typer.Option(help="A text or JSONL file, a source such as c4, or its entry in braces.")
    ] = None,
    nsamples: Annotated[int, typer.Option(help="Calibration windows.")] = 128,
    seqlen: Annotated[int | None, typer.Option(help="Tokens of a window [default: 2048, or the context].")] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(NAMES)} [default: the smallest that changes no weight]."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu [default: a GPU if there is one].")] = None,
) -> None:
    """Compress one model and write a folder for transformers and vLLM.

    Exit codes: 0 written, 2 it cannot be done as asked.
    """
    try:
        entry = typed_method(method, set_ or [], bits)
        steps = ["rotation", entry] if rotate else entry
        source = None if data is None else typed_source(data)
        written = compress(model, steps, source, out, nsamples=nsamples, seqlen=seqlen, format=format_, device=device)
    except (SettingsError, FormatError, CompressionError, OSError) as error:
        print(*(f"error: {line}" for line in error_lines(error)), sep="\n", file=sys.stderr)
        raise typer.Exit(2) from None
    used = not parse_method(steps, "--method").data_free
    print(f"{told(written)}; cd {shlex.quote(str(out))} && python -m sweep.launch ./recipe.yaml measures it")
    print(reader_note(written) + leftover_note(out) + data_note(data, used=used), end="", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(app(given, prog_name="python -m sweep.compress", standalone_mode=False) or 0)
    except UsageError as error:
        print(f"error: {one_line(error.format_message())}; --help lists all flags", file=sys.stderr)  # type: ignore[attr-defined]
        return 2


if __name__ == "__main__":
    sys.exit(main())

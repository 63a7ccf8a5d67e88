"""`python -m sweep.export TRIAL --results R --out DIR`: a measured trial as a checkpoint that loads elsewhere.

The trial is compressed again from what its results folder keeps; its weights must have the hash that was measured, and
are stored without a change. With `--tokenizer` the command is `python -m calib.export`, which writes a calibration set
to a file, and knows the models that ship by their name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from calib import export as calibration_sets
from calib.settings import SettingsError, error_lines, one_line
from methods.base import CompressionError
from sweep.formats.catalog import NAMES, check_method, check_name, usual_format
from sweep.formats.format import FormatError
from sweep.formats.writer import check_apart, check_target
from sweep.models import MODELS, bundled_models
from sweep.results import ResultsError
from sweep.runs.session import find_results, usable
from sweep.shipping.best import read_best
from sweep.shipping.choose import Wanted, choose
from sweep.shipping.folder import Parcel, leftover_note, method_of, reader_note, ship, told
from sweep.shipping.recompress import keeping, recompress

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of click, which newer versions of typer bring along

BARE_BEST = (
    "--best: give the file that python -m analysis.pick wrote, or - for its output; calibsweep export --best asks the "
    "analysis itself"
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def export(
    results: Annotated[str, typer.Option(help="Folder or s3:// gs:// URI of the results.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    trial: Annotated[str | None, typer.Argument(help="Id of the trial, or its beginning.")] = None,
    model: Annotated[str | None, typer.Option(help="Its model.")] = None,
    method: Annotated[str | None, typer.Option(help="Its method: a name (gptq) or a label ('GPTQ 3-bit g32').")] = None,
    source: Annotated[str | None, typer.Option(help="The source of its calibration set.")] = None,
    set_: Annotated[int | None, typer.Option("--set", help="The number of its calibration set.")] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(NAMES)} [default: the smallest that changes no weight]."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu [default: a GPU if there is one].")] = None,
    data: Annotated[bool, typer.Option(help="Put the calibration set into the folder.")] = True,
    why: Annotated[str | None, typer.Option(help="Why this trial: a text, quoted by the card.")] = None,
    best: Annotated[
        str | None,
        typer.Option(help="The trial of a recommendation: a file that analysis.pick wrote, or - for its output."),
    ] = None,
) -> None:
    """Write the compressed model of a trial as a folder for transformers and vLLM.

    Exit codes: 0 written, 2 it cannot be written as asked.
    """
    try:
        if format_ is not None:
            check_name(format_)
        check_target(out)
        if best is not None:
            answer = read_best(best)
            if trial is not None:
                raise SettingsError(f"--best {best}: names a trial already; leave {trial} out")
            trial, why = answer.trial, why or answer.why
        store = find_results(results)
        with usable(store):
            chosen = choose(store, Wanted(trial, model, method, source, set_))
        check_apart(out, results, chosen.trial.model.path)
        parcel = Parcel(format_ or usual_format(method_of(chosen)), data, why)
        check_method(parcel.format, method_of(chosen), chosen.row["dtype"])
        with keeping(method_of(chosen), parcel.format, out) as kept:
            written = ship(recompress(store, chosen, device, kept), chosen, out, parcel)
    except (SettingsError, ResultsError, FormatError, CompressionError, OSError) as error:
        print(*(f"error: {line}" for line in error_lines(error)), sep="\n", file=sys.stderr)
        raise typer.Exit(2) from None
    print(told(written))
    print(reader_note(written) + leftover_note(out), end="", file=sys.stderr)


def main(argv: Sequence[str] | None = None, prog: str = "python -m sweep.export") -> int:
    """Export a trial, or build a calibration set and write it. Returns the exit code: 2 when it cannot be done."""
    given = list(sys.argv[1:] if argv is None else argv)
    if any(flag.partition("=")[0] == "--tokenizer" for flag in given):
        return calibration_sets.main(given, {name: MODELS / name for name in bundled_models()})
    if any(flag == "--best" and after.startswith("--") for flag, after in zip(given, [*given[1:], "--"], strict=True)):
        print(f"error: {BARE_BEST}", file=sys.stderr)  # the parser would take the flag behind it for its file
        return 2
    try:
        return int(app(given, prog_name=prog, standalone_mode=False) or 0)
    except UsageError as error:
        print(f"error: {one_line(error.format_message())}; --help lists all flags", file=sys.stderr)  # type: ignore[attr-defined]
        return 2


if __name__ == "__main__":
    sys.exit(main())

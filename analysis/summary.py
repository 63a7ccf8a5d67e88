"""The main table in the terminal, and where the report lies: how a sweep ends.

python -m analysis.summary RESULTS
"""

from __future__ import annotations

from typing import Annotated

import polars as pl
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from analysis.answers import MATTERS_HELP, parse_matters
from analysis.cells import measures_of, summary_table
from analysis.evidence import Evidence
from analysis.findings import findings
from analysis.frames import load
from analysis.measures import MEASURES
from analysis.report import write_report
from calib.settings import SettingsError
from sweep.results import ResultsError


def show(evidence: Evidence, console: Console) -> None:
    """Print the tables of the headline measures, the findings and the limitations."""
    study = evidence.study
    for measure in measures_of(study) or ["accuracy"]:
        table = summary_table(study, measure)
        if not table.is_empty():
            console.print(_rich(table, measure))
    for finding in findings(evidence):
        console.print(f"• {finding.text}", highlight=False, markup=False)
    for note in (*study.limitations, *evidence.examples.limitations):
        console.print(f"! {note.subject}: {note.text}", highlight=False, markup=False, style="yellow")


def _rich(frame: pl.DataFrame, measure: str) -> RichTable:
    """One table, a block per model; columns that are empty for every row are left out."""
    info = MEASURES[measure]
    unit = f", {info.unit}" if info.unit else ""
    title = f"{info.title}{unit} (mean ± SD over calibration sets; {info.better})"
    table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown = [name for name in frame.columns if name in ("model", "method") or (frame[name] != "").any()]
    for name in shown:
        is_number = name in ("no data", "range", "SD of draws")
        # A narrow terminal breaks names, it cuts none.
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for (model,), part in frame.group_by("model", maintain_order=True):
        for index, row in enumerate(part.select(shown).rows()):
            table.add_row(str(model) if index == 0 else "", *row[1:])
        table.add_section()
    return table


def main(
    results: Annotated[str, typer.Argument(help="results folder or URI of a study")],
    report: Annotated[bool, typer.Option(help="write report.html and the figures as well")] = True,
    matters: Annotated[str, typer.Option(help=MATTERS_HELP)] = "",
) -> None:
    """Print the main table of a study and write its report."""
    console = Console()
    try:
        evidence = Evidence(load(results), parse_matters(matters))
        evidence.check_matters()
        show(evidence, console)
        if report:
            path, written = write_report(results, evidence=evidence)
            console.print(f"\nReport: {path}\nFigures: {written[0].parent if written else 'none'}", highlight=False)
    except (ResultsError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)

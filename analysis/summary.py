"""How a sweep ends in the terminal: the answer first, on one screen, and the command that comes next.

    python -m analysis.summary RESULTS [--all]

Per model and method it says which text to use, how sure that is, what a wrong choice costs and what would settle it.
`--all` prints the tables of the headline measures, the findings and every limitation as well. The hard case is a
terminal of 80 columns: names wrap there, and none is ever cut.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated

import polars as pl
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from analysis.answers import MATTERS_HELP, parse_matters
from analysis.cells import measures_of, summary_table
from analysis.estimates.equivalence import UNCLEAR
from analysis.evidence import Evidence
from analysis.findings import findings
from analysis.frames import load
from analysis.measures import MEASURES
from analysis.report import write_report
from analysis.verdicts import Verdict, heading, unit_of, verdicts, windows_sentence
from calib.settings import SettingsError
from sweep.results import ResultsError

SCREEN = 24  # lines of the smallest terminal that people use


def show_answer(evidence: Evidence, console: Console, root: str, report: str | None = None) -> None:
    """Print the answer on one screen: what to use, how sure, and the next command.

    `root` is where the study lies, `report` where its report was written. Pairs of model and method that have no room
    are counted.
    """
    study = evidence.study
    found = verdicts(evidence)
    first = f"Which calibration data? {study.name}: {_counted(evidence)}."
    if not found:
        none = "No answer yet: the study compares no two sources with the same measure."
        _print(console, [Text(first), Text(none), *_last(evidence, [], root, report)])
        return
    head = [Text(first, style="bold"), *map(Text, heading(evidence, found))]
    last = _last(evidence, found, root, report)
    room = SCREEN - 1 - sum(_height(console, line) for line in [*head, *last])
    shown = list(found)
    while len(shown) > 1 and _height(console, _box(shown)) + (len(shown) < len(found)) > room:
        shown = shown[:-1]
    _print(console, head)
    console.print(_box(shown))
    if (more := len(found) - len(shown)) > 0:
        pairs = "pair" if more == 1 else "pairs"
        console.print(f"... and {more} more {pairs} of model and method: --all", highlight=False)
    _print(console, last)


def _box(found: Sequence[Verdict]) -> RichTable:
    """A row per model and method, a block per model."""
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    unit = unit_of(found[0].measure).strip()
    costs = f"worst\ncosts, {unit}" if unit else "worst\ncosts"  # names of sources need the width
    for name in ("model, method", "calibrate on", "sure", costs, "to settle"):
        table.add_column(name, justify="right" if name == "sure" else "left", overflow="fold")
    model = None
    for verdict in found:
        if verdict.model != model:
            model = verdict.model
            table.add_row(Text(model, style="bold"))
        style = "yellow" if verdict.kind == UNCLEAR else "green"
        use = Text(verdict.use, style=style)
        method = Padding(Text(verdict.method, overflow="fold"), (0, 0, 0, 1))
        table.add_row(method, use, verdict.sure, verdict.cost, verdict.settle)
    return table


def _last(evidence: Evidence, found: Sequence[Verdict], root: str, report: str | None) -> list[Text]:
    """Windows, what the numbers do not cover, where the report lies and what to type next."""
    lines = [windows_sentence(found, evidence.study.condition)] if found else []
    notes = [*evidence.study.limitations, *evidence.examples.limitations]
    if notes:
        lines.append(f"! {len(notes)} limitation{'s' if len(notes) > 1 else ''}, the first: {notes[0].subject}; --all")
    if report:
        lines.append(f"Report: {report}")
    results = shlex.quote(root)
    commands = [f"recommend {results} --model {shlex.quote(found[0].model)}"] if found else []
    commands += [] if report else [f"report {results}"]
    if found:
        commands.append(f"export {_first_trial(evidence, found[0])} --results {results} --out model")
    commands = commands or [f"summary {results} --all"]
    typed = [f"{'Next: ' if command is commands[0] else '      '}calibsweep {command}" for command in commands]
    whole = [Text(line, no_wrap=True) for line in typed]  # the terminal wraps what is to be copied
    return [*map(Text, lines), *whole]


def _first_trial(evidence: Evidence, verdict: Verdict) -> str:
    """The trial of the source that the verdict names first, or of the first source: the first of its sets."""
    study = evidence.study
    source = (*verdict.named, *verdict.others)[0]
    rows = study.trials.filter(
        study.in_main(),
        pl.col("model") == verdict.model,
        pl.col("method_label") == verdict.method,
        pl.col("source") == source,
    )
    return str(rows.sort("set", "trial_id").item(0, "trial_id"))


def _counted(evidence: Evidence) -> str:
    trials, failed = evidence.study.trials.height, evidence.study.failed.height
    return f"{trials:,} trials" + (f", {failed:,} failed" if failed else "")


def _print(console: Console, lines: Sequence[Text]) -> None:
    for line in lines:
        whole = bool(line.no_wrap)
        console.print(line, highlight=False, overflow=None if whole else "fold", soft_wrap=whole)


def _height(console: Console, item: Text | RichTable) -> int:
    """Lines that it takes."""
    return len(console.render_lines(item, console.options, pad=False))


def show(evidence: Evidence, console: Console) -> None:
    """Print the tables of the headline measures, the findings and the limitations."""
    study = evidence.study
    found = verdicts(evidence)
    if found:
        console.print(_box(found))
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
    results: Annotated[str, typer.Argument(help="Results folder or URI of a study.")],
    report: Annotated[bool, typer.Option(help="Write report.html and the figures as well.")] = True,
    everything: Annotated[bool, typer.Option("--all", help="Print tables, findings and limitations as well.")] = False,
    matters: Annotated[str, typer.Option(help=MATTERS_HELP)] = "",
) -> None:
    """Say what a study found on one screen, and write its report."""
    console = Console()
    try:
        evidence = Evidence(load(results), parse_matters(matters))
        evidence.check_matters()
        if everything:
            show(evidence, console)
        show_answer(evidence, console, results, _written(evidence, results) if report else None)
    except (ResultsError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _written(evidence: Evidence, results: str) -> str | None:
    """The path of the report; None where it cannot be written, as in somebody else's folder, which is said."""
    try:
        return str(write_report(results, evidence=evidence)[0])
    except (SettingsError, OSError) as error:
        why = str(error).removeprefix("--output: ").partition(";")[0]
        command = f"calibsweep report {shlex.quote(results)} --output FILE"
        typer.echo(f"no report: {why}; `{command}` writes it elsewhere", err=True)
        return None


if __name__ == "__main__":
    typer.run(main)

"""The figures of a study for a paper: PDF, SVG and PNG of one or two columns, and Vega-Lite that can be changed.

    python -m analysis.paper RESULTS --out FOLDER [--only answer,domains] [--columns 1] [--no-title]

They are the figures of the report, drawn for print. A `.vl.json` holds a figure with its data: the Vega-Lite editor
opens it, and so does Altair (`altair.Chart.from_json`). A figure of the README is made by this command as well.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from analysis.answers import parse_matters
from analysis.evidence import Evidence
from analysis.frames import load
from analysis.page import vega
from analysis.page.chart import Chart, Spec
from analysis.page.html import Figure
from analysis.page.paper import COLUMN, paper
from analysis.report import build, slugs
from calib.settings import SettingsError, suggestion
from sweep.results import ResultsError

FORMATS = ("pdf", "svg", "png", "vl.json")


def charts(evidence: Evidence, results: str, only: Sequence[str] = ()) -> Iterator[tuple[str, Chart]]:
    """(name, chart) of every variant of every figure; of those alone whose name begins with one of `only`.

    Raises SettingsError for a beginning that no figure has.
    """
    found = [
        (f"{item.id.removeprefix('figure-')}-{slug}".rstrip("-"), chart)
        for section in build(evidence, results)
        for item in section.items
        if isinstance(item, Figure)
        for slug, (_, chart) in zip(slugs([label for label, _ in item.variants]), item.variants, strict=True)
    ]
    for wanted in only:
        if not any(name.startswith(wanted) for name, _ in found):
            known = sorted({name.partition("-")[0] for name, _ in found})
            raise SettingsError(f"--only: no figure '{wanted}'{suggestion(wanted, known)}")
    yield from ((name, chart) for name, chart in found if not only or name.startswith(tuple(only)))


def write(spec: Spec, path: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `path` in each format, from one drawing; gives the paths."""
    drawing = vega.svg(spec)
    contents = {
        "svg": drawing.encode,
        "png": lambda: vega.png(drawing, scale=4),  # 288 dots an inch
        "pdf": lambda: vega.pdf(drawing),
        "vl.json": json.dumps(spec, indent=1, ensure_ascii=False).encode,
    }
    written = []
    for kind in formats:
        target = Path(f"{path}.{kind}")
        target.write_bytes(contents[kind]())
        written.append(target)
    return written


def main(
    results: Annotated[str, typer.Argument(help="Results folder or URI of a study.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("figures"),
    only: Annotated[str, typer.Option(help="Figures whose names begin so, as answer,domains-reference-5m.")] = "",
    columns: Annotated[int, typer.Option(help="1: 3.5 inches wide; 2: 7.2 inches.")] = 1,
    title: Annotated[bool, typer.Option(help="Put title and subtitle into the figure.")] = True,
    formats: Annotated[str, typer.Option(help="What to write.")] = ",".join(FORMATS),
    matters: Annotated[str, typer.Option(help="Differences that matter, as accuracy=0.5,perplexity_increase=2.")] = "",
) -> None:
    """Draw the figures of a study for a paper."""
    try:
        if columns not in COLUMN:
            raise SettingsError(f"--columns: expected 1 or 2, got {columns}")
        kinds = [kind.strip() for kind in formats.split(",") if kind.strip()]
        for kind in kinds:
            if kind not in FORMATS:
                raise SettingsError(f"--formats: unknown format '{kind}'{suggestion(kind, FORMATS)}")
        wanted = [name.strip() for name in only.split(",") if name.strip()]
        evidence = Evidence(load(results), parse_matters(matters))
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise SettingsError(f"--out: cannot write to {out}; choose another folder")
        names = []
        for name, chart in charts(evidence, results, wanted):
            write(paper(chart, columns, title=title), out / name, kinds)
            names.append(name)
    except (ResultsError, SettingsError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(uncut(f"{len(names)} figures, each as {', '.join(kinds)}, in {out}: {', '.join(names)}"))


def uncut(line: str) -> str:
    """The line, in a terminal broken between names instead of inside them."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    typer.run(main)

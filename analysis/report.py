"""The report: one HTML file that a person likes to read, and every figure as PNG and SVG.

    python -m analysis.report RESULTS [--output report.html] [--figures FOLDER]

The answer comes first, with the one figure that shows it; then what was run and left out, the findings in words, then
figures, tables and provenance. Every table carries the query that gives it, so that any number can be traced to its
rows. The file fetches nothing.

A section is a file of `analysis/pages/`; `SECTIONS` is their order, and the one place to add another.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated
from unicodedata import combining, normalize

import typer

from analysis.answers import MATTERS_HELP, parse_matters
from analysis.evidence import Evidence
from analysis.frames import Study, load
from analysis.page.html import Figure, Section, page
from analysis.page.vega import Drawing
from analysis.pages import (
    adviser,
    answer,
    best,
    calibration,
    components,
    domains,
    failures,
    forgetting,
    headlines,
    layers,
    methods,
    origin,
    published,
    relations,
    reliability,
    run,
    sizes,
    sources,
    tasks,
)
from analysis.pages.appendix import appendix
from analysis.pages.common import SectionMaker
from calib.settings import SettingsError
from sweep.results import ResultsError

SECTIONS = (
    SectionMaker(adviser.section),
    SectionMaker(answer.section, reads_samples=True),
    SectionMaker(run.section),
    SectionMaker(headlines.section, reads_samples=True),
    SectionMaker(reliability.section, reads_samples=True),
    SectionMaker(domains.section, reads_samples=True),
    SectionMaker(sources.section),
    SectionMaker(tasks.section),
    SectionMaker(sizes.section),
    SectionMaker(calibration.section),
    SectionMaker(components.section, reads_samples=True),
    SectionMaker(best.section, reads_samples=True),
    SectionMaker(methods.section, reads_samples=True),
    SectionMaker(forgetting.section, reads_samples=True),
    SectionMaker(relations.section),
    SectionMaker(layers.section),
    SectionMaker(published.section, reads_samples=True),
    SectionMaker(failures.section),
    SectionMaker(origin.section),
)


def write_report(
    results: str,
    output: str | None = None,
    figures: str | None = None,
    *,
    save: bool = True,
    evidence: Evidence | None = None,
    refresh: int | None = None,
) -> tuple[Path, list[Path]]:
    """Write the page and, if `save`, the figures; gives the page's path and the figures' paths.

    Without `output` the page is `report.html` in a local results folder, or in the current folder for a URI; figures go
    to `figures/` beside it. `evidence` is of the study in `results`, where it is loaded already. `refresh`: seconds
    after which a browser loads the page again. Raises ResultsError when there is nothing to report.
    """
    evidence = evidence or Evidence(load(results))
    path = Path(output) if output else _default_output(results)
    _check_folder(path.parent)
    folder = Path(figures) if figures else path.parent / "figures"
    with Drawing() as drawing:  # figures are drawn beside the analysis, each as soon as its table is there
        sections = build(evidence, results, (lambda section: _draw(section, folder, drawing)) if save else None)
        lead = html.escape(_lead(evidence.study))
        text = page(f"Calibration sweep: {evidence.study.name}", lead, sections, refresh)
        part = path.with_name(f"{path.name}.part")  # a browser that loads it meanwhile sees the old page or the new one
        part.write_text(text, encoding="utf-8")
        part.replace(path)
        return path, drawing.wait()


def follow(
    results: str, output: str | None, matters: str, seconds: int, wait: Callable[[float], object] = time.sleep
) -> None:
    """Write the page again and again while the study grows, until interrupted; no figure is saved.

    The page that is left behind reloads no more. A study without a successful trial yet is waited for.
    """
    wanted = parse_matters(matters)
    try:
        while True:
            try:
                path, _ = write_report(
                    results, output, save=False, evidence=Evidence(load(results), wanted), refresh=seconds
                )
                typer.echo(f"{time.strftime('%H:%M:%S')} {path}")
            except ResultsError as error:
                typer.echo(f"{time.strftime('%H:%M:%S')} {error}", err=True)
            wait(seconds)
    except KeyboardInterrupt:
        write_report(results, output, save=False, evidence=Evidence(load(results), wanted))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SettingsError(f"--output: {folder} is no folder; create it first")
    if not os.access(folder, os.W_OK):
        raise SettingsError(f"--output: cannot write to {folder}; choose another folder")


def _default_output(results: str) -> Path:
    return Path("report.html") if "://" in results else Path(results) / "report.html"


def save_figures(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Every variant of every figure as PNG and SVG."""
    with Drawing() as drawing:
        for section in sections:
            _draw(section, folder, drawing)
        return drawing.wait()


def _draw(section: Section, folder: Path, drawing: Drawing) -> None:
    """Have the section's figures drawn."""
    for item in section.items:
        if isinstance(item, Figure):
            several = len(item.variants) > 1
            for slug, (_, chart) in zip(slugs([label for label, _ in item.variants]), item.variants, strict=True):
                name = item.id.removeprefix("figure-") + f"-{slug}" * several
                drawing.add(chart.spec, folder / name.rstrip("-"))


def slugs(labels: Sequence[str]) -> list[str]:
    """The labels as parts of files' names, no two alike: letters of any script stay, without accents."""
    found: list[str] = []
    for label in labels:
        letters = (c for c in normalize("NFKD", label.casefold()) if not combining(c))
        plain = "-".join("".join(c if c.isalnum() else " " for c in letters).split())
        candidates = (f"{plain}-{n}".strip("-") if n > 1 else plain for n in count(1))
        found.append(next(name for name in candidates if name not in found))
    return found


def build(evidence: Evidence, results: str, ready: Callable[[Section], object] | None = None) -> list[Section]:
    """The sections of the page, in reading order, those that have nothing to show left out.

    `ready` is called with each section as soon as it exists. Those that need single examples are made last, because
    samples/ take as long to read as everything else together.
    """
    made = {}
    for place, maker in sorted(enumerate(SECTIONS), key=lambda entry: entry[1].reads_samples):
        made[place] = maker.make(evidence)
        if ready:
            ready(made[place])
    body = [made[place] for place in sorted(made)]
    sections = [section for section in body if section.items or section.text or section.notes]
    return [*sections, appendix(sections, results)]


def _lead(study: Study) -> str:
    """One sentence: what was varied and what was measured."""
    sources, models = study.trials["source"].drop_nulls().n_unique(), study.trials["model"].n_unique()
    return (
        f"How much does calibration data matter? {study.trials.height:,} compressed or dense copies of "
        f"{models} model{'' if models == 1 else 's'}, calibrated on {sources} source{'' if sources == 1 else 's'} of "
        "text, evaluated alike."
    )


def main(
    results: Annotated[str, typer.Argument(help="Results folder or URI of a study.")],
    output: Annotated[str | None, typer.Option(help="HTML file; default: report.html in the results folder.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="Folder for PNG and SVG; default: figures/ beside the page.")
    ] = None,
    matters: Annotated[str, typer.Option(help=MATTERS_HELP)] = "",
    live: Annotated[
        int | None, typer.Option(min=1, help="Write it again every so many seconds while the study runs; it reloads.")
    ] = None,
) -> None:
    """Write the report of a study."""
    try:
        if live is not None:
            follow(results, output, matters, live)
            return
        if output:
            _check_folder(Path(output).parent)  # before anything is computed
        evidence = Evidence(load(results), parse_matters(matters))
        evidence.check_matters()
        path, written = write_report(results, output, figures, evidence=evidence)
    except (ResultsError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    size = path.stat().st_size / 2**20
    typer.echo(
        f"report: {path} ({size:.1f} MiB); {len(written)} figure files{f' in {written[0].parent}' if written else ''}"
    )


if __name__ == "__main__":
    typer.run(main)

"""Every table of a study by its name: as Markdown, LaTeX or CSV in the terminal, and as a frame in Python.

    python -m analysis.tables RESULTS source --measure accuracy --format markdown

A table is a function of what `load` found; `TABLE_FUNCTIONS` is the list of those that have a name here. The means and
spreads over sets (`analysis.cells`) can be imported from here as well.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from enum import Enum
from typing import Annotated

import polars as pl
import typer

from analysis.answers import answer_table
from analysis.budget import budget_table
from analysis.cells import (
    baseline_table,
    baselines,
    domain_table,
    layer_table,
    measures_of,
    over_sets,
    plus_minus,
    provenance,
    range_table,
    relation_table,
    size_table,
    source_table,
    summary_table,
    task_spread_table,
    task_table,
    trial_counts,
    wide_table,
    worth_table,
)
from analysis.chosen import choice_table
from analysis.claims import claim_table
from analysis.compare import domain_match, flip_table, mcnemar_table, method_pairs, source_pairs
from analysis.correlation import correlation_table
from analysis.described import descriptor_correlations, descriptor_table
from analysis.forgetting import byte_table, confidence_table, forgetting_table
from analysis.frames import Study, load
from analysis.measures import MEAN
from analysis.page.render import csv, latex, markdown
from analysis.published import anchor_table
from analysis.ranking import agreement_table, rank_table, sensitivity_table, trend_table
from analysis.reliability import reliability_table
from analysis.shared import overlap_table
from analysis.variance import component_table, repeat_table
from calib.settings import SettingsError, suggestion
from sweep.results import ResultsError

__all__ = [
    "TABLE_FUNCTIONS",
    "baseline_table",
    "baselines",
    "check_choice",
    "domain_table",
    "layer_table",
    "measures_of",
    "over_sets",
    "plus_minus",
    "provenance",
    "range_table",
    "relation_table",
    "size_table",
    "source_table",
    "summary_table",
    "table",
    "task_spread_table",
    "task_table",
    "trial_counts",
    "wide_table",
    "worth_table",
]

TABLE_FUNCTIONS: dict[str, Callable[..., pl.DataFrame]] = {
    "summary": summary_table,
    "source": source_table,
    "wide": wide_table,
    "answers": answer_table,
    "ranks": rank_table,
    "pairs": source_pairs,
    "methods": method_pairs,
    "ranges": range_table,
    "tasks": task_table,
    "task_spread": task_spread_table,
    "sizes": size_table,
    "domains": domain_table,
    "match": domain_match,
    "components": component_table,
    "repeats": repeat_table,
    "reliability": reliability_table,
    "budget": budget_table,
    "sensitivity": sensitivity_table,
    "trend": trend_table,
    "agreement": agreement_table,
    "flips": flip_table,
    "forgetting": forgetting_table,
    "confidence": confidence_table,
    "bytes": byte_table,
    "mcnemar": mcnemar_table,
    "baselines": baseline_table,
    "relation": relation_table,
    "correlations": correlation_table,
    "worth": worth_table,
    "layers": layer_table,
    "choices": choice_table,
    "descriptors": descriptor_table,
    "described": descriptor_correlations,
    "overlap": overlap_table,
    "anchors": anchor_table,
    "claims": claim_table,
}


class Format(str, Enum):
    """How a table is written."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"


def table(study: Study, name: str, measure: str | None = None, task: str = MEAN) -> pl.DataFrame:
    """A table by its name. Raises SettingsError when the table, measure or task does not exist.

    A table without a measure or a task of its own is what it is, whichever is asked for.
    """
    if name not in TABLE_FUNCTIONS:
        raise SettingsError(f"unknown table '{name}'{suggestion(name, TABLE_FUNCTIONS)}")
    known = inspect.signature(TABLE_FUNCTIONS[name]).parameters
    if "measure" not in known:
        return TABLE_FUNCTIONS[name](study)
    measure = measure or str(known["measure"].default)
    check_choice(study, measure, task)
    return TABLE_FUNCTIONS[name](study, measure, **({"task": task} if "task" in known else {}))


def check_choice(study: Study, measure: str, task: str = MEAN) -> None:
    """Raises SettingsError unless the study has values of this measure and task."""
    measures = set(study.values["measure"])
    if measure not in measures:
        raise SettingsError(f"measure: the study has no '{measure}'{suggestion(measure, measures)}")
    tasks = set(study.values.filter(pl.col("measure") == measure)["task"])
    if task not in tasks:
        raise SettingsError(f"task: no '{task}' with measure '{measure}'{suggestion(task, tasks)}")


def main(
    results: Annotated[str, typer.Argument(help="Results folder or URI of a study.")],
    name: Annotated[str, typer.Argument(help=" | ".join(TABLE_FUNCTIONS))],
    measure: Annotated[str | None, typer.Option(help="accuracy, perplexity_increase, js_divergence, ...")] = None,
    task: Annotated[str, typer.Option(help="A task, a held-out text, or 'mean'.")] = MEAN,
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.markdown,
) -> None:
    """Print one table of a study."""
    try:
        frame = table(load(results), name, measure, task)
    except (SettingsError, ResultsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    writer = {Format.markdown: markdown, Format.latex: latex, Format.csv: csv}[format]
    sys.stdout.write(writer(frame))


if __name__ == "__main__":
    typer.run(main)

"""Which source is best, how sure, and does that carry over."""

from __future__ import annotations

import polars as pl

from analysis.cells import measures_of
from analysis.charts.heatmaps import best_figure
from analysis.compare import source_pairs
from analysis.evidence import Evidence
from analysis.measures import MEASURES
from analysis.page.html import Figure, Section, Table, readable
from analysis.page.marks import span
from analysis.pages.common import each_model, folded_table
from analysis.ranking import agreement_table, rank_table


def section(evidence: Evidence) -> Section:
    items: list[Figure | Table] = []
    for measure in measures_of(evidence.study, evidence.answered):
        items += _figure(evidence, measure)
        items += _tables(evidence, measure)
    return Section("best", "Which source is best, and how sure is that?", items=items)


def _figure(evidence: Evidence, measure: str) -> list[Figure]:
    known = evidence.ranks(measure).drop_nulls("p_best")
    name = MEASURES[measure].title
    variants = [
        (model, best_figure(part, f"{name}, {model}", span(part["n"])))
        for model in each_model(evidence.study)
        if (part := known.filter(pl.col("model") == model)).height
    ]
    if not variants:
        return []
    caption = "Point at a cell for the expected regret: what choosing this source costs on average against the best."
    return [Figure(f"figure-best-{measure}", f"{name}: probability of being the best source", caption, variants)]


def _tables(evidence: Evidence, measure: str) -> list[Table]:
    study = evidence.study
    ranks = folded_table(
        evidence.ranks(measure),
        rank_table,
        measure,
        "rank",
        "probability of being best and expected regret",
        "Over draws, for these test examples.",
    )
    pairs = folded_table(
        source_pairs(study, measure, examples=evidence.examples),
        source_pairs,
        measure,
        "pairs",
        "every pair of sources",
        f"Positive: A is better ({MEASURES[measure].better}). Interval and p are for a pair chosen beforehand, Holm "
        "within a model and method; who wins a new draw is from the posterior of all sources.",
    )
    agreement = folded_table(
        agreement_table(study, measure),
        agreement_table,
        measure,
        "agreement",
        "do tasks and models agree on the order?",
        "Kendall's W: 1 is perfect agreement; p: sets, with all their values, change their sources.",
    )
    return [*_answers(evidence, measure), *ranks, *pairs, *agreement]


def _answers(evidence: Evidence, measure: str) -> list[Table]:
    """Use one, any will do, or cannot tell yet."""
    frame = evidence.answers(measure)
    if frame.is_empty():
        return []
    arguments = [f'"{measure}"']
    if (asked := evidence.asked(measure)) is not None:
        arguments.append(f"matters={asked!r}")
    query = f"from analysis.answers import answer_table\nanswer_table(study, {', '.join(arguments)})"
    caption = (
        "Probability: that all sources named are within `matters` of the best one (in the measure's unit; by default a "
        "tenth of the gap between dense and the data-free control). Settled by: further sets of each source after "
        "which an answer can be given with the stated chance."
    )
    title = f"{MEASURES[measure].title}: which source to use"
    return [Table(f"table-answers-{measure}", title, caption, frame, query, shown=readable(frame.drop("task")))]

"""The answer first: a box per model and method, and the one figure that shows it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby

import polars as pl

from analysis.charts.answers import answer_figure
from analysis.estimates.equivalence import ANY, UNCLEAR, USE
from analysis.evidence import Evidence
from analysis.measures import MEASURES
from analysis.page.html import Figure, Section
from analysis.page.render import number
from analysis.verdicts import Verdict, amount, duration, heading, unit_of, verdicts, windows_sentence

KINDS = {USE: "use", ANY: "any", UNCLEAR: "open"}


def section(evidence: Evidence) -> Section:
    found = verdicts(evidence)
    id, title = "answer", "Which calibration data?"
    if not found:
        return Section(id, title, ["No answer yet: the study compares no two sources with the same measure."])
    sentences = [html.escape(line) for line in heading(evidence, found)]
    table = f'<a href="#table-answers-{found[0].measure}">all numbers</a>'
    text = [" ".join(sentences), f"</p>{_boxes(found)}<p>"]
    text.append(f"{html.escape(windows_sentence(found, evidence.study.condition))} {_footnote(found)} {table}.")
    return Section(id, title, text, _figure(evidence, found))


def _boxes(found: Sequence[Verdict]) -> str:
    """A block per model, a box per method."""
    blocks = []
    for model, group in groupby(found, key=lambda verdict: verdict.model):
        boxes = "".join(_box(verdict) for verdict in group)
        blocks.append(f'<h3>{html.escape(model)}</h3><div class="answers">{boxes}</div>')
    return "".join(blocks)


def _box(verdict: Verdict) -> str:
    lines = []
    if verdict.probability is not None:
        within = amount(verdict.matters, verdict.measure)
        some = "it is" if len(verdict.named) == 1 else "all are"
        lines.append(f"<b>{verdict.sure}</b> sure that {some} within {within} of the best")
    elif verdict.note:
        lines.append(html.escape(verdict.note))
    if verdict.wrong is not None:
        source, cost = html.escape(verdict.wrong[0]), number(verdict.wrong[1], 2)
        lines.append(f"worst choice: {source}, costs {cost}{unit_of(verdict.measure)} on average")
    if verdict.windows is not None:
        lines.append(f"fewest windows that do as well as the largest size: {verdict.windows}")
    if verdict.kind == UNCLEAR:
        lines.append(f"to settle it: {_settling(verdict)}")
    told = "".join(f"<li>{line}</li>" for line in lines)
    return (
        f'<div class="answer {KINDS[verdict.kind]}"><span>{html.escape(verdict.method)}</span>'
        f"<strong>{html.escape(verdict.use)}</strong><ul>{told}</ul></div>"
    )


def _settling(verdict: Verdict) -> str:
    if verdict.more_sets is None:
        return html.escape(verdict.settle)
    sets = f"{verdict.more_sets} more set{'s' if verdict.more_sets > 1 else ''} of each source"
    time = "" if verdict.seconds is None else f", about {duration(verdict.seconds, verdict.on_gpu)} on one worker"
    return f"{sets}{time}"


def _footnote(found: Sequence[Verdict]) -> str:
    count = sum(verdict.kind == UNCLEAR for verdict in found)
    if not count:
        return "Every model and method has its answer;"
    return f"For {count} of {len(found)} it cannot be told yet;"


def _figure(evidence: Evidence, found: Sequence[Verdict]) -> list[Figure]:
    measure = found[0].measure
    known = evidence.ranks(measure).drop_nulls("regret")
    variants = []
    for model, group in groupby(found, key=lambda verdict: verdict.model):
        mine = list(group)
        part = known.filter(pl.col("model") == model)
        if part.height:
            matters = {verdict.method: verdict.matters for verdict in mine}
            named = {verdict.method: set(verdict.named) for verdict in mine}
            variants.append((model, answer_figure(part, measure, matters, named, model)))
    if not variants:
        return []
    caption = (
        "A source will do where its cost is likely to lie in the grey band. The cost is drawn from what the sets "
        "allow, for these test examples; the answer counts other test examples as well where it can."
    )
    return [Figure("figure-answer", f"{MEASURES[measure].title}: what a choice costs", caption, variants)]

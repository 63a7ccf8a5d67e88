"""What the adviser says, where the folder is of its making: the answer, the race, and what was looked at."""

from __future__ import annotations

import html

import polars as pl

from analysis.advice import Record, belief_table, draw_table, look_table, read_record
from analysis.charts.race import race_figure
from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import table

TITLE = "Which calibration text to use"


def section(evidence: Evidence) -> Section:
    try:
        record = read_record(evidence.study)
    except ValueError as error:
        return Section("adviser", TITLE, notes=[f"The adviser's record cannot be read: {html.escape(str(error))}."])
    if record is None:
        return Section("adviser", TITLE)
    return Section("adviser", TITLE, [_answer(record)], [*_race(evidence.study, record), *_tables(evidence.study)])


def _answer(record: Record) -> str:
    if not record.lines:
        rounds = len(record.content["rounds"])
        return f"The adviser is not done: {rounds} rounds so far. The same command goes on."
    return f"</p><pre>{html.escape(chr(10).join(record.lines))}</pre><p>"


def _race(study: Study, record: Record) -> list[Figure]:
    beliefs = belief_table(study)
    if beliefs.is_empty():
        return []
    draws = draw_table(study).filter(pl.col("fidelity") == "full").drop_nulls("loss")
    several = len(record.targets) > 1
    chart = race_figure(beliefs, draws.clear() if several else draws, record.subject, record.loss)
    caption = f"Judged on {html.escape(' and '.join(record.targets))}. Point at a mark for its numbers."
    return [Figure("figure-race", "The race", caption, [(record.subject, chart)])]


def _tables(study: Study) -> list[Table]:
    beliefs, draws, looks = belief_table(study), draw_table(study), look_table(study)
    found = []
    if beliefs.height:
        caption = "Mean loss over the dense model with its 80 % interval; minutes of one worker until then."
        found.append(table(beliefs, belief_table, id="beliefs", title="After each round", caption=caption, folded=True))
    if draws.height:
        caption = "Screens: first windows of the same sets and a short test, or first blocks; in units of their own."
        found.append(table(draws, draw_table, id="tried", title="Every draw", caption=caption, folded=True))
    if looks.height:
        caption = "Copied: documents of the target that stand in a candidate."
        found.append(table(looks, look_table, id="looks", title="The candidates", caption=caption, folded=True))
    return found

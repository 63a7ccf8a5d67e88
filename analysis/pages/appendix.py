"""The query of every table; the rows of a single trial are one filter away."""

from __future__ import annotations

import html
from collections.abc import Sequence

from analysis.page.html import Section, Table, query_block


def appendix(sections: Sequence[Section], results: str) -> Section:
    """The last section, about the tables of the others; `results` is where the study lies."""
    found = [item for section in sections for item in section.items if isinstance(item, Table)]
    start = f'import polars as pl\nfrom analysis.frames import load\nstudy = load("{results}")'
    rows = (
        'study.main.filter(pl.col("measure") == "accuracy", pl.col("task") == "mean", pl.col("source") == "books")'
        '.select("trial_id", "model", "method_label", "set", "value")'
    )
    explained = (
        "Every number above is a cell of a table, and every table is the value of the last line of its query. "
        f"All queries start with</p><pre>{html.escape(start)}</pre><p>and the trials behind a mean are its filter, "
        f"for example</p><pre>{html.escape(rows)}</pre><p>"
    )
    text = [explained, "".join(query_block(table) for table in found)]
    return Section("appendix", "Appendix: the queries", text)

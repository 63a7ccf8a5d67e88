"""Published numbers and claims beside this study."""

from __future__ import annotations

import html

import polars as pl

from analysis.claims import claim_table
from analysis.evidence import Evidence
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import table
from analysis.published import anchor_table, other_windows


def section(evidence: Evidence) -> Section:
    study = evidence.study
    items: list[Figure | Table] = []
    anchors = anchor_table(study)
    marks = (
        "[P]: the paper's own text or README. [S]: public notes on the paper. [U]: inferred, a qualitative target only."
    )
    if anchors.height:
        caption = "Only trials that match the published setting. Inside: in the published interval, or within 2 %."
        items.append(table(anchors, anchor_table, id="anchors", title="Published numbers", caption=caption))
    else:
        marks += " No trial of this study matches a published number, so claims alone are compared."
    claims = claim_table(study, evidence=evidence)
    words = {True: "agrees", False: "does not agree"}
    verdict = pl.col("agrees").replace_strict(words, default="cannot tell").alias("agrees")
    items.append(
        table(
            claims,
            claim_table,
            id="claims",
            title="Published claims",
            caption="What this study says about each.",
            shown=claims.with_columns(verdict),
        )
    )
    text = [marks, html.escape(other_windows(study))]
    return Section("published", "Beside the published studies", [part for part in text if part], items)

"""What failed, and why."""

from __future__ import annotations

from analysis.evidence import Evidence
from analysis.page.html import Section, Table


def section(evidence: Evidence) -> Section:
    id, title = "failures", "What failed"
    failed = evidence.study.failed
    if failed.is_empty():
        return Section(id, title)
    columns = ["model", "method_label", "source", "set", "phase", "attempts", "error", "trial_id"]
    query = f"study.failed.select({columns})"
    caption = "None of them is in any number."
    return Section(id, title, items=[Table("table-failures", "Failed trials", caption, failed.select(columns), query)])

"""Where the numbers come from."""

from __future__ import annotations

import html
from datetime import datetime, timezone

from analysis.cells import provenance
from analysis.evidence import Evidence
from analysis.page.html import Section
from analysis.pages.common import table


def section(evidence: Evidence) -> Section:
    study = evidence.study
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    text = [f"Written {now} from <code>{html.escape(study.results.root)}</code>."]
    caption = "Distinct values over the trials, and how many trials have each."
    values = table(provenance(study), provenance, id="provenance", title="Provenance", caption=caption)
    return Section("provenance", "Where the numbers come from", text, [values])

"""What was found, in sentences that link to their tables."""

from __future__ import annotations

import html

from analysis.evidence import Evidence
from analysis.findings import findings
from analysis.page.html import Section


def section(evidence: Evidence) -> Section:
    lines = "".join(
        f'<li>{html.escape(finding.text)} <a href="#{finding.table}">table</a></li>' for finding in findings(evidence)
    )
    return Section("findings", "What was found", [f'</p><ol class="findings">{lines}</ol><p>'])

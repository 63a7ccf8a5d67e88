"""The few figures of a trial that stand beside its name while a study runs."""

from __future__ import annotations

import math

from sweep.results import TrialRows


def headline(rows: TrialRows) -> str:
    """`acc 0.61 · ppl 23.4`: mean `acc` of groups (or accuracy of tasks), geometric mean perplexity."""
    parts = []
    for kind in ("group", "task"):
        found = [row for row in rows.metrics if row["kind"] == kind and row["metric"] == row.get("accuracy", "acc")]
        values = [row["value"] for row in found if row["value"] is not None]
        if values:
            parts.append(f"acc {sum(values) / len(values):.3f}")
            break
    logs = [row["value"] for row in rows.metrics if row["metric"] == "perplexity" and row["kind"] == "perplexity"]
    logs = [math.log(value) for value in logs if value and value > 0]
    if logs:
        parts.append(f"ppl {math.exp(sum(logs) / len(logs)):.2f}")
    return " · ".join(parts)

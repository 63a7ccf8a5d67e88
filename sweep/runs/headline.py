"""The few figures of a trial that stand beside its name while a study runs."""

from __future__ import annotations

import math

from sweep.results import TrialRows

KINDS = ("perplexity", "blocks")  # of rows that are means over held-out windows


def headline(rows: TrialRows) -> str:
    """`acc 0.61 · ppl 23.4`: mean `acc` of groups (or accuracy of tasks), geometric mean perplexity; or
    `block error 0.012`, likewise, of a trial of first blocks."""
    parts = []
    for kind in ("group", "task"):
        found = [row for row in rows.metrics if row["kind"] == kind and row["metric"] == row.get("accuracy", "acc")]
        values = [row["value"] for row in found if row["value"] is not None]
        if values:
            parts.append(f"acc {sum(values) / len(values):.3f}")
            break
    for metric, name, digits in (("perplexity", "ppl", ".2f"), ("block_error", "block error", ".3g")):
        values = [row["value"] for row in rows.metrics if row["metric"] == metric and row["kind"] in KINDS]
        logs = [math.log(value) for value in values if value and value > 0]
        if logs:
            parts.append(f"{name} {math.exp(sum(logs) / len(logs)):{digits}}")
    return " · ".join(parts)

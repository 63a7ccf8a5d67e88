"""A finding as a page: the answer as its title, one figure, one table, and where both come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analysis.page.chart import Chart

STUDIES = (
    "Three studies, 1,734 trials, none failed: SmolLM2-135M-Instruct (weights of a Q4_1 GGUF file), reference-5m and reference-17m (LLaMA shapes); "
    "GPTQ to 3 bits and SparseGPT 2:4 on all three, AWQ to 3 bits on the two reference models; eight sources of "
    "bundled English text (the domains that the reference models were trained on) and their uniform mixture; twelve disjoint calibration "
    "sets of each, of 8 and of 32 windows (512 tokens for SmolLM2, 256 for the others), the smaller set being the first "
    "windows of the larger. Judged on eight held-out texts of the same domains (8 windows each) and on 460 questions of "
    "23 bundled tasks. Two H200, 2026-11-28."
)


@dataclass(frozen=True)
class Page:
    """One finding. `name`: its file; `title`: the answer in a sentence; `answer`: what stands behind it, in Markdown."""

    name: str
    question: str
    title: str
    answer: str
    chart: Chart
    table: tuple[Sequence[str], Sequence[Sequence[str]]]
    published: str
    limits: str
    origin: str = ""  # the studies that it comes from and how they were run; empty: those of sources
    more: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=dict)

    def markdown(self) -> str:
        parts = [
            f"# {self.title}",
            f"*{self.question}*",
            self.answer,
            f"![{self.chart.title}](figures/{self.name}.svg)",
            _table(*self.table),
            *(f"## {heading}\n\n{_table(*rows)}" for heading, rows in self.more.items()),
            f"## What published work says\n\n{self.published}",
            f"## What this does not show\n\n{self.limits}",
            f"## Where it comes from\n\n{self.origin or SOURCES}\n\n```\npython -m benchmarks.findings {self.name}\n```",
        ]
        return "\n\n".join(parts) + "\n"


SOURCES = (
    f"{STUDIES}\n\nThe studies: `benchmarks/studies/sources_smollm2.yaml`, `sources_reference_5m.yaml`, "
    "`sources_reference_17m.yaml`. Their values, one row per trial and task with trial ids, lie in "
    "`benchmarks/findings/data/`. Intervals are of 95 %, over calibration sets, each source with a variance of its own; "
    "held-out windows and questions are these. The page is made anew by"
)


PROSE = 60  # characters of a cell from which on it is text, and stands on the left


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    longest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["---" if length >= PROSE else "---:" for length in longest]
    lines = [head, ["---", *sides[1:]], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

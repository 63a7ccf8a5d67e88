"""The figure of the README: what choosing a source costs SmolLM2-135M, from the data behind the findings.

    python -m benchmarks.front [FILE]

The values are those of `benchmarks/findings/data/sources_smollm2.parquet` (study file:
`benchmarks/studies/sources_smollm2.yaml`), so the figure needs neither a GPU nor the study's folder. It is the report's
figure of the answer. Where a data-free control has a method's size, what matters is a tenth of what that control loses,
else half an SD of one draw, as `analysis.answers` has it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

from analysis.charts.answers import answer_figure
from analysis.estimates.equivalence import UNCLEAR, answer
from analysis.estimates.ranks import posterior_of, rank
from analysis.measures import MEAN
from analysis.page import vega
from analysis.page.chart import Chart
from analysis.page.paper import paper
from benchmarks.findings.evidence import DATA, FULL

MEASURE = "loglikelihood_change"
CONTROLS = {"GPTQ 3-bit g64": "RTN 3-bit g64"}
SHARE, DRAW_SHARE = 0.1, 0.5  # of what the control loses; of the SD of a draw
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "answer-smollm2.png"


def chart() -> Chart:
    """The figure, over the sets of 32 windows."""
    rows = pl.read_parquet(DATA / "sources_smollm2.parquet").with_columns(pl.col("value").cast(pl.Float64))
    rows = rows.filter(pl.col("measure") == MEASURE, pl.col("task") == MEAN).sort("method_label", "source", "set")
    lost = {
        label: abs(value) for label, value in rows.filter(pl.col("source").is_null())[["method_label", "value"]].rows()
    }
    ranks: list[dict[str, object]] = []
    matters: dict[str, float] = {}
    named: dict[str, set[str]] = {}
    for (label,), part in rows.filter(pl.col("nsamples") == FULL).group_by("method_label", maintain_order=True):
        cells = {str(s): p["value"].to_numpy() for (s,), p in part.group_by("source", maintain_order=True)}
        method = str(label)
        draw = float(np.mean([values.var(ddof=1) for values in cells.values()])) ** 0.5
        matters[method] = SHARE * lost[CONTROLS[method]] if method in CONTROLS else DRAW_SHARE * draw
        known = posterior_of(cells, 0.0)
        if known is None:
            raise ValueError(f"{method}: no two sets of a source differ")
        said = answer(known, matters[method])
        named[method] = set() if said.kind == UNCLEAR else {sorted(cells)[index] for index in said.sources}
        for source, values in rank(cells).items():
            row = {
                "method_label": method,
                "source": source,
                "n": len(cells[source]),
                "mean": float(cells[source].mean()),
            }
            ranks.append({**row, "p_best": None, **values})
    return answer_figure(pl.DataFrame(ranks), MEASURE, matters, named, "SmolLM2-135M")


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURE
    target.write_bytes(vega.png(vega.svg(paper(chart(), 2)), scale=4))
    print(target)


if __name__ == "__main__":
    main()

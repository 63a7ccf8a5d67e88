"""Which calibration source is best for one model, and what would the others cost?

python examples/which_source.py results/reference
"""

from __future__ import annotations

import sys

import polars as pl

from analysis.frames import load
from analysis.ranking import rank_table
from analysis.tables import measures_of

study = load(sys.argv[1])
for note in study.limitations:
    print(f"! {note.text}")

for measure in measures_of(study, ("accuracy", "perplexity_increase")):
    ranking = rank_table(study, measure)
    best = ranking.group_by("model", "method_label", maintain_order=True).first()
    print(f"\n{measure}: the likeliest best source")
    with pl.Config(tbl_rows=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=2):
        print(best.select("model", "method_label", "source", "p_best", "regret"))

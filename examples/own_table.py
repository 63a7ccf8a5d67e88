"""A table of one's own: how often does one calibration set reverse which of two methods is better?

python examples/own_table.py results/reference > methods.md
"""

from __future__ import annotations

import sys

import polars as pl

from analysis.compare import method_pairs
from analysis.frames import load
from analysis.page.render import markdown

study = load(sys.argv[1])
measure = "accuracy" if "accuracy" in set(study.calibrated["measure"]) else "perplexity_increase"
pairs = method_pairs(study, measure).with_columns(
    pl.when(pl.col("difference") > 0).then("a").otherwise("b").alias("better"),
    pl.when(pl.col("difference") > 0).then("b").otherwise("a").alias("worse"),
    pl.col("difference").abs().alias("advantage"),
    (100 * pl.col("reversed")).alias("reversed, % of sets"),
)
print(markdown(pairs.select("model", "better", "worse", "advantage", "p_holm", "pairs", "reversed, % of sets")))

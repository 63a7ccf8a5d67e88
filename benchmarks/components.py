"""What `--dry-run` knows of spreads and seconds before a study has run: makes sweep/runs/components.json.

    python -m benchmarks.components RESULTS [--output sweep/runs/components.json]

RESULTS are those of the default study (`python -m sweep.launch sweep/studies/reference.yaml`). The SDs of one example's
luck and of one draw, and the seconds of a trial and of an example, are those of `analysis.budget` for the
log-likelihood of the right answer; a model and method whose sets do not differ beyond the luck of the examples is left
out. `sweep.runs.budget` reads the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from analysis.budget import budget_table
from analysis.frames import Study, load

MEASURE = "loglikelihood"
DIGITS = 4


def shipped(study: Study) -> dict[str, object]:
    """The file's contents. Raises ValueError for a study that tells nothing of sets, or with sets of several sizes."""
    calibrated = study.trials.filter(study.in_main(), pl.col("source").is_not_null())
    tokens = calibrated.select(pl.col("nsamples") * pl.col("seqlen")).to_series().unique().to_list()
    methods = dict(calibrated.select("method_label", "method").unique().iter_rows())
    table = budget_table(study, MEASURE).filter(pl.col("set_sd") > 0)
    if table.is_empty() or len(tokens) != 1:
        raise ValueError(f"{study.name} has {table.height} pairs of model and method with a spread, {tokens} tokens")
    columns = ("noise_sd", "set_sd", "seconds_without_test", "seconds_per_example")
    rows = [
        {"method": methods[row["method_label"]], "label": row["method_label"], "model": row["model"]}
        | {name: float(f"{row[name]:.{DIGITS}g}") for name in columns}
        for row in table.iter_rows(named=True)
    ]
    about = {"made_by": "python -m benchmarks.components", "study": study.name, "measure": MEASURE}
    return {**about, "calibration_tokens": tokens[0], "components": rows}


def main(
    results: Annotated[str, typer.Argument(help="results folder of the default study")],
    output: Annotated[Path, typer.Option(help="JSON file to write")] = Path("sweep/runs/components.json"),
) -> None:
    """Write the components that ship."""
    output.write_text(json.dumps(shipped(load(results)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    typer.run(main)

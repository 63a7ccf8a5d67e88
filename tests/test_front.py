"""The README's figure is made of the data behind the findings."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest

from benchmarks import front
from benchmarks.findings.evidence import DATA

LOGLIKELIHOOD = pl.read_parquet(DATA / "sources_smollm2.parquet").filter(measure=front.MEASURE, task="mean")
FULL = LOGLIKELIHOOD.filter(nsamples=32)


def panels() -> dict[str, list[dict[str, object]]]:
    """Panel title -> rows of the data that it draws."""
    found = {}
    for panel in front.chart().spec["vconcat"]:
        values = [part["data"]["values"] for part in [panel, *panel["layer"]] if "data" in part]
        rows = next(rows for rows in values if rows and "regret" in rows[0])
        title = panel["title"]
        found[title if isinstance(title, str) else title["text"]] = rows
    return found


def test_figure_draws_every_source_of_both_methods() -> None:
    drawn = panels()
    assert list(drawn) == FULL.drop_nulls("source")["method_label"].unique().sort().to_list()
    for method, rows in drawn.items():
        means = FULL.filter(method_label=method).group_by("source").agg(pl.col("value").mean())
        assert {str(row["source"]): row["mean"] for row in rows} == pytest.approx(dict(means.iter_rows()), abs=1e-4)
        assert {row["n"] for row in rows} == {12}


def test_sources_that_the_answer_names_cost_less_than_what_matters() -> None:
    lost = LOGLIKELIHOOD.filter(method_label="RTN 3-bit g64").item(0, "value")
    rows = sorted(panels()["GPTQ 3-bit g64"], key=lambda row: float(str(row["regret"])))
    named = [row for row in rows if row["named"]]
    assert named == rows[: len(named)] and named
    assert all(float(str(row["regret"])) < abs(lost) / 10 for row in named)


def test_figure_is_written_where_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["front", str(tmp_path / "figure.png")])
    front.main()
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

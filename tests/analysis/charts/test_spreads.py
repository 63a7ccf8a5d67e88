"""Dense and the data-free control are lines of a panel, never rows that squeeze the sources."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from analysis.charts.components import component_figure
from analysis.charts.sensitivity import sensitivity_figure
from analysis.charts.spreads import spread_figure
from analysis.tables import over_sets


def values(centres: dict[str, float]) -> pl.DataFrame:
    rows = [
        {"method_label": label, "row": row, "set": number, "value": centre + shift + number}
        for label, centre in centres.items()
        for row, shift in (("books", 0.0), ("code", 3.0))
        for number in range(3)
    ]
    return pl.DataFrame(rows)


def references(*rows: tuple[str, str, float]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), {"method_label": pl.String, "name": pl.String, "value": pl.Float64}, orient="row")


def drawn(centres: dict[str, float], lines: pl.DataFrame | None = None) -> dict[str, Any]:
    frame = values(centres)
    chart = spread_figure(frame, over_sets(frame, ["method_label", "row"]), "accuracy", "a model", lines)
    return json.loads(json.dumps(chart.spec))


def rules(panel: dict[str, Any]) -> list[str]:
    """The names of the references that are drawn."""
    return [layer["data"]["values"][0]["name"] for layer in panel["layer"] if "name" in str(layer.get("data", ""))]


def test_references_are_lines_where_they_are_near_and_words_everywhere() -> None:
    lines = references(("GPTQ", "dense", 66.0), ("GPTQ", "RTN", 20.0))
    (panel,) = drawn({"GPTQ": 60.0}, lines)["vconcat"]
    assert rules(panel) == ["dense"]
    assert panel["title"]["text"] == "GPTQ, dense 66.00, RTN 20.00"
    assert panel["layer"][0]["mark"].get("strokeDash") is None
    near = references(("GPTQ", "RTN", 59.0))
    assert drawn({"GPTQ": 60.0}, near)["vconcat"][0]["layer"][0]["mark"]["strokeDash"]


def test_panels_share_an_axis_where_each_still_fills_it() -> None:
    alike, unlike = drawn({"GPTQ": 60.0, "Wanda": 61.0}), drawn({"GPTQ": 60.0, "Wanda": 500.0})
    assert alike["resolve"]["scale"]["x"] == "shared"
    assert "share one axis" in " ".join(alike["title"]["subtitle"])
    assert "resolve" not in unlike
    assert "resolve" not in drawn({"GPTQ": 60.0})


def test_error_bars_of_methods_stand_beside_each_other() -> None:
    rows = [
        {"method_label": label, "model": "m", "parameters": 1000, "sd_within": 1.0, "low": 0.5, "high": 2.0, "n": 3}
        for label in ("GPTQ", "SparseGPT", "Wanda")
    ]
    data = sensitivity_figure(pl.DataFrame(rows), "title", "points").spec["data"]["values"]
    places = [row["drawn"] for row in data]
    assert len(set(places)) == 3
    assert places[1] == pytest.approx(1000)
    assert max(places) / min(places) < 1.1


def components(labels: dict[str, int]) -> pl.DataFrame:
    rows = [
        {
            "method_label": label,
            "component": name,
            "sd": 0.0 if levels == 1 and name != "test examples" else 1.0,
            "low": None,
            "high": None,
            "levels": 100 if name == "test examples" else levels,
        }
        for label, levels in labels.items()
        for name in ("source", "set within source", "test examples")
    ]
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64})


def test_methods_without_data_are_a_line_of_the_subtitle_not_a_panel() -> None:
    chart = component_figure(components({"GPTQ": 8, "RTN": 1}), "a model", "points")
    assert [panel["title"]["text"] for panel in chart.body["vconcat"]] == ["GPTQ"]
    assert "exactly zero: RTN" in chart.subtitle
    alone = component_figure(components({"RTN": 1}), "a model", "points")
    assert [panel["title"]["text"] for panel in alone.body["vconcat"]] == ["RTN"]

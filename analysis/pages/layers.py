"""Where in the model the error arises."""

from __future__ import annotations

import polars as pl

from analysis.cells import layer_table
from analysis.charts.curves import layer_figure
from analysis.evidence import Evidence
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import each_model, table


def section(evidence: Evidence) -> Section:
    id, title = "layers", "Where in the model does the error arise?"
    layers = layer_table(evidence.study)
    if layers.is_empty():
        return Section(id, title)
    variants = [
        (model, layer_figure(part, model))
        for model in each_model(evidence.study)
        if (part := layers.filter(pl.col("model") == model)).height
    ]
    caption = "‖(W−Ŵ)X‖² / ‖WX‖² on the calibration inputs; data-free methods: on the weights alone."
    heading = "Layer error by block"
    items: list[Figure | Table] = [
        Figure("figure-layers", "Layer error profile", caption, variants),
        table(layers, layer_table, id=id, title=heading, caption="Mean and SD over trials.", folded=True),
    ]
    return Section(id, title, items=items)

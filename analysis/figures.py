"""Figures, each a function of a frame from `analysis.cells` or its neighbours; each states n and shows the spread.

A figure is a `Chart`, which draws itself in a notebook; `save` writes it as PNG and SVG. A family of figures is a file
of `analysis/charts/`, the style stands in `analysis/page/chart.py`; this is where people look for them.
"""

from analysis.charts.answers import answer_figure
from analysis.charts.components import component_figure
from analysis.charts.curves import layer_figure, size_figure
from analysis.charts.heatmaps import best_figure, domain_figure
from analysis.charts.relations import relation_figure
from analysis.charts.reliability import reliability_figure
from analysis.charts.sensitivity import sensitivity_figure
from analysis.charts.spreads import spread_figure, task_spread_figure
from analysis.page.chart import Chart, save

__all__ = [
    "Chart",
    "answer_figure",
    "best_figure",
    "component_figure",
    "domain_figure",
    "layer_figure",
    "relation_figure",
    "reliability_figure",
    "save",
    "sensitivity_figure",
    "size_figure",
    "spread_figure",
    "task_spread_figure",
]

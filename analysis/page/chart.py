"""A chart: a Vega-Lite specification with its title apart, in the one style that all figures share.

A `Chart` draws itself in a notebook and is saved as PNG and SVG through vl-convert, without a browser. The style: the
Okabe-Ito colours, which people with any colour vision can tell apart, shapes beside colours where categories meet, no
decoration. The title tells what is drawn and the subtitle what a mark stands for, so that a figure can travel without
its page.

Words of this room: a *page* is the one HTML file, a *section* a heading of it with what stands below, a *variant* of a
figure one of the charts that the reader chooses from, a *spec* a Vega-Lite specification as a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.page import vega

OKABE_ITO = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C8C8C", "#B8A800"]
WORSE_TO_BETTER = ["#B34700", "#E8995C", "#F6E3D3", "#F4F4F2", "#D3E4F0", "#6FAFD8", "#00568A"]
LIGHT_TO_DARK = ["#F4F4F2", "#D3E4F0", "#9CC7E3", "#4E97C6", "#00568A"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
INK, GREY = "#222222", "#767676"
BLUE, ORANGE = OKABE_ITO[0], OKABE_ITO[1]
WIDTH = 560  # px of the plot itself: with its labels the width of a text column
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name; nothing is fetched

Spec = dict[str, Any]

CONFIG: Spec = {
    "background": "#ffffff",
    "padding": 12,
    "font": "Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "fontSize": 15,
        "fontWeight": 600,
        "subtitleFontSize": 12,
        "subtitleColor": GREY,
        "offset": 14,
        "subtitlePadding": 5,
        "color": INK,
    },
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": "#e6e6e6",
        "domainColor": "#b5b5b5",
        "tickColor": "#b5b5b5",
        "labelLimit": 380,  # the longest name of a bundled task
        "titlePadding": 8,
    },
    "header": {
        "labelFontSize": 12,
        "labelFontWeight": 600,
        "labelAnchor": "start",
        "labelColor": INK,
        "title": None,
        "labelPadding": 4,
    },
    "legend": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "labelLimit": 260,
        "symbolSize": 80,
        "labelColor": INK,
        "titleColor": INK,
    },
    "range": {"category": OKABE_ITO, "symbol": SHAPES},
}
ROWS_AXIS: Spec = {"grid": True, "domain": False, "ticks": False}
BELOW: Spec = {"title": None, "orient": "bottom", "columns": 3}


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification with its title apart, so that a page can set the title in its own type."""

    title: str
    subtitle: str
    body: Mapping[str, Any]

    @property
    def spec(self) -> Spec:
        """The whole specification: title, style, data."""
        return {
            "$schema": SCHEMA,
            "config": CONFIG,
            "title": {"text": self.title, "subtitle": wrap(self.subtitle)},
            **self.body,
        }

    def svg(self) -> str:
        return vega.svg(self.spec)

    def _repr_svg_(self) -> str:
        return self.svg()


def save(chart: Chart, path: Path) -> list[Path]:
    """Write `path` as .png (two pixels per point) and .svg; gives the two paths."""
    return vega.write(chart.spec, path)


def wrap(text: str, width: int = 96) -> list[str]:
    """Lines of at most `width` characters: Vega does not break them itself."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines

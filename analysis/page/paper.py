"""A chart for print: as wide as one or two columns of a paper, its type in points, its title where a caption is wanted.

A chart on a page says how wide its plot is; a paper says how wide the whole figure may be, labels and legend included.
How much the labels take is known only when it is drawn, so the chart is drawn at two widths of its plots, and the width
that fits is solved for. A point of the figure is a point of the page, so it is included without scaling.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

from analysis.page import vega
from analysis.page.chart import CONFIG, SCHEMA, Chart, Spec, wrap

COLUMN = {1: 252, 2: 516}  # points: the columns of two-column conferences (3.5 in), and the width of their text
AXIS_TITLE = {1: 40, 2: 90}  # letters of a line
LEAST = 6  # points of a plot or a cell
DRAWINGS = 8  # at most: labels that turn or break make the width no straight line
TYPE: Spec = {
    "axis": {"labelFontSize": 7, "titleFontSize": 7.5, "labelLimit": 120, "titlePadding": 4, "tickSize": 3},
    "legend": {
        "labelFontSize": 7,
        "titleFontSize": 7.5,
        "symbolSize": 30,
        "labelLimit": 110,
        "gradientLength": 70,
        "gradientThickness": 8,
    },
    "header": {"labelFontSize": 7.5, "labelPadding": 2},
    "title": {"fontSize": 9, "subtitleFontSize": 7, "offset": 6, "subtitlePadding": 3},
    "text": {"fontSize": 6.5},
}


def paper(chart: Chart, columns: int = 1, *, title: bool = True) -> Spec:
    """The specification of a figure that is `columns` wide (1 or 2), with its title or without."""
    wanted = COLUMN[columns]
    config = {
        key: {**value, **TYPE.get(key, {})} if isinstance(value, dict) else value for key, value in CONFIG.items()
    }
    config |= {"padding": 2, "text": TYPE["text"]}
    spec: Spec = {"$schema": SCHEMA, "config": config, **copy.deepcopy(dict(chart.body))}
    spec.pop("usermeta", None)
    for part in _parts(spec):
        _print(part, columns)
    if title:
        lines = wrap(chart.subtitle, wanted * 10 // 40)
        spec["title"] = {"text": wrap(chart.title, wanted * 10 // 52), "subtitle": lines}
    return _fitted(spec, wanted)


def _print(part: Spec, columns: int) -> None:
    """The sizes of marks and panel titles, which stand in the parts themselves."""
    if isinstance(part.get("mark"), dict):
        mark = part["mark"]
        for key, scale in (("size", 0.35), ("strokeWidth", 0.6), ("fontSize", 0.55)):
            if key in mark:
                mark[key] = round(mark[key] * scale, 2)
    if isinstance(part.get("title"), dict) and "fontSize" in part["title"]:
        part["title"] |= {"fontSize": 7.5, "offset": 3}
    if isinstance(part.get("height"), dict):
        part["height"] = {"step": round(part["height"]["step"] * 0.5, 1)}
    elif isinstance(part.get("height"), int | float):
        part["height"] = round(part["height"] * 0.5)
    for channel in ("color", "shape", "opacity"):
        legend = part.get("encoding", {}).get(channel, {}).get("legend")
        if isinstance(legend, dict):
            names = part["encoding"][channel].get("scale", {}).get("domain", [])
            longest = max((len(str(name)) for name in names), default=0)
            beside = max(1, COLUMN[columns] // (4 * longest + 24))  # about four points a letter, and the mark
            legend.pop("gradientLength", None)
            if columns == 1:
                legend["orient"] = "bottom"  # beside the plot it would take a third of the column
            if legend.get("orient") == "bottom" and names:
                legend["columns"] = beside
            if columns == 1 and part["encoding"][channel].get("type") == "quantitative":
                legend["direction"] = "horizontal"
                legend["title"] = " ".join(_lines(part["encoding"][channel].get("title")))
    for channel in ("x", "y"):
        if title := part.get("encoding", {}).get(channel, {}).get("title"):
            part["encoding"][channel]["title"] = wrap(" ".join(_lines(title)), AXIS_TITLE[columns])


def _lines(title: str | Sequence[str] | None) -> list[str]:
    return [title] if isinstance(title, str) else list(title or [])


def _parts(spec: Any) -> Iterator[Spec]:
    """The specification and all that it is composed of."""
    yield spec
    for key in ("layer", "vconcat", "hconcat"):
        for part in spec.get(key, []):
            yield from _parts(part)
    if "spec" in spec:
        yield from _parts(spec["spec"])


def _fitted(spec: Spec, wanted: float) -> Spec:
    """The specification with plots (or cells, where a plot is a grid of cells) so wide that all of it is `wanted`."""
    plots = [part for part in _parts(spec) if "width" in part]
    if not plots:
        return spec
    if isinstance(plots[0]["width"], dict):
        first, second = 20.0, 40.0
    else:
        first, second = 0.5 * wanted, 0.7 * wanted
    sizes = [first, second]
    widths = [_width(_with(spec, size)) for size in sizes]
    while abs(widths[-1] - wanted) > 0.5 and len(sizes) < DRAWINGS:
        if widths[-1] == widths[-2]:  # a legend or an axis title is wider than the plots
            sizes.append(max(LEAST, sizes[-1] * (1.6 if widths[-1] < wanted else 0.6)))
        else:
            slope = (sizes[-1] - sizes[-2]) / (widths[-1] - widths[-2])
            sizes.append(max(LEAST, sizes[-1] + (wanted - widths[-1]) * slope))
        widths.append(_width(_with(spec, sizes[-1])))
    return _with(spec, min(zip(widths, sizes, strict=True), key=lambda pair: abs(pair[0] - wanted))[1])


def _with(spec: Spec, size: float) -> Spec:
    """The specification with plots, or cells, of this width."""
    sized = copy.deepcopy(spec)
    for part in _parts(sized):
        if "width" in part:
            part["width"] = {"step": round(size, 2)} if isinstance(part["width"], dict) else round(size, 2)
    return sized


def _width(spec: Spec) -> float:
    """How wide it is when it is drawn, in points."""
    found = re.search(r'width="([\d.]+)"', vega.svg(spec))
    assert found is not None
    return float(found.group(1))

"""One self-contained HTML page: figures that answer to the pointer, tables to download, nothing fetched from anywhere.

The page carries the Vega bundle, the specifications of its charts and its tables as data. It follows the reader's light
or dark preference, redraws when the window changes, and counts what it drew: `document.documentElement.dataset` holds
`charts` (drawn) and `errors`, which is what the browser test reads. The hard case is a phone: a chart is drawn at the
width it has there, and what cannot shrink further scrolls inside its own frame, never the page.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from analysis.page import render, vega
from analysis.page.chart import Chart


@dataclass(frozen=True)
class Figure:
    """A figure in one or several variants (`(label, chart)`, one a model for example), chosen by the reader."""

    id: str
    title: str
    caption: str
    variants: Sequence[tuple[str, Chart]]


@dataclass(frozen=True)
class Table:
    """A table and the query that gives it. `shown` is what a person reads (all of `frame` when None)."""

    id: str
    title: str
    caption: str
    frame: pl.DataFrame
    query: str
    shown: pl.DataFrame | None = None
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and what stands below them in order."""

    id: str
    title: str
    text: Sequence[str] = ()
    items: Sequence[Figure | Table] = ()
    notes: Sequence[str] = field(default=())


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    figures = [item for section in sections for item in section.items if isinstance(item, Figure)]
    specs = {figure.id: [_web_spec(chart) for _, chart in figure.variants] for figure in figures}
    links = "".join(f'<a href="#{s.id}">{html.escape(s.title)}</a>' for s in sections)
    body = "".join(_section(section) for section in sections)
    data = json.dumps(specs, separators=(",", ":")).replace("</", "<\\/")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><p class="lead">{lead}</p></header>
<nav aria-label="Sections">{links}</nav>
<main>{body}</main>
<script>{_bundle()}</script>
<script id="specs" type="application/json">{data}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    """The page's own style or script, a file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed, safe inside a script element."""
    return vega.bundle().replace("</script", "<\\/script")


def _web_spec(chart: Chart) -> dict[str, Any]:
    """The chart without its title, which the page sets in its own type."""
    spec = {key: value for key, value in chart.spec.items() if key != "title"}
    spec["config"] = {key: value for key, value in spec["config"].items() if key != "background"}
    return spec


def _section(section: Section) -> str:
    text = "".join(f"<p>{paragraph}</p>" for paragraph in section.text)
    notes = "".join(f"<li>{note}</li>" for note in section.notes)
    notes = f'<ul class="notes">{notes}</ul>' if notes else ""
    items = "".join(_figure(item) if isinstance(item, Figure) else _table(item) for item in section.items)
    return f'<section id="{section.id}"><h2>{html.escape(section.title)}</h2>{text}{notes}{items}</section>'


def _figure(figure: Figure) -> str:
    labels = [label for label, _ in figure.variants]
    subtitles = json.dumps([chart.subtitle for _, chart in figure.variants])
    options = "".join(f'<option value="{i}">{html.escape(label)}</option>' for i, label in enumerate(labels))
    choice = (
        f'<label class="choice">Show <select data-figure="{figure.id}">{options}</select></label>'
        if len(labels) > 1
        else f'<span class="choice">{html.escape(labels[0])}</span>'
    )
    title = html.escape(figure.title)
    return (
        f'<figure id="{figure.id}" data-subtitles="{html.escape(subtitles)}"><h3>{title}</h3>{choice}'
        f'<p class="subtitle"></p><div class="chart scroll" role="img" aria-label="{title}"><div></div></div>'
        f"<figcaption>{figure.caption}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    shown = readable(table.frame) if table.shown is None else table.shown
    name = table.id.removeprefix("table-")
    downloads = " ".join(
        _download(f"{name}.{suffix}", kind, text)
        for suffix, kind, text in (
            ("csv", "text/csv", render.csv(table.frame)),
            ("md", "text/markdown", render.markdown(shown)),
            ("tex", "application/x-tex", render.latex(shown)),
        )
    )
    inner = (
        f'<p class="caption">{table.caption} <span class="downloads">{table.frame.height:,} rows: {downloads} · '
        f'<a href="#query-{name}">query</a></span></p>{render.html(shown, limit=200)}'
    )
    title = html.escape(table.title)
    if table.folded:
        return f'<details class="table" id="{table.id}"><summary>{title}</summary>{inner}</details>'
    return f'<div class="table" id="{table.id}"><h3>{title}</h3>{inner}</div>'


def readable(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns a person needs: `method_label` says what `method` and `parameters` say again."""
    if "method_label" not in frame.columns:
        return frame
    return frame.drop("method", "parameters", strict=False).rename({"method_label": "method"})


def _download(name: str, kind: str, text: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="{name}" href="data:{kind};base64,{data}">{name.rpartition(".")[2].upper()}</a>'


def query_block(table: Table) -> str:
    """The query of a table, for the appendix."""
    name = table.id.removeprefix("table-")
    return (
        f'<div class="query" id="query-{name}"><h3><a href="#{table.id}">{html.escape(table.title)}</a></h3>'
        f"<pre>{html.escape(table.query)}</pre></div>"
    )

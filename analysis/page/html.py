"""One self-contained HTML page: figures that answer to the pointer, tables to download, nothing fetched from anywhere.

The page carries the Vega bundle, the specifications of its charts, its downloads and its folded tables as compressed
data, so that the browser shows the text at once and unpacks the rest afterwards (`unpacked` reads it back). It follows
the reader's light or dark preference, redraws when the window changes, and counts what it drew:
`document.documentElement.dataset` holds `charts` (drawn) and `errors`, which is what the browser test reads. The hard
case is a phone: a chart is drawn at the width it has there, and what cannot shrink further scrolls inside its own
frame, never the page.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from analysis.page import render, vega
from analysis.page.chart import CONFIG, Chart


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


def page(title: str, lead: str, sections: Sequence[Section], refresh: int | None = None) -> str:
    """The whole document; with `refresh` a browser loads it again after so many seconds."""
    items = [item for section in sections for item in section.items]
    tables = [item for item in items if isinstance(item, Table)]
    data = {
        "specs": {
            item.id: [_web_spec(chart) for _, chart in item.variants] for item in items if isinstance(item, Figure)
        },
        "config": _web_config(),
        "files": {_name(table): _files(table) for table in tables},
        "folded": {table.id: _rows(table) for table in tables if table.folded},
    }
    links = "".join(f'<li><a href="#{s.id}">{html.escape(s.title)}</a></li>' for s in sections)
    body = "".join(_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">{f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""}
<title>{html.escape(title)}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<nav aria-label="Sections"><details><summary>Contents</summary><ol>{links}</ol></details></nav>
<script>if(innerWidth>=1200)document.querySelector('nav details').open=true</script>
<header><h1>{html.escape(title)}</h1><p class="lead">{lead}</p></header>
<main>{body}</main>
<script id="vega" type="application/gzip">{_packed_bundle()}</script>
<script id="data" type="application/gzip">{_packed(json.dumps(data, separators=(",", ":")))}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def unpacked(text: str) -> dict[str, Any]:
    """What a page carries as data: `specs` by figure, `files` by table and suffix, the HTML of `folded` tables."""
    found = re.search(r'<script id="data"[^>]*>([^<]*)</script>', text)
    if found is None:
        raise ValueError("no page of this project: it carries no data")
    return dict(json.loads(gzip.decompress(base64.b64decode(found.group(1)))))


def _packed(text: str) -> str:
    """Compressed, as text; the same bytes for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _asset(name: str) -> str:
    """The page's own style or script, a file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _packed_bundle() -> str:
    """Vega, Vega-Lite and vega-embed."""
    return _packed(vega.bundle())


def _web_spec(chart: Chart) -> dict[str, Any]:
    """The chart without what all charts of a page share: its title, set in the page's own type, and its style."""
    return {key: value for key, value in chart.spec.items() if key not in ("title", "config")}


def _web_config() -> dict[str, Any]:
    """The style of every chart; the ground is the page's own."""
    return {key: value for key, value in CONFIG.items() if key != "background"}


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
    name = _name(table)
    downloads = " ".join(
        f'<a download="{name}.{suffix}" href="#{table.id}">{suffix.upper()}</a>' for suffix in ("csv", "md", "tex")
    )
    caption = (
        f'<p class="caption">{table.caption} <span class="downloads">{table.frame.height:,} rows: {downloads} · '
        f'<a href="#query-{name}">query</a></span></p>'
    )
    title = html.escape(table.title)
    if table.folded:  # the rows are unpacked when it is opened
        return f'<details class="table" id="{table.id}"><summary>{title}</summary>{caption}<div></div></details>'
    return f'<div class="table" id="{table.id}"><h3>{title}</h3>{caption}{_rows(table)}</div>'


def _name(table: Table) -> str:
    return table.id.removeprefix("table-")


def _shown(table: Table) -> pl.DataFrame:
    return readable(table.frame) if table.shown is None else table.shown


def _rows(table: Table) -> str:
    return render.html(_shown(table), limit=200)


def _files(table: Table) -> dict[str, str]:
    """What a reader may download: suffix -> content."""
    shown = _shown(table)
    return {"csv": render.csv(table.frame), "md": render.markdown(shown), "tex": render.latex(shown)}


def readable(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns a person needs: `method_label` says what `method` and `parameters` say again."""
    if "method_label" not in frame.columns:
        return frame
    return frame.drop("method", "parameters", strict=False).rename({"method_label": "method"})


def query_block(table: Table) -> str:
    """The query of a table, for the appendix."""
    name = _name(table)
    return (
        f'<div class="query" id="query-{name}"><h3><a href="#{table.id}">{html.escape(table.title)}</a></h3>'
        f"<pre>{html.escape(table.query)}</pre></div>"
    )

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
from typing import Any

import polars as pl
import vl_convert

from analysis import render
from analysis.figures import Chart


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
<style>{STYLE}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><p class="lead">{lead}</p></header>
<nav aria-label="Sections">{links}</nav>
<main>{body}</main>
<script>{_bundle()}</script>
<script id="specs" type="application/json">{data}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


SNIPPET = "window.vegaEmbed = vegaEmbed;"  # what the page needs of Vega, Vega-Lite and vega-embed


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    return str(vl_convert.javascript_bundle(SNIPPET)).replace("</script", "<\\/script")


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
    return (
        f'<figure id="{figure.id}" data-subtitles="{html.escape(subtitles)}"><h3>{html.escape(figure.title)}</h3>{choice}'
        f'<p class="subtitle"></p><div class="chart scroll" role="img" aria-label="{html.escape(figure.title)}"><div></div></div>'
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


STYLE = """
:root{--ink:#1d1f23;--soft:#5d6470;--paper:#ffffff;--panel:#f6f7f9;--line:#dfe3e8;--link:#00568a;--warn:#8a4b00;--warnbg:#fff4e5;--grid:#e6e6e6}
@media (prefers-color-scheme:dark){:root{--ink:#e7e9ec;--soft:#a4abb6;--paper:#15171b;--panel:#1e2126;--line:#343941;--link:#7cc0ee;--warn:#ffc583;--warnbg:#2c2418;--grid:#33373e}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;overflow-wrap:break-word}
header,main,nav{max-width:980px;margin:0 auto;padding:0 20px}
header{padding-top:40px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em}
h2{font-size:22px;margin:56px 0 8px;padding-top:12px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:0 0 4px}
p{margin:8px 0;max-width:46em}
a{color:var(--link)}
.lead{color:var(--soft);font-size:17px;max-width:46em}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;padding-top:12px;font-size:14px}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
figure,.table{margin:28px 0;padding:18px;background:var(--panel);border:1px solid var(--line);border-radius:10px;min-width:0}
figure h3{display:inline-block;margin-right:14px}
.choice{font-size:14px;color:var(--soft)}
select{font:inherit;color:var(--ink);background:var(--paper);border:1px solid var(--line);border-radius:6px;padding:3px 6px;max-width:100%}
.subtitle{font-size:13.5px;color:var(--soft);margin:2px 0 10px}
figcaption,.caption{font-size:14px;color:var(--soft);max-width:52em}
.scroll{overflow-x:auto;max-width:100%}
.chart{min-height:60px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;min-width:100%}
th{font-weight:600;text-align:left;border-bottom:2px solid var(--line);padding:5px 12px 5px 0;vertical-align:bottom;white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:4px 12px 4px 0;vertical-align:top}
th.number,td.number{text-align:right;white-space:nowrap}
.downloads{white-space:nowrap}
details.table summary{cursor:pointer;font-weight:600}
.more{font-size:13px;color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(112px,1fr));gap:10px;padding:0;margin:18px 0;list-style:none}
.facts li{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:10px 14px;color:var(--soft);font-size:13.5px}
.facts b{display:block;font-size:22px;color:var(--ink);line-height:1.25}
ul.notes{background:var(--warnbg);color:var(--warn);border-radius:10px;padding:12px 16px 12px 34px;font-size:14.5px}
ol.findings{padding-left:0;counter-reset:f;list-style:none}
ol.findings li{counter-increment:f;position:relative;padding:10px 0 10px 44px;border-bottom:1px solid var(--line);max-width:50em}
ol.findings li::before{content:counter(f);position:absolute;left:0;top:12px;width:28px;height:28px;border-radius:50%;background:var(--link);color:var(--paper);text-align:center;line-height:28px;font-size:14px;font-weight:600}
ol.findings a{font-size:14px;white-space:nowrap}
pre{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:12px;overflow-x:auto;font-size:13px;line-height:1.45}
code{font-size:.92em}
.query{margin:18px 0}
.chart .vega-embed{display:block;padding-right:0!important;background:transparent!important}
.vega-embed summary{opacity:.5!important}
#vg-tooltip-element{font-family:inherit!important}
@media (max-width:600px){header,main,nav{padding-left:14px;padding-right:14px}header{padding-top:24px}h1{font-size:25px}figure,.table{padding:12px}.downloads{white-space:normal}}
@media print{nav,.choice,.downloads{display:none}figure,.table{break-inside:avoid}}
"""

SCRIPT = """
(function(){
const root=document.documentElement,specs=JSON.parse(document.getElementById('specs').textContent),chosen={};
root.dataset.charts='0';root.dataset.errors='0';root.dataset.expected=String(Object.keys(specs).length);
function failed(error){root.dataset.errors=String(+root.dataset.errors+1);console.error(error)}
addEventListener('error',()=>{root.dataset.errors=String(+root.dataset.errors+1)});
const dark=matchMedia('(prefers-color-scheme: dark)');
function colour(name){return getComputedStyle(root).getPropertyValue(name).trim()}
function theme(config){
  const ink=colour('--ink'),soft=colour('--soft'),grid=colour('--grid');
  return Object.assign({},config,{background:'transparent',padding:4,
    axis:Object.assign({},config.axis,{labelColor:ink,titleColor:ink,gridColor:grid,domainColor:soft,tickColor:soft}),
    legend:Object.assign({},config.legend,{labelColor:ink,titleColor:ink}),
    title:Object.assign({},config.title,{color:ink,subtitleColor:soft}),
    header:Object.assign({},config.header,{labelColor:ink})});
}
function below(spec,narrow){ // on a narrow screen legends stand below the plot
  if(Array.isArray(spec)){spec.forEach(part=>below(part,narrow));return}
  if(!spec||typeof spec!=='object')return;
  for(const channel of ['color','shape','opacity']){
    const encoding=spec.encoding&&spec.encoding[channel];
    if(encoding&&encoding.field&&encoding.legend!==null&&narrow)
      encoding.legend=Object.assign({},encoding.legend,{orient:'bottom',columns:2,direction:encoding.type==='quantitative'?'horizontal':undefined,gradientLength:160});
  }
  ['layer','spec','hconcat','vconcat'].forEach(key=>spec[key]&&below(spec[key],narrow));
}
function fit(original,space){
  let text=JSON.stringify(original);
  if(dark.matches)text=text.replaceAll('#0072B2','#4DA3DB').replaceAll('#7A5195','#B08CCB').replaceAll('#111111','#ffffff');
  const spec=JSON.parse(text),narrow=space<620;
  spec.config=theme(spec.config);
  if(narrow){spec.config.axis.labelLimit=110;spec.config.legend.labelLimit=130;below(spec,true)}
  const least=(spec.usermeta&&spec.usermeta.minWidth)||260;
  const plots=spec.vconcat||[spec.spec&&spec.facet?spec.spec:spec];
  for(const plot of plots)if(typeof plot.width==='number')plot.width=Math.max(least-90,Math.min(plot.width,space-(narrow?145:330)));
  return spec;
}
const drawn=new Set();
function draw(id){
  const figure=document.getElementById(id),frame=figure.querySelector('.chart'),target=frame.firstElementChild,which=chosen[id]||0;
  figure.querySelector('.subtitle').textContent=JSON.parse(figure.dataset.subtitles)[which];
  return vegaEmbed(target,fit(specs[id][which],frame.clientWidth),{mode:'vega-lite',renderer:'svg',tooltip:{theme:dark.matches?'dark':'light'},
    actions:{export:true,source:false,compiled:false,editor:false},downloadFileName:id})
    .then(()=>{drawn.add(id);root.dataset.charts=String(drawn.size)}).catch(failed);
}
document.querySelectorAll('select[data-figure]').forEach(select=>select.addEventListener('change',()=>{chosen[select.dataset.figure]=+select.value;draw(select.dataset.figure)}));
async function all(){for(const id of Object.keys(specs))await draw(id);root.dataset.ready='yes'}
let width=innerWidth,timer;
addEventListener('resize',()=>{if(innerWidth===width)return;width=innerWidth;clearTimeout(timer);timer=setTimeout(all,150)});
dark.addEventListener('change',all);
all();
})();
"""

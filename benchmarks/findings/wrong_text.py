"""When is the wrong calibration text worse than none?"""

from __future__ import annotations

from analysis.estimates.welch import Interval, contrast
from analysis.page.chart import Chart
from benchmarks.findings.evidence import UNIFORM, Cell, cells, control, listed, percent, sure
from benchmarks.findings.page import Page


def page() -> Page:
    found = [cell for cell in cells() if cell.method.startswith(("GPTQ", "AWQ"))]  # those with a control of their bits
    harms = {cell.name: _harms(cell) for cell in found}
    total = sum(len(cell.singles) * len(cell.texts) for cell in found)
    worst_cell = max(found, key=lambda cell: len(harms[cell.name]))
    source, text, excess = max(harms[worst_cell.name], key=lambda harm: harm[2])
    uniform = sum(s == UNIFORM for cell in found for s, _, _ in harms[cell.name])
    singles = {cell.name: [h for h in harms[cell.name] if h[0] != UNIFORM] for cell in found}
    harmed = [cell.name for cell in found if singles[cell.name]]
    mean = [sum(sure(_against_control(cell, s)) == 1 for s in cell.losses) for cell in found]
    rows = []
    for cell in found:
        some = sorted(singles[cell.name], key=lambda harm: -harm[2])
        named = f"{some[0][0]} on {some[0][1]}: +{some[0][2]:.0f} %" if some else ""
        rows.append(
            [
                cell.name,
                f"{len(some)} of {len(cell.singles) * len(cell.texts)}",
                f"{sum(h[0] == UNIFORM for h in harms[cell.name])} of {len(cell.texts)}",
                named,
            ]
        )
    return Page(
        name="wrong_text",
        question="Can calibration on the wrong text make a model worse than quantization without any data?",
        title=(
            f"Yes, on single texts: {source} text makes {worst_cell.name} {excess:.0f} % worse on {text} than no "
            "calibration data at all; on the mean over texts no source does"
            if not sum(mean)
            else f"Yes: {sum(mean)} sources are worse than no calibration data on the mean over texts"
        ),
        answer=(
            f"Of {total} pairs of a single source and a text, {sum(len(s) for s in singles.values())} are worse than "
            f"rounding to nearest at the same bits (the 95 % interval over sets above it); all of them in {listed(harmed)}. "
            f"The uniform mixture is worse than no data for {uniform} of {sum(len(cell.texts) for cell in found)} texts. GPTQ "
            "ran with act-order and static groups, the defaults here, which lower its perplexity on SmolLM2 at 3 bits by 20 to "
            "24 % (the log of 2026-11-28): with the order of the original code more cells would be worse than none."
        ),
        chart=_chart(found),
        table=(
            [
                "method and model",
                "single source and text worse than no data",
                "uniform mixture worse than no data, texts",
                "the worst",
            ],
            rows,
        ),
        published=(
            "Beware of Calibration Data (arXiv 2410.17711) reports pruning with unsuitable data falling below magnitude "
            "pruning, by notes on the paper. For GPTQ we know of no published count."
        ),
        limits=(
            "Sparsity has no control in these studies (magnitude pruning was not run at 2:4), so only quantization is counted. "
            "The control has no luck of a draw; its perplexity is on the same windows."
        ),
    )


def _against_control(cell: Cell, source: str) -> Interval:
    base = control(cell.model)
    return contrast([cell.mean(source) - sum(base[text] for text in cell.texts) / len(cell.texts)], [1.0])


def _harms(cell: Cell) -> list[tuple[str, str, float]]:
    """(source, text, per cent above the control), where the interval over sets is above it."""
    base = control(cell.model)
    found = []
    for source, losses in cell.losses.items():
        for index, text in enumerate(cell.texts):
            gap = contrast([losses[:, index] - base[text]], [1.0])
            if sure(gap) == 1:
                found.append((source, text, percent(gap.value)))
    return found


def _chart(found: list[Cell]) -> Chart:
    cell = next(cell for cell in found if cell.model == "smollm2")
    base = control(cell.model)
    order = [*cell.singles, UNIFORM]
    rows = [
        {
            "source": source,
            "text": text,
            "against": round(percent(float(cell.losses[source][:, index].mean()) - base[text]), 1),
        }
        for source in order
        for index, text in enumerate(cell.texts)
    ]
    limit = max(abs(row["against"]) for row in rows)  # type: ignore[type-var]
    cells_of = {
        "x": {"field": "text", "type": "nominal", "title": "held-out text", "axis": {"labelAngle": -35}},
        "y": {"field": "source", "type": "nominal", "title": "calibrated on", "sort": order},
    }
    return Chart(
        f"{cell.name}: perplexity against rounding without data, %",
        "Mean of twelve sets of 32 windows. Above zero the calibration did harm.",
        {
            "data": {"values": rows},
            "width": 480,
            "height": 300,
            "layer": [
                {
                    "mark": "rect",
                    "encoding": {
                        **cells_of,
                        "color": {
                            "field": "against",
                            "type": "quantitative",
                            "title": "%",
                            "scale": {"domain": [-limit, 0, limit], "range": ["#00568A", "#F4F4F2", "#B34700"]},
                        },
                    },
                },
                {
                    "mark": {"type": "text", "fontSize": 11},
                    "encoding": {
                        **cells_of,
                        "text": {"field": "against", "type": "quantitative", "format": "+.0f"},
                        "color": {
                            "condition": {"test": f"abs(datum.against) > {0.55 * limit}", "value": "#ffffff"},
                            "value": "#222222",
                        },
                    },
                },
            ],
        },
    )

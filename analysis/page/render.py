"""Frames as text: Markdown, LaTeX, CSV and HTML, all from one rule for numbers.

Numbers in text are for reading: four significant digits, the decimal points of a column in line where the column's
values allow it. CSV keeps every digit, because it is for machines.
"""

from __future__ import annotations

import html as escape
import math
from typing import Any

import polars as pl

LATEX_SPECIAL = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "±": r"$\pm$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "×": r"$\times$",
        "∞": r"$\infty$",
        "−": "-",
    }
)


def cells(frame: pl.DataFrame) -> list[list[str]]:
    """The frame's rows as text, numbers of one column with equal decimals."""
    columns = [_column(frame[name]) for name in frame.columns]
    return [list(row) for row in zip(*columns, strict=True)] if columns else []


def markdown(frame: pl.DataFrame) -> str:
    """A Markdown table; numbers are aligned to the right."""
    head = [name.replace("_", " ") for name in frame.columns]
    rule = ["---:" if frame[name].dtype.is_numeric() else "---" for name in frame.columns]
    body = [[cell.replace("|", "\\|") for cell in row] for row in cells(frame)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *body))


def latex(frame: pl.DataFrame) -> str:
    """A booktabs table: the tabular alone, to be put into a document's own table."""
    align = "".join("r" if frame[name].dtype.is_numeric() else "l" for name in frame.columns)
    rows = [" & ".join(cell.translate(LATEX_SPECIAL) for cell in row) + r" \\" for row in cells(frame)]
    head = " & ".join(name.replace("_", " ").translate(LATEX_SPECIAL) for name in frame.columns) + r" \\"
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def csv(frame: pl.DataFrame) -> str:
    """All digits, one header line."""
    return frame.write_csv()


def html(frame: pl.DataFrame, limit: int | None = None) -> str:
    """An HTML table; beyond `limit` rows a line says how many more the download holds."""
    shown = frame if limit is None else frame.head(limit)
    kinds = [
        "number" if frame[name].dtype.is_numeric() or _is_measured(frame[name]) else "text" for name in frame.columns
    ]
    head = "".join(
        f'<th class="{kind}" scope="col">{escape.escape(name.replace("_", " "))}</th>'
        for name, kind in zip(frame.columns, kinds, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(f'<td class="{k}">{escape.escape(c)}</td>' for c, k in zip(row, kinds, strict=True)) + "</tr>"
        for row in cells(shown)
    )
    more = frame.height - shown.height
    foot = f'<p class="more">{more:,} more rows in the download.</p>' if more > 0 else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{foot}'


def number(value: float | None, digits: int = 4) -> str:
    """A number with this many significant digits, never in scientific notation between 1e-9 and 1e9.

    Nothing for what is no number (NaN): a reader sees that it is missing.
    """
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e9 or size < 1e-9:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - _exponent(size))
    return f"{value:,.{decimals}f}"


def percent(probability: float) -> str:
    """`62 %`; never 0 or 100 %, because a probability that comes from draws is neither."""
    if probability > 0.995:
        return "over 99 %"
    return "under 1 %" if probability < 0.005 else f"{100 * probability:.0f} %"


def percent_below(probability: float, level: float) -> str:
    """`62 %`, or `89.7 %` where whole percents would say the level that the probability falls short of."""
    told = percent(probability)
    return told if told != percent(level) else f"{math.floor(1000 * probability) / 10:.1f} %"


def _exponent(size: float) -> int:
    return int(f"{size:e}".partition("e")[2])


def _is_measured(column: pl.Series) -> bool:
    """Text such as `63.2 ± 0.3`, which reads like a number."""
    return column.dtype == pl.String and bool(column.str.contains(r"^-?[\d.]+( ± |$)").any())


def _column(column: pl.Series) -> list[str]:
    if column.dtype.is_float():
        sizes = [abs(v) for v in column.to_list() if v is not None and v != 0 and math.isfinite(v)]
        if not sizes or max(sizes) >= 1e9 or max(sizes) < 1e-4:
            return [number(value) for value in column.to_list()]
        decimals = min(6, max(0, 3 - _exponent(max(sizes))))
        plain = [value is not None and math.isfinite(value) for value in column.to_list()]
        return [
            f"{value:,.{decimals}f}" if fits else number(value)
            for value, fits in zip(column.to_list(), plain, strict=True)
        ]
    if column.dtype.is_integer():
        return ["" if value is None else f"{value:,}" for value in column.to_list()]
    return ["" if value is None else _plain(value) for value in column.to_list()]


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

"""The pages of docs/findings from the studies behind them: `python -m benchmarks.findings [PAGE...]`.

Every number of a page is computed here from `data/`. `--check` writes nothing and fails when a page differs from what
the data say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.page import vega
from benchmarks.findings import (
    bits,
    carry_over,
    claims,
    disagreement,
    formats,
    how_much,
    knowledge,
    languages,
    mixtures,
    noise,
    own_domain,
    own_task,
    predictors,
    rotation,
    selection,
    sensitivity,
    sizes,
    traces,
    windows,
    written,
    wrong_text,
)
from benchmarks.findings.page import Page

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "findings"
PAGES = {
    module.__name__.rpartition(".")[2]: module.page
    for module in (
        how_much,
        bits,
        mixtures,
        own_domain,
        own_task,
        languages,
        formats,
        noise,
        written,
        traces,
        wrong_text,
        windows,
        sizes,
        selection,
        predictors,
        rotation,
        knowledge,
        disagreement,
        sensitivity,
        carry_over,
        claims,
    )
}
OPEN = (
    "other rotations before GPTQ; text that the model writes from nothing; choosing windows out of more than ten times as many, or for a text "
    "that is known; noise at other rates; bits and sparsities on other models than reference-17m; models above 135 million "
    "parameters"
)


def index(pages: list[Page]) -> str:
    """docs/findings/README.md: the answers, a line each."""
    lines = [f"- [{page.title}]({page.name}.md) *{page.question}*" for page in pages]
    return (
        "# Findings\n\nWhat studies with this software found, an answer a page, each with its figure, table, intervals, "
        "data and the command that makes the page anew.\n\n"
        + "\n".join(lines)
        + f"\n\nNot studied yet: {OPEN}. Earlier experiments on methods and their defaults are in the [log](../log.md).\n"
    )


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Pages (default: all of {', '.join(PAGES)}).")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when a page is not what it says.")
    ] = False,
) -> None:
    pages = {name: make() for name, make in PAGES.items() if not names or name in names}
    texts = {FOLDER / f"{name}.md": page.markdown() for name, page in pages.items()}
    if not names:
        texts[FOLDER / "README.md"] = index(list(pages.values()))
    if check:
        wrong = [path.name for path, text in texts.items() if not path.is_file() or path.read_text() != text]
        if wrong:
            print(f"not what the data say: {', '.join(wrong)}")
            raise typer.Exit(1)
        return
    (FOLDER / "figures").mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
    for name, page in pages.items():
        (FOLDER / "figures" / f"{name}.svg").write_text(vega.svg(page.chart.spec))
        print(f"{name}: {page.title}")


if __name__ == "__main__":
    typer.run(main)

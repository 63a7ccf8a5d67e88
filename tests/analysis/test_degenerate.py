"""Every finished study is reported, however little it holds: no traceback, no NaN on the page, nothing passed over."""

from __future__ import annotations

import html
import inspect
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from analysis.evidence import Evidence
from analysis.frames import Study, load
from analysis.page.html import Figure, page, unpacked
from analysis.page.render import html as html_table
from analysis.page.render import latex, markdown
from analysis.recommend import recommend
from analysis.report import build
from analysis.simulate import Design, SimulatedMethod, simulate_study
from analysis.summary import show, show_answer
from analysis.tables import TABLE_FUNCTIONS, table
from calib.settings import SettingsError

METHODS = (
    SimulatedMethod("rtn", "RTN 3-bit", bits=3, data_free=True, damage=0.07),
    SimulatedMethod("gptq", "GPTQ 3-bit", bits=3, damage=0.04),
    SimulatedMethod("wanda", "Wanda 50%", sparsity=0.5, damage=0.06),
)
SMALL: dict[str, Any] = {
    "models": {"one": 2_000_000, "two": 5_000_000},
    "methods": METHODS,
    "sources": ("books", "code"),
    "heldout": ("books", "code"),
    "sets": 2,
    "tasks": {"piqa": 12, "rte": 10},
    "windows": 4,
    "blocks": 1,
}
MEANS = ("summary", "source", "wide", "ranges", "tasks", "task_spread", "sizes", "domains", "baselines", "relation")
MISSING = re.compile(r"\b(nan|NaN|None|inf)\b")
ONE: dict[str, Any] = {**SMALL, "models": {"one": 2_000_000}}
TASK, TEXT = pl.col("kind") == "task", pl.col("kind") == "perplexity"
DIVERGENCE = pl.col("kind") == "divergence"


def rewrite(folder: Path, name: str, **columns: pl.Expr) -> None:
    for path in (folder / name).glob("*.parquet"):
        frame = pl.read_parquet(path)
        frame.with_columns(**{k: v.cast(frame.schema[k]) for k, v in columns.items()}).write_parquet(path)


def keep(folder: Path, name: str, kept: pl.Expr) -> None:
    for path in (folder / name).glob("*.parquet"):
        frame = pl.read_parquet(path).filter(kept)
        if frame.height:
            frame.write_parquet(path)
        else:
            path.unlink()


def where(condition: pl.Expr, value: Any, column: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(value)).otherwise(column)


def all_alike(folder: Path, right: bool) -> None:
    """Every answer of every trial the same, and every window."""
    asked = pl.col("correct").is_not_null()
    rewrite(folder, "samples", score=where(asked, float(right), "score"), correct=where(asked, right, "correct"))
    rewrite(folder, "samples", nll=where(pl.col("nll").is_not_null(), 3.0, "nll"))
    rewrite(folder, "samples", js=where(pl.col("js").is_not_null(), 0.0, "js"))
    value = pl.when(TASK).then(float(right)).when(TEXT).then(20.0).otherwise(0.0)
    rewrite(folder, "metrics", value=value, stderr=pl.lit(0.0))
    rewrite(folder, "layers", relative_error=pl.lit(0.0))
    rewrite(folder, "trials", layer_error=pl.lit(0.0))


def two_trials(folder: Path) -> None:
    first = sorted(p.name for p in (folder / "trials").iterdir() if pl.read_parquet(p).item(0, "method") == "gptq")
    for path in (folder / "trials").iterdir():
        if path.name not in first[:2]:
            path.unlink()


def shares(folder: Path) -> None:
    """A task whose outcomes are numbers between right and wrong."""
    share = pl.col("score") * 0.5 + 0.25
    here = pl.col("task") == "piqa"
    rewrite(folder, "samples", score=pl.when(here).then(share).otherwise("score"), correct=where(here, None, "correct"))
    value = pl.when(here).then(pl.col("value") * 0.5 + 0.25).otherwise("value")
    rewrite(folder, "metrics", value=value)


def lost(metric: pl.Expr, value: float | None) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, "metrics", value=where(metric, value, "value"))


def older(folder: Path) -> None:
    """As written before accuracies were recorded, task piqa of shares that were all stored as right."""
    here = pl.col("task") == "piqa"
    for name, gone in (("samples", ["score"]), ("metrics", ["accuracy", "reason"])):
        for path in (folder / name).glob("*.parquet"):
            frame = pl.read_parquet(path).drop(gone)
            if name == "samples":
                frame = frame.with_columns(where(here, True, "correct").alias("correct"))
            frame.write_parquet(path)


def only(**factors: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in (folder / "trials").iterdir():
            row = pl.read_parquet(path).row(0, named=True)
            if any(row[name] not in (None, value) for name, value in factors.items()):
                path.unlink()

    return change


def nothing(folder: Path) -> None:
    """The study as it is."""


STUDIES: dict[str, tuple[dict[str, Any], Callable[[Path], None]]] = {
    "as it is": (SMALL, nothing),
    "all sources tie, all answers right": (SMALL, lambda folder: all_alike(folder, True)),
    "all answers wrong": (ONE, lambda folder: all_alike(folder, False)),
    "one set": ({**ONE, "sets": 1}, nothing),
    "one source": ({**ONE, "sources": ("books",), "heldout": ("books",)}, nothing),
    "one source and one set": ({**ONE, "sources": ("books",), "sets": 1}, nothing),
    "one task": ({**ONE, "tasks": {"piqa": 12}}, nothing),
    "one example and one window": ({**ONE, "tasks": {"piqa": 1}, "windows": 1}, nothing),
    "tasks alone": ({**ONE, "heldout": ()}, nothing),
    "texts alone": ({**ONE, "tasks": {}}, nothing),
    "dense alone": (ONE, only(method="dense")),
    "data-free alone": (ONE, only(data_free=True)),
    "two trials": (ONE, two_trials),
    "two trials of one set": ({**ONE, "methods": METHODS[1:2], "sources": ("books",), "sets": 1}, nothing),
    "no value at all": (ONE, lost(pl.lit(True), None)),
    "no accuracy": (ONE, lost(TASK, None)),
    "no perplexity": (ONE, lost(TEXT, None)),
    "NaN divergences": (ONE, lost(DIVERGENCE, float("nan"))),
    "a task without a value": (ONE, lost(TASK & (pl.col("task") == "rte"), None)),
    "an infinite perplexity": (ONE, lost(TEXT & (pl.col("task") == "books"), float("inf"))),
    "perplexities near the largest number": (ONE, lost(TEXT & (pl.col("task") == "books"), 1e308)),
    "shares of an answer": (ONE, shares),
    "an older version": (ONE, older),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Path]:
    """Simulated studies, each design once."""
    known: dict[str, Path] = {}

    def make(design: dict[str, Any]) -> Path:
        key = repr(design)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("study")
            simulate_study(str(known[key]), Design(**design))
        return known[key]

    return make


@pytest.mark.parametrize("kind", STUDIES)
def test_every_finished_study_is_reported(kind: str, made: Callable[[dict[str, Any]], Path], tmp_path: Path) -> None:
    design, change = STUDIES[kind]
    folder = Path(shutil.copytree(made(design), tmp_path / "results"))
    change(folder)
    study = load(str(folder))
    evidence = Evidence(study)
    summary_is_shown(evidence)
    report_is_written(evidence, str(folder))
    tables_are_written(study)
    sources_are_recommended(study)


def summary_is_shown(evidence: Evidence) -> None:
    shown = io.StringIO()
    show(evidence, Console(file=shown, width=10_000))
    told = [line for line in shown.getvalue().splitlines() if not line.startswith("!")]  # limitations speak of NaN
    assert not MISSING.search("\n".join(told))
    for note in evidence.study.limitations:
        assert note.text in shown.getvalue()
    screen = io.StringIO()
    show_answer(evidence, Console(file=screen, width=80), "results/study")
    assert not MISSING.search(screen.getvalue())
    assert len(screen.getvalue().splitlines()) < 24


def report_is_written(evidence: Evidence, root: str) -> None:
    sections = build(evidence, root)
    text = page("study", "lead", sections)
    data = unpacked(text)
    json.loads(json.dumps(data["specs"]), parse_constant=refuse)
    text += "".join(data["folded"].values())
    for section in sections:
        for item in section.items:
            if isinstance(item, Figure):  # one of its variants: the others differ in numbers alone
                assert item.variants[0][1].svg().startswith("<svg")
    for body in re.findall(r"<tbody>.*?</tbody>|<figcaption>.*?</figcaption>|<ol class=.*?</ol>", text, re.DOTALL):
        assert not MISSING.search(body), body
    for note in evidence.study.limitations:
        assert html.escape(note.text) in text


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON: no browser would draw the page's figures")


def tables_are_written(study: Study) -> None:
    present = study.values["measure"].unique().sort().to_list()
    for name, function in TABLE_FUNCTIONS.items():
        default = inspect.signature(function).parameters.get("measure")
        measures = [None] if default is None else [default.default] if default.default in present else []
        # Means take a moment for each measure; the others are made of posteriors and single examples.
        for measure in present if name in MEANS else measures:
            frame = table(study, name, measure)
            for write in (markdown, latex, html_table):
                assert not MISSING.search(write(frame)), (name, measure)


def sources_are_recommended(study: Study) -> None:
    """Or a line says why not."""
    for model in study.trials["model"].unique().sort():
        for method in (None, *study.trials["method"].unique().sort()):
            for measure in (None, *study.values["measure"].unique().sort()):
                try:
                    answer = recommend(study, model, method, (), measure)
                except SettingsError as error:
                    assert "\n" not in str(error)
                    continue
                assert not MISSING.search(" ".join(answer.sentences)), answer.sentences

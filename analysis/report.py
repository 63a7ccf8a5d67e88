"""The report: one HTML file that a person likes to read, and every figure as PNG and SVG.

    python -m analysis.report RESULTS [--output report.html] [--figures FOLDER]

What was run comes first, then what was left out, then the findings in words, then figures, tables and provenance. Every
table carries the query that gives it, so that any number can be traced to its rows. The file fetches nothing.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from analysis import figures as draw
from analysis import tables
from analysis.compare import domain_match, flip_table, mcnemar_table, method_pairs, source_pairs
from analysis.correlation import cheap_metrics, correlation_table
from analysis.estimates.examples import example_tables
from analysis.findings import baselines, findings, mean_rows
from analysis.frames import Study, load
from analysis.measures import MEAN, MEASURES
from analysis.page.html import Figure, Section, Table, page, query_block, readable
from analysis.page.marks import span
from analysis.page.vega import Drawing
from analysis.published import anchor_table, claim_table, other_windows
from analysis.ranking import agreement_table, rank_table, sensitivity_table, trend_table
from analysis.variance import component_table, repeat_table
from calib.settings import SettingsError
from sweep.results import ResultsError


def write_report(
    results: str, output: str | None = None, figures: str | None = None, save: bool = True
) -> tuple[Path, list[Path]]:
    """Write the page and, if `save`, the figures; gives the page's path and the figures' paths.

    Without `output` the page is `report.html` in a local results folder, or in the current folder for a URI; figures go
    to `figures/` beside it. Raises ResultsError when there is nothing to report.
    """
    study = load(results)
    path = Path(output) if output else _default_output(results)
    if not path.parent.is_dir():
        raise SettingsError(f"--output: {path.parent} is no folder; create it first")
    if not os.access(path.parent, os.W_OK):
        raise SettingsError(f"--output: cannot write to {path.parent}; choose another folder")
    folder = Path(figures) if figures else path.parent / "figures"
    with Drawing() as drawing:  # figures are drawn beside the analysis, each as soon as its table is there
        sections = build(study, results, (lambda section: _draw(section, folder, drawing)) if save else None)
        lead = html.escape(_lead(study))
        path.write_text(page(f"Calibration sweep: {study.name}", lead, sections), encoding="utf-8")
        return path, drawing.wait()


def _default_output(results: str) -> Path:
    return Path("report.html") if "://" in results else Path(results) / "report.html"


def save_figures(sections: list[Section], folder: Path) -> list[Path]:
    """Every variant of every figure as PNG and SVG."""
    with Drawing() as drawing:
        for section in sections:
            _draw(section, folder, drawing)
        return drawing.wait()


def _draw(section: Section, folder: Path, drawing: Drawing) -> None:
    """Have the section's figures drawn."""
    for item in section.items:
        if isinstance(item, Figure):
            for label, chart in item.variants:
                name = item.id.removeprefix("figure-") + (f"-{_slug(label)}" if len(item.variants) > 1 else "")
                drawing.add(chart.spec, folder / name)


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())


def build(study: Study, results: str, ready: Callable[[Section], object] | None = None) -> list[Section]:
    """The sections of the page, in reading order.

    `ready` is called with each section as soon as it exists. Those that need single examples come last, because
    samples/ take as long to read as everything else together.
    """
    makers: list[Callable[[Study], Section]] = [_run, _findings, _domains, _sources, _tasks, _sizes, _components]
    makers += [_best, _methods, _relations, _layers, _published, _failures, _provenance]
    read_samples = {_findings, _components, _best, _methods}
    made = {}
    for make in sorted(makers, key=read_samples.__contains__):
        made[make] = make(study)
        if ready:
            ready(made[make])
    body = [made[make] for make in makers]
    sections = [section for section in body if section.items or section.text or section.notes]
    return [*sections, _appendix(sections, results)]


def _lead(study: Study) -> str:
    """One sentence: what was varied and what was measured."""
    sources = study.trials["source"].drop_nulls().n_unique()
    return (
        f"How much does calibration data matter? {study.trials.height:,} compressed or dense copies of "
        f"{study.trials['model'].n_unique()} models, calibrated on {sources} sources of text, evaluated alike."
    )


def _run(study: Study) -> Section:
    """Counts, and every limitation."""
    trials = study.trials
    calibrated = trials.filter(pl.col("source").is_not_null())
    per_cell = calibrated.group_by("model", "method_label", "source", "condition").len()["len"]
    facts = [
        (f"{trials.height:,}", "trials"),
        (f"{study.failed.height:,}", "failed"),
        (f"{trials['model'].n_unique()}", "models"),
        (f"{trials.filter(pl.col('method') != 'dense')['method_label'].n_unique()}", "methods"),
        (f"{calibrated['source'].n_unique()}", "sources"),
        (span(per_cell), "sets per source"),
        ((study.condition or "none").partition(" ")[0], "windows × tokens"),
    ]
    items = "".join(f"<li><b>{html.escape(value)}</b>{label}</li>" for value, label in facts)
    text = [f'</p><ul class="facts">{items}</ul><p>']
    if study.limitations:
        text.append("What the numbers do not cover:")
    else:
        text.append("Nothing was left out: every trial succeeded and every cell of the grid has its result.")
    notes = [f"<b>{html.escape(note.subject)}.</b> {html.escape(note.text)}" for note in study.limitations]
    return Section("run", "What was run", text, [_trials_table(study)], notes)


def _trials_table(study: Study) -> Table:
    frame = trial_counts(study)
    query = "from analysis.report import trial_counts\ntrial_counts(study)"
    caption = "Trials per model and method; data-free methods and the dense model have one each."
    return Table("table-trials", "Trials", caption, frame, query, folded=True)


def trial_counts(study: Study) -> pl.DataFrame:
    """Trials, sources, sets, seconds and peak memory per (model, method)."""
    return (
        study.trials.group_by("parameters", "model", "method_label")
        .agg(
            pl.len().alias("trials"),
            pl.col("source").drop_nulls().n_unique().alias("sources"),
            pl.col("condition").drop_nulls().n_unique().alias("sizes"),
            pl.col("bits").first(),
            pl.col("sparsity").first(),
            pl.col("average_bits").mean(),
            pl.col("achieved_sparsity").mean(),
            pl.col("fallbacks").sum(),
            pl.col("seconds_total").mean().alias("mean_seconds"),
            (pl.col("peak_memory").max() / 2**30).alias("peak_gib"),
        )
        .sort("parameters", "model", "method_label")
    )


def _findings(study: Study) -> Section:
    lines = "".join(
        f'<li>{html.escape(finding.text)} <a href="#{finding.table}">table</a></li>' for finding in findings(study)
    )
    return Section("findings", "What was found", [f'</p><ol class="findings">{lines}</ol><p>'])


def _each_model(study: Study) -> Iterator[str]:
    """Models from small to large."""
    yield from study.trials.sort("parameters", "model")["model"].unique(maintain_order=True)


def _domains(study: Study) -> Section:
    """Perplexity by held-out text: does the domain of the calibration text matter?"""
    measure = "perplexity_increase"
    table = tables.domain_table(study, measure)
    if table.is_empty():
        return Section("domains", "Domain of the text")
    variants: list[tuple[str, draw.Chart]] = []
    controls = baselines(study)
    for (model, label), part in table.group_by("model", "method_label", maintain_order=True):
        chosen = pl.col("measure") == measure, pl.col("model") == model, pl.col("task") != MEAN
        control = study.main.filter(*chosen, pl.col("method_label") == controls.get(str(label), ""))
        baseline = control.select(pl.col("method_label").alias("label"), text="task", mean="value").drop_nulls()
        variants.append((f"{model} · {label}", draw.domain_figure(part, baseline, f"{model}, {label}")))
    variants.sort(key=lambda pair: pair[0])
    if table["source"].n_unique() < 2:  # nothing to compare in a column
        variants = []
    caption = (
        "Rows are calibration sources, columns held-out texts that nobody calibrated on. The number is how much "
        "perplexity "
        "grew over the dense model; colour compares it with the average source on the same text, so a column is "
        "read from "
        "top to bottom."
    )
    match = domain_match(study)
    figure = Figure("figure-domains", "Calibration source by held-out text", caption, variants)
    own = Table(
        "table-domain-match",
        "Own domain against other domains",
        "Perplexity increase over dense, %, mean over texts; interval over calibration sets, the texts being fixed.",
        match,
        "from analysis.compare import domain_match\ndomain_match(study)",
    )
    items: list[Figure | Table] = [
        *([figure] if variants else []),
        *([own] if match.height else []),
        Table(
            "table-domains",
            "Source by held-out text",
            "Mean and SD over sets, n sets; advantage: points better than the average source on that text.",
            table,
            f'from analysis.tables import domain_table\ndomain_table(study, "{measure}")',
            folded=True,
        ),
    ]
    return Section("domains", "Does the domain of the calibration text matter?", items=items)


def _sources(study: Study) -> Section:
    """Every set as a dot, per measure; the published table and the ranges."""
    items: list[Figure | Table] = []
    for measure in tables.measures_of(study):
        rows = mean_rows(study, measure)
        variants: list[tuple[str, draw.Chart]] = []
        for model in _each_model(study):
            values = _rows_with_controls(study, rows.filter(pl.col("model") == model))
            if values.height:
                summary = tables.over_sets(values, ["method_label", "row"])
                variants.append((model, draw.spread_figure(values, summary, measure, model)))
        title = f"{MEASURES[measure].title}: every calibration set"
        caption = "Where intervals of two sources overlap widely, the draw matters as much as the source."
        if variants:
            items.append(Figure(f"figure-spread-{measure}", title, caption, variants))
        items.append(_source_table(study, measure))
        items.append(
            Table(
                f"table-ranges-{measure}",
                f"{MEASURES[measure].title}: range over all sets",
                "Smallest, largest and range over all sets of all sources; SD within a source and between source "
                "means.",
                tables.range_table(study, measure),
                f'from analysis.tables import range_table\nrange_table(study, "{measure}")',
            )
        )
    return Section("sources", "How much do sources and draws matter?", items=items)


def _rows_with_controls(study: Study, rows: pl.DataFrame) -> pl.DataFrame:
    """Calibrated rows with `row` = source, and under each method its data-free control as `no data: RTN 3-bit`."""
    controls = baselines(study)
    calibrated = rows.filter(pl.col("source").is_not_null()).with_columns(pl.col("source").alias("row"))
    parts = [calibrated]
    for label in calibrated["method_label"].unique().sort():
        control = rows.filter(pl.col("method_label") == controls.get(label, ""))
        if control.height:
            name = pl.lit(f"no data: {controls[label]}")
            parts.append(control.with_columns(name.alias("row"), pl.lit(label).alias("method_label")))
    return pl.concat(parts).drop_nulls("value")


def _source_table(study: Study, measure: str) -> Table:
    return Table(
        f"table-source-{measure}",
        f"{MEASURES[measure].title} by source",
        f"Mean ± SD over calibration sets, mean over tasks or texts; {MEASURES[measure].better}. Without ±: one trial.",
        tables.source_table(study, measure),
        f'from analysis.tables import source_table\nsource_table(study, "{measure}")',
        shown=tables.wide_table(study, measure),
    )


def _tasks(study: Study) -> Section:
    """Which task feels the draw?"""
    rows = study.calibrated.filter((pl.col("measure") == "accuracy") & (pl.col("task") != MEAN)).drop_nulls("value")
    if rows.is_empty():
        return Section("tasks", "Tasks")
    variants: list[tuple[str, draw.Chart]] = [
        (model, draw.task_spread_figure(rows.filter(pl.col("model") == model), "accuracy", model))
        for model in _each_model(study)
        if rows.filter(pl.col("model") == model).height
    ]
    items: list[Figure | Table] = [
        Figure("figure-tasks", "Per-task spread", "A mean over tasks hides tasks that move by many points.", variants),
        Table(
            "table-task-spread",
            "Range per task",
            "Over all sets of all sources, accuracy in %.",
            tables.task_spread_table(study),
            "from analysis.tables import task_spread_table\ntask_spread_table(study)",
            folded=True,
        ),
        Table(
            "table-tasks",
            "Accuracy per task and source",
            "Mean and SD over sets, %.",
            tables.task_table(study),
            "from analysis.tables import task_table\ntask_table(study)",
            folded=True,
        ),
    ]
    return Section("tasks", "Which tasks feel it?", items=items)


def _sizes(study: Study) -> Section:
    """Every condition of calibration sets when the study varies them, with curves over the number of windows."""
    items: list[Figure | Table] = []
    counts = study.trials.drop_nulls("condition").group_by("condition").len().sort("condition")
    if counts.height < 2:
        return Section("sizes", "How many windows?")
    for measure in tables.measures_of(study):
        table = tables.size_table(study, measure)
        curve = ["model", "seqlen", "policy"]
        with_policy = table.with_columns(pl.col("condition").str.replace(r"^\S+ ", "").alias("policy"))
        variants: list[tuple[str, draw.Chart]] = []
        for (model, seqlen, policy), part in with_policy.group_by(curve, maintain_order=True):
            if part["nsamples"].n_unique() > 1:
                where = f"{model}, {seqlen} tokens a window"
                if with_policy["policy"].n_unique() > 1:
                    where += f", {policy}"
                variants.append((where, draw.size_figure(part, measure, where)))
        title = f"{MEASURES[measure].title} against calibration size"
        if variants:
            caption = "More windows cost time and memory; see where it stops paying."
            items.append(Figure(f"figure-sizes-{measure}", title, caption, variants))
        query = f'from analysis.tables import size_table\nsize_table(study, "{measure}")'
        title = f"{MEASURES[measure].title} by size and condition of the calibration set"
        items.append(Table(f"table-sizes-{measure}", title, "Mean and SD over sets.", table, query, folded=True))
    named = "; ".join(f"{html.escape(str(name))} ({count} trials)" for name, count in counts.iter_rows())
    text = [
        f"The study varies calibration sets: {named}. Every other section is about "
        f"<b>{html.escape(str(study.condition))}</b>."
    ]
    return Section("sizes", "How large, and how made?", text, items)


def _components(study: Study) -> Section:
    """How much of the spread is source, draw, test."""
    items: list[Figure | Table] = []
    for measure in ("accuracy", "perplexity"):
        table = component_table(study, measure)
        if table.is_empty():
            continue
        overall = table.filter(pl.col("task") == (MEAN if MEAN in set(table["task"]) else table.item(0, "task")))
        overall = overall.filter(pl.col("sd").is_not_null())
        unit = "points" if measure == "accuracy" else "nats per token"
        variants = [
            (model, draw.component_figure(overall.filter(pl.col("model") == model), f"{measure}, {model}", unit))
            for model in _each_model(study)
            if overall.filter(pl.col("model") == model).height
        ]
        title = "Accuracy" if measure == "accuracy" else "Logarithm of perplexity"
        caption = (
            "Source: which text. Set: the luck of the draw within a source. Test examples: which questions were "
            "asked; it is "
            "the same for every trial and cancels when two of them are compared. The interactions do not cancel: other "
            "questions would favour other sources. Data-free methods are the control: source and set are exactly zero."
        )
        if variants:
            items.append(Figure(f"figure-components-{measure}", f"{title}: variance components", caption, variants))
        shown = (
            overall.drop("variance", "dropped_examples")
            if overall["dropped_examples"].sum() == 0
            else overall.drop("variance")
        )
        items.append(
            Table(
                f"table-components-{measure}",
                f"{title}: components of the mean, with 95 % intervals",
                f"SD in {unit} that each component adds to the score. The download holds every task.",
                table,
                f'from analysis.variance import component_table\ncomponent_table(study, "{measure}")',
                shown=readable(shown.drop("task")),
            )
        )
    repeats = repeat_table(study)
    if repeats.height:
        query = "from analysis.variance import repeat_table\nrepeat_table(study)"
        items.append(Table("table-repeats", "Repeat noise", "SD over trials that share every factor.", repeats, query))
    notes = [f"<b>{html.escape(n.subject)}.</b> {html.escape(n.text)}" for n in example_tables(study).limitations]
    return Section("components", "What is luck, and whose?", items=items, notes=notes)


def _best(study: Study) -> Section:
    """Which source is best, how sure, and does that carry over."""
    items: list[Figure | Table] = []
    for measure in tables.measures_of(study, ("accuracy", "perplexity_increase", "perplexity")):
        ranking = rank_table(study, measure)
        known = ranking.drop_nulls("p_best")
        name = MEASURES[measure].title
        variants = [
            (model, draw.best_figure(part, f"{name}, {model}", span(part["n"])))
            for model in _each_model(study)
            if (part := known.filter(pl.col("model") == model)).height
        ]
        if variants:
            caption = (
                "Point at a cell for the expected regret: what choosing this source costs on average against the best."
            )
            items.append(
                Figure(f"figure-best-{measure}", f"{name}: probability of being the best source", caption, variants)
            )
        items += _tables(
            study,
            measure,
            (
                "rank",
                "probability of being best and expected regret",
                "Over draws, for these test examples.",
                rank_table,
            ),
            (
                "pairs",
                "every pair of sources",
                f"Positive: A is better ({MEASURES[measure].better}). Holm within a model and method.",
                source_pairs,
            ),
            (
                "agreement",
                "do tasks and models agree on the order?",
                "Kendall's W: 1 is perfect agreement; p by permutation.",
                agreement_table,
            ),
        )
    return Section("best", "Which source is best, and how sure is that?", items=items)


def _methods(study: Study) -> Section:
    """Methods on the same calibration sets, flips, sensitivity against size."""
    items: list[Figure | Table] = []
    for measure in tables.measures_of(study, ("accuracy", "perplexity_increase", "perplexity")):
        items += _sensitivity(study, measure)
        items += _tables(
            study,
            measure,
            (
                "methods",
                "every pair of methods, paired by calibration set",
                "Reversed: share of sets on which the better method is the worse one. Intervals are for other sets of "
                "these sources; A wins: on one new set of a new source.",
                method_pairs,
            ),
            ("sensitivity", "SD over draws", "Pooled over sources, with its 95 % interval.", sensitivity_table),
            (
                "trend",
                "sensitivity per tenfold parameters",
                "Below 1: larger models feel the draw less.",
                trend_table,
            ),
        )
    items += _tables(
        study,
        None,
        (
            "flips",
            "Answers that compression flipped",
            "In % of the examples, mean over sets; accuracy shows only lost minus gained.",
            flip_table,
        ),
        (
            "mcnemar",
            "McNemar's test between methods",
            "On each calibration set that both saw; exact, two-sided.",
            mcnemar_table,
        ),
    )
    return Section("methods", "Does the calibration data decide which method wins?", items=items)


def _sensitivity(study: Study, measure: str) -> list[Figure]:
    """SD over draws against model size, where the study has several sizes."""
    spreads = sensitivity_table(study, measure)
    if spreads["parameters"].n_unique() < 2:
        return []
    info = MEASURES[measure]
    unit = "points" if info.unit == "%" else info.unit or "perplexity"
    chart = draw.sensitivity_figure(spreads, f"Sensitivity to the draw against model size, {info.title.lower()}", unit)
    caption = "Do larger models care less about which text they are calibrated on?"
    title = f"{info.title}: sensitivity and model size"
    return [Figure(f"figure-sensitivity-{measure}", title, caption, [("all models", chart)])]


def _tables(
    study: Study, measure: str | None, *kinds: tuple[str, str, str, Callable[..., pl.DataFrame]]
) -> Iterator[Table]:
    """The tables (stem, title, caption, function) of a measure that are not empty, each with its query."""
    for stem, title, caption, function in kinds:
        frame = function(study, measure) if measure else function(study)
        if frame.height:
            arguments = f'study, "{measure}"' if measure else "study"
            query = f"from {function.__module__} import {function.__name__}\n{function.__name__}({arguments})"
            name, heading = (f"{stem}-{measure}", f"{MEASURES[measure].title}: {title}") if measure else (stem, title)
            yield Table(f"table-{name}", heading, caption, frame, query, folded=True)


def _published(study: Study) -> Section:
    """Published numbers and claims beside this study."""
    claims, anchors = claim_table(study), anchor_table(study)
    items: list[Figure | Table] = []
    if anchors.height:
        caption = "Only trials that match the published setting. Inside: in the published interval, or within 2 %."
        query = "from analysis.published import anchor_table\nanchor_table(study)"
        items.append(Table("table-anchors", "Published numbers", caption, anchors, query))
    shown = claims.with_columns(
        pl.col("agrees")
        .replace_strict({True: "agrees", False: "does not agree"}, default="cannot tell")
        .alias("agrees")
    )
    query = "from analysis.published import claim_table\nclaim_table(study)"
    items.append(
        Table("table-claims", "Published claims", "What this study says about each.", claims, query, shown=shown)
    )
    text = [
        "[P]: the paper's own text or README. [S]: public notes on the paper. [U]: inferred, a qualitative target only."
        + (
            ""
            if anchors.height
            else " No trial of this study matches a published number, so claims alone are compared."
        ),
        html.escape(other_windows(study)),
    ]
    return Section("published", "Beside the published studies", [part for part in text if part], items)


def _relations(study: Study) -> Section:
    """Cheaper metrics against accuracy."""
    relation = tables.relation_table(study)
    correlations = correlation_table(study)
    items: list[Figure | Table] = []
    for metric in cheap_metrics(relation) if "accuracy" in relation.columns else []:
        variants: list[tuple[str, draw.Chart]] = []
        for model in _each_model(study):
            part = relation.filter(pl.col("model") == model).drop_nulls([metric, "accuracy"])
            if part.height > 2:
                variants.append(
                    (model, draw.relation_figure(part, metric, model, _agreement_note(correlations, model, metric)))
                )
        if variants:
            title = f"Accuracy against {MEASURES[metric].title[0].lower() + MEASURES[metric].title[1:]}"
            items.append(Figure(f"figure-relation-{metric}", title, "One mark per trial.", variants))
    if items:
        query = "from analysis.correlation import correlation_table\ncorrelation_table(study)"
        caption = "Rank correlation with mean accuracy; +1: the same order. 95 % intervals over calibration sets."
        items.append(Table("table-correlations", "Rank correlations", caption, correlations, query))
        query = "from analysis.tables import relation_table\nrelation_table(study)"
        items.append(
            Table("table-relation", "Metrics per trial", "Means over tasks or texts.", relation, query, folded=True)
        )
    return Section("relations", "Do cheap metrics predict the expensive one?", items=items)


def _agreement_note(correlations: pl.DataFrame, model: str, metric: str) -> str:
    """Spearman's correlation at the three levels, for a subtitle."""
    rows = correlations.filter((pl.col("model") == model) & (pl.col("metric") == metric)).drop_nulls()
    parts = [
        f"{r['level']} {r['spearman']:+.2f} ({r['spearman_low']:+.2f} to {r['spearman_high']:+.2f})"
        for r in rows.iter_rows(named=True)
    ]
    return f"Spearman, +1 is perfect: {'; '.join(parts)}." if parts else ""


def _layers(study: Study) -> Section:
    table = tables.layer_table(study)
    if table.is_empty():
        return Section("layers", "Layers")
    variants: list[tuple[str, draw.Chart]] = [
        (model, draw.layer_figure(table.filter(pl.col("model") == model), model))
        for model in _each_model(study)
        if table.filter(pl.col("model") == model).height
    ]
    caption = "‖(W−Ŵ)X‖² / ‖WX‖² on the calibration inputs; data-free methods: on the weights alone."
    query = "from analysis.tables import layer_table\nlayer_table(study)"
    items: list[Figure | Table] = [
        Figure("figure-layers", "Layer error profile", caption, variants),
        Table("table-layers", "Layer error by block", "Mean and SD over trials.", table, query, folded=True),
    ]
    return Section("layers", "Where in the model does the error arise?", items=items)


def _failures(study: Study) -> Section:
    if study.failed.is_empty():
        return Section("failures", "Failures")
    columns = ["model", "method_label", "source", "set", "phase", "attempts", "error", "trial_id"]
    query = f"study.failed.select({columns})"
    table = Table(
        "table-failures", "Failed trials", "None of them is in any number.", study.failed.select(columns), query
    )
    return Section("failures", "What failed", items=[table])


def _provenance(study: Study) -> Section:
    frame = provenance(study)
    query = "from analysis.report import provenance\nprovenance(study)"
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    text = [f"Written {now} from <code>{html.escape(study.results.root)}</code>."]
    table = Table(
        "table-provenance",
        "Provenance",
        "Distinct values over the trials, and how many trials have each.",
        frame,
        query,
    )
    return Section("provenance", "Where the numbers come from", text, [table])


def provenance(study: Study) -> pl.DataFrame:
    """(what, value, trials): versions, commits, devices, dtypes, models, dates and calibration sets."""
    rows: list[tuple[str, str, int]] = []
    said = ("model_id", "dtype", "device", "scorer", "commit", "seed")
    for column in (*said, "sampling", "separator", "add_bos", "calibration_seed"):
        counts = study.trials.drop_nulls(column).group_by(column).len().sort(column)
        rows += [(column, str(value), count) for value, count in counts.iter_rows()]
    for text, count in study.trials.drop_nulls("versions").group_by("versions").len().sort("versions").iter_rows():
        rows += [(f"version of {name}", str(version), count) for name, version in sorted(json.loads(text).items())]
    sets = study.trials["calibration_hash"].drop_nulls().n_unique()
    rows.append(("distinct calibration sets", str(sets), study.trials["calibration_hash"].drop_nulls().len()))
    started = study.trials["started"].drop_nulls()
    if len(started):
        rows.append(("first trial started", str(started.min()), 1))
        rows.append(("last trial started", str(started.max()), 1))
    frame = pl.DataFrame(rows, schema={"what": pl.String, "value": pl.String, "trials": pl.Int64}, orient="row")
    return frame.group_by("what", "value", maintain_order=True).agg(pl.col("trials").sum())


def _appendix(sections: list[Section], results: str) -> Section:
    """The query of every table; the rows of a single trial are one filter away."""
    found = [item for section in sections for item in section.items if isinstance(item, Table)]
    start = f'import polars as pl\nfrom analysis.frames import load\nstudy = load("{results}")'
    rows = (
        'study.main.filter(pl.col("measure") == "accuracy", pl.col("task") == "mean", pl.col("source") == "books")'
        '.select("trial_id", "model", "method_label", "set", "value")'
    )
    explained = (
        "Every number above is a cell of a table, and every table is the value of the last line of its query. "
        f"All queries start with</p><pre>{html.escape(start)}</pre><p>and the trials behind a mean are its filter, "
        f"for example</p><pre>{html.escape(rows)}</pre><p>"
    )
    text = [explained, "".join(query_block(table) for table in found)]
    return Section("appendix", "Appendix: the queries", text)


def main(
    results: Annotated[str, typer.Argument(help="results folder or URI of a study")],
    output: Annotated[str | None, typer.Option(help="HTML file; default: report.html in the results folder")] = None,
    figures: Annotated[
        str | None, typer.Option(help="folder for PNG and SVG; default: figures/ beside the page")
    ] = None,
) -> None:
    """Write the report of a study."""
    try:
        path, written = write_report(results, output, figures)
    except (ResultsError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    size = path.stat().st_size / 2**20
    typer.echo(
        f"report: {path} ({size:.1f} MiB); {len(written)} figure files{f' in {written[0].parent}' if written else ''}"
    )


if __name__ == "__main__":
    typer.run(main)

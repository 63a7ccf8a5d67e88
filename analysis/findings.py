"""The headline of a study in sentences, each with its numbers, its n and the table they stand in.

A sentence says what was found and how sure it is; where the study cannot tell, it says that instead. No sentence is
written for data that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from analysis.compare import domain_match
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.render import number
from analysis.tables import baseline_table, measures_of, range_table, source_table


@dataclass(frozen=True)
class Finding:
    """One sentence (plain text) and the id of the table that holds its numbers."""

    text: str
    table: str


def findings(study: Study) -> list[Finding]:
    """What the study says, most important first."""
    found = [*_matching(study), *_spread(study), *_controls(study)]
    if found:
        return found
    return [
        Finding(
            "The study holds no calibrated trials with a spread, so there is nothing to compare yet.", "table-trials"
        )
    ]


def _matching(study: Study) -> list[Finding]:
    """Does calibrating on the text's own domain help, and by how much?"""
    table = domain_match(study).drop_nulls("difference")
    if table.is_empty():
        return []
    clear = table.filter(pl.col("low") > 0).height
    against = table.filter(pl.col("high") < 0).height
    best = table.sort("difference", descending=True).row(0, named=True)
    text = (
        f"Calibrating on a text's own domain instead of another one lowers the perplexity increase in {clear} of "
        f"{table.height} model and method pairs with 95 % confidence"
        + (f" and raises it in {against}" if against else "")
        + f". It helps most with {best['method_label']} on {best['model']}: "
        f"+{best['matched']:.1f} % on the own domain, +{best['mismatched']:.1f} % on the others "
        f"({best['difference']:.1f} points less, 95 % interval {best['low']:.1f} to {best['high']:.1f}, "
        f"{best['texts']} texts, {best['trials']} trials)."
    )
    return [Finding(text, "table-domain-match")]


def _spread(study: Study) -> list[Finding]:
    """How far sources and draws move each measure, for the method that feels it most."""
    found = []
    for measure in measures_of(study):
        table = range_table(study, measure).drop_nulls(["range"]).filter(pl.col("n") > 1)
        if table.is_empty():
            continue
        info = MEASURES[measure]
        unit = {"%": " points", "": ""}.get(info.unit, f" {info.unit}")
        top = table.sort("range", descending=True).row(0, named=True)
        least = table.sort("range").row(0, named=True)
        within = "unknown" if top["sd_within"] is None else number(top["sd_within"], 2) + unit
        sources = (
            ""
            if top["sd_sources"] is None
            else f", the source means differ with an SD of {number(top['sd_sources'], 2)}{unit}"
        )
        text = (
            f"{info.title}: changing only the calibration data moves {top['method_label']} on {top['model']} by up to "
            f"{number(top['range'], 3)}{unit} ({top['n']} sets of {top['sources']} sources); two draws from one source differ with an "
            f"SD of {within}{sources}. "
            f"The least sensitive is {least['method_label']} on {least['model']} with a range of {number(least['range'], 3)}{unit}."
        )
        found.append(Finding(text, f"table-ranges-{measure}"))
    return found


def _controls(study: Study) -> list[Finding]:
    """Calibrated methods against their data-free neighbour: is the best or the worst source better than no data?"""
    names = measures_of(study)
    measure = next((name for name in ("perplexity_increase", "accuracy", "perplexity") if name in names), None)
    if measure is None:
        return []
    pairs = baselines(study)
    table = source_table(study, measure)
    plain = {(r["model"], r["method_label"]): r["value"] for r in baseline_table(study, measure).iter_rows(named=True)}
    sign = 1 if MEASURES[measure].higher_is_better else -1
    total = worse = 0
    for row in table.filter(pl.col("source").is_not_null()).iter_rows(named=True):
        control = plain.get((row["model"], pairs.get(row["method_label"], "")))
        if control is None or row["mean"] is None:
            continue
        total += 1
        worse += sign * (row["mean"] - control) < 0
    if not total:
        return []
    labels = sorted({label for label in pairs.values()})
    text = (
        f"Against the data-free control of the same size ({', '.join(labels)}; one trial per model, zero spread by "
        f"construction), calibration is worse in {worse} of {total} (model, method, source) cells on "
        f"{MEASURES[measure].title.lower()}."
    )
    return [Finding(text, f"table-source-{measure}")]


def baselines(study: Study) -> dict[str, str]:
    """The data-free method with the same bits, sparsity and pattern for each calibrated method that has one."""
    key = ["bits", "sparsity", "pattern"]
    kinds = study.trials.filter(pl.col("method") != "dense").select("method_label", *key, "source").unique()
    plain = kinds.filter(pl.col("source").is_null()).select(*key, pl.col("method_label").alias("control"))
    calibrated = kinds.filter(pl.col("source").is_not_null()).select("method_label", *key).unique()
    joined = calibrated.join(plain, on=key, nulls_equal=True).sort("method_label", "control")
    return dict(
        joined.unique("method_label", keep="first", maintain_order=True).select("method_label", "control").iter_rows()
    )


def mean_rows(study: Study, measure: str) -> pl.DataFrame:
    """The trials' means over tasks of one measure in the main condition, baselines included, dense left out."""
    chosen = pl.col("measure") == measure, pl.col("task") == MEAN, pl.col("method") != "dense"
    return study.main.filter(*chosen)

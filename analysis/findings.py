"""The headline of a study in sentences, each with its numbers, its n and the table they stand in.

A sentence says what was found and how sure it is; where the study cannot tell, it says that instead. No sentence is
written for data that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from analysis.compare import domain_match, method_pairs
from analysis.estimates.components import RESIDUAL, SET, SOURCE
from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.page.render import number
from analysis.tables import baseline_table, measures_of, range_table, source_table


@dataclass(frozen=True)
class Finding:
    """One sentence (plain text) and the id of the table that holds its numbers."""

    text: str
    table: str


def findings(evidence: Evidence) -> list[Finding]:
    """What the study says, most important first."""
    study = evidence.study
    found = [*_matching(study), *_spread(study), *_luck(evidence), *_best(evidence), *_reversals(evidence)]
    found += [*_proxies(evidence), *_controls(study)]
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
    sure = table.drop_nulls("low")
    best = (table if sure.is_empty() else sure).sort("difference", descending=True).row(0, named=True)
    interval = "no interval, because no source has two sets"
    verdict = f"was compared in {table.height} model and method pairs"
    if sure.height:
        clear, against = sure.filter(pl.col("low") > 0).height, sure.filter(pl.col("high") < 0).height
        interval = f"95 % interval {best['low']:.1f} to {best['high']:.1f}"
        verdict = (
            f"lowers the perplexity increase in {clear} of {table.height} model and method pairs with 95 % confidence"
        )
        verdict += f" and raises it in {against}" if against else ""
    text = (
        f"Calibrating on a text's own domain instead of another one {verdict}. It helps most with "
        f"{best['method_label']} on {best['model']}: "
        f"+{best['matched']:.1f} % on the own domain, +{best['mismatched']:.1f} % on the others "
        f"({best['difference']:.1f} points less, {interval}, {best['texts']} texts, {best['trials']} trials)."
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
            f"{number(top['range'], 3)}{unit} ({top['n']} sets of {top['sources']} sources); two draws from one source "
            f"differ with an SD of {within}{sources}. The least sensitive is {least['method_label']} on "
            f"{least['model']} with a range of {number(least['range'], 3)}{unit}."
        )
        found.append(Finding(text, f"table-ranges-{measure}"))
    return found


def _luck(evidence: Evidence) -> list[Finding]:
    """Source against draw against test, for the method that feels its calibration data most."""
    table = evidence.components()
    table = table.filter((pl.col("task") == MEAN) & pl.col("sd").is_not_null())
    wide = table.pivot(on="component", index=["model", "method_label"], values=["sd", "low", "high"])
    needed = [f"{kind}_{name}" for kind in ("sd", "low", "high") for name in (SOURCE, SET, RESIDUAL)]
    if wide.is_empty() or not set(needed) <= set(wide.columns):
        return []
    wide = wide.drop_nulls(needed)
    if wide.is_empty():
        return []
    top = wide.sort(f"sd_{SOURCE}", "model", "method_label", descending=[True, False, False]).row(0, named=True)

    def told(name: str) -> str:
        return f"{top[f'sd_{name}']:.2f} points ({top[f'low_{name}']:.2f} to {top[f'high_{name}']:.2f})"

    text = (
        f"Of the spread of mean accuracy with {top['method_label']} on {top['model']}, the source explains an SD of "
        f"{told(SOURCE)}, the draw within a source {told(SET)}, and chance on single test questions {told(RESIDUAL)}; "
        "95 % intervals in brackets."
    )
    return [Finding(text, "table-components-accuracy")]


def _best(evidence: Evidence) -> list[Finding]:
    """How often a best source can be named at all."""
    found = []
    for measure in measures_of(evidence.study, ("accuracy", "perplexity_increase", "perplexity")):
        ranking = evidence.ranks(measure).drop_nulls("p_best")
        if ranking.is_empty():
            continue
        winners = ranking.group_by("model", "method_label", maintain_order=True).first()
        sure = winners.filter(pl.col("p_best") > 0.95).height
        often = winners.group_by("source").len().sort("len", "source", descending=[True, False]).row(0)
        regret = ranking.filter(pl.col("source") == often[0])["regret"].to_list()
        unit = {"%": " points", "": ""}.get(MEASURES[measure].unit, f" {MEASURES[measure].unit}")
        text = (
            f"{MEASURES[measure].title}: one source is the best with more than 95 % probability in {sure} of "
            f"{winners.height} model and method pairs. {often[0]} leads most often ({often[1]} of {winners.height}); "
            f"choosing it everywhere costs {number(sum(regret) / len(regret), 2)}{unit} on average against the best "
            "choice for each."
        )
        found.append(Finding(text, f"table-rank-{measure}"))
    return found


def _reversals(evidence: Evidence) -> list[Finding]:
    """How often one set alone would have named the wrong method."""
    for measure in ("accuracy", "perplexity_increase"):
        table = method_pairs(evidence.study, measure, examples=evidence.examples)
        close = table.filter(pl.col("reversed") > 0).sort(
            "reversed", "model", "a", "b", descending=[True, False, False, False]
        )
        if close.is_empty():
            continue
        row = close.row(0, named=True)
        better, worse = (row["a"], row["b"]) if row["difference"] > 0 else (row["b"], row["a"])
        text = (
            f"Changing only the calibration set reverses which method is better in {close.height} of {table.height} "
            f"method pairs ({MEASURES[measure].title.lower()}): most for {better} over {worse} on {row['model']}, on "
            f"{100 * row['reversed']:.0f} % of {row['pairs']} sets (95 % interval {100 * row['reversed_low']:.0f} to "
            f"{100 * row['reversed_high']:.0f} % for other sets of the same sources)."
        )
        return [Finding(text, f"table-methods-{measure}")]
    return []


def _proxies(evidence: Evidence) -> list[Finding]:
    """Whether the cheap metrics find the better source."""
    table = evidence.correlations
    table = table.filter(pl.col("metric").is_in(["perplexity_increase", "perplexity", "js_divergence"]))
    table = table.drop_nulls("spearman")
    if table.is_empty():
        return []
    names = {"js_divergence": "JS divergence"}
    parts = []
    for (metric,), part in table.group_by("metric", maintain_order=True):
        levels = {level: rows["spearman"].to_list() for (level,), rows in part.group_by("level")}
        told = [
            f"{level} {min(levels[level]):+.2f} to {max(levels[level]):+.2f}"
            if len(levels[level]) > 1
            else f"{level} {levels[level][0]:+.2f}"
            for level in ("all trials", "between sources", "within sources")
            if level in levels
        ]
        parts.append(f"{names.get(str(metric), 'perplexity')}: {', '.join(told)}")
    models = table["model"].n_unique()
    text = (
        f"Do cheap metrics order trials as accuracy does? Spearman's correlation over {models} models (+1 is perfect). "
        f"{'; '.join(parts)}."
    )
    return [Finding(text, "table-correlations")]


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
    labels = sorted(set(pairs.values()))
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

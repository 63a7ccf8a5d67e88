"""The headline of a study in sentences, each with its numbers, its n and the table they stand in.

At most seven, the most useful first: what to use, which measure can tell, whether calibration text stands in the
evaluation, what went far off, what the domain of the text does, how large the luck of a draw is, whose luck it is,
whether a single set would have told the truth about methods, and what cheap metrics are good for. Of the measures of
tasks the one that can tell comes first, and what is said of any of them has its number of examples. A sentence has an
interval or a probability, and none is written where there is no honest one: a range, a rank or a count without a test
is for the tables; shared text alone is a count that needs none. No sentence is written for data that is not there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.cells import baseline_table, baselines, measures_of
from analysis.checks import true_minus
from analysis.compare import method_pairs
from analysis.estimates.components import RESIDUAL, SET, SOURCE
from analysis.estimates.equivalence import ANY, LEVEL, UNCLEAR, USE
from analysis.estimates.outcomes import COLUMN_OF
from analysis.estimates.reliability_rows import WANTED
from analysis.estimates.spreads import typical
from analysis.estimates.welch import contrast
from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES, TASK_MEASURES
from analysis.page.marks import span
from analysis.page.render import number, percent, percent_below
from analysis.ranking import sensitivity_table
from analysis.reliability import lead_table
from analysis.shared import most_shared, overlap_table

MOST = 7
TIMES = 1.1  # what sets that are far off must do to the spread to be worth a sentence
POOR = 0.5  # below it halves of the examples share less than half of what they say of the order


@dataclass(frozen=True)
class Finding:
    """One sentence (plain text) and the id of the table that holds its numbers."""

    text: str
    table: str


def findings(evidence: Evidence) -> list[Finding]:
    """What the study says, most useful first."""
    study = evidence.study
    answers = _answers(evidence)  # the measure that can tell first: what to use, and why that measure is asked
    found = [*answers[:1], *_telling(evidence), *_shared(evidence), *answers[1:], *_far_off(evidence)]
    found += _matching(evidence)
    found += [*_controls(study), *_draws(evidence)]
    found += [*_luck(evidence), *_reversals(evidence), *_proxies(evidence)]
    if found:
        return [Finding(true_minus(finding.text), finding.table) for finding in found[:MOST]]
    text = "The study holds no calibrated trials whose spread is known, so there is nothing to compare yet."
    return [Finding(text, "table-trials")]


def _shared(evidence: Evidence) -> list[Finding]:
    """Whether calibration sets hold text of the evaluation: a count, which needs no interval."""
    table = most_shared(overlap_table(evidence.study))
    if table.is_empty():
        return []
    row = table.row(0, named=True)
    more = f"; so do {table.height - 1} other pairs of a source and something evaluated" if table.height > 1 else ""
    text = (
        f"Calibration text stands in the evaluation: {row['sets_shared']} of {row['sets']} sets of {row['source']} "
        f"share {row['n']} {row['unit']} in a row with {row['name']}, up to {row['texts_shared']:,} of its "
        f"{row['texts']:,} texts{more}. `exclude_overlap: true` leaves such documents out."
    )
    return [Finding(text, "table-overlap")]


def _telling(evidence: Evidence) -> list[Finding]:
    """Which measure of tasks orders the sources alike on other examples, and what accuracy would need for that."""
    table = lead_table(evidence.examples.reliability)
    if table.is_empty():
        return []
    first = table.row(0, named=True)
    verdict = "tells the sources apart best of all measures of tasks"
    if first["reliability"] < POOR:
        verdict = "comes closest to telling the sources apart, and no measure of tasks can on these examples"
    text = (
        f"{MEASURES[first['measure']].title} {verdict}: two halves of the {first['examples']:,} examples order them "
        f"with a reliability of {_reliability(first)}"
    )
    rest = table.filter(pl.col("measure") == "accuracy")
    if first["measure"] != "accuracy" and rest.height:
        row = rest.row(0, named=True)
        needed = "no number of examples can be named for it to reach"
        if row["needed"] is not None:
            about = round(row["needed"], 1 - math.floor(math.log10(max(row["needed"], 1))))  # two digits are known
            needed = f"it would need about {about:,.0f} examples per trial for"
        text += f"; accuracy (n = {row['examples']:,}) has {_reliability(row)}, and {needed} {WANTED:g}"
    return [Finding(f"{text}.", "table-lead")]


def _reliability(row: dict[str, Any]) -> str:
    """`0.87 (0.67 to 0.92 over 6 pairs of model and method)`."""
    over = f" ({row['lowest']:.2f} to {row['highest']:.2f} over {row['pairs']} pairs of model and method)"
    return f"{row['reliability']:.2f}{over if row['pairs'] > 1 else ''}"


def _title(study: Study, measure: str) -> str:
    """The title of a measure; one of tasks with its examples per trial."""
    title = MEASURES[measure].title
    if measure.removesuffix("_change") not in TASK_MEASURES:
        return title
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == MEAN).drop_nulls("n")
    return f"{title} (n = {span(rows['n'])} examples)" if rows.height else title


def _answers(evidence: Evidence) -> list[Finding]:
    """For how many models and methods it can be said which source to use; the most certain one by name."""
    found = []
    for measure in measures_of(evidence.study, evidence.answered):
        table = evidence.answers(measure).drop_nulls("probability")
        if table.is_empty():
            continue
        count = {kind: table.filter(pl.col("answer") == kind).height for kind in (USE, ANY, UNCLEAR)}
        clear = table.filter(pl.col("answer") != UNCLEAR)
        named = clear if clear.height else table
        row = named.sort("probability", "model", "method_label", descending=[True, False, False]).row(0, named=True)
        first = "surest" if clear.height else "closest"
        verb = {USE: "use", ANY: "any of", UNCLEAR: "perhaps"}[row["answer"]]
        chance = percent(row["probability"]) if clear.height else percent_below(row["probability"], LEVEL)
        text = (
            f"{_title(evidence.study, measure)}: for {count[USE]} of {table.height} pairs of model and method one "
            f"source can be named, for {count[ANY]} any of several will do, and for {count[UNCLEAR]} it cannot be "
            f"told yet; {first} is {row['method_label']} on {row['model']}: {verb} {row['sources']}, within "
            f"{number(row['matters'], 2)}{_unit(measure)} of the best source with a probability of "
            f"{chance} ({row['about']})."
        )
        found.append(Finding(text, f"table-answers-{measure}"))
    return found


def _middle(table: pl.DataFrame, column: str) -> dict[str, Any]:
    """The row in the middle of a column: an extreme one is extreme partly by luck, and its interval too narrow."""
    names = [name for name in ("model", "method_label", "a", "b", "metric", "level") if name in table.columns]
    return table.sort(column, *names).row((table.height - 1) // 2, named=True)


def _middle_of(table: pl.DataFrame) -> str:
    """`, the middle of 8 pairs of model and method`; nothing for a single one."""
    return f", in the middle of {table.height} pairs of model and method" if table.height > 1 else ""


def _unit(measure: str) -> str:
    return {"%": " points", "": ""}.get(MEASURES[measure].unit, f" {MEASURES[measure].unit}")


def _far_off(evidence: Evidence) -> list[Finding]:
    """Sets that no spread of the others explains, and what they do to the spread."""
    found = []
    study = evidence.study
    for measure in measures_of(study, evidence.answered):
        table = sensitivity_table(study, measure)
        table = table.filter(pl.col("note").str.contains("far off")).with_columns(
            (pl.col("sd_within") / pl.col("sd_typical")).alias("times")
        )
        table = table.filter(pl.col("times") > TIMES)
        if table.is_empty():
            continue
        row = table.sort("times", "model", "method_label", descending=[True, False, False]).row(0, named=True)
        others = table.height - 1
        pairs = "pairs" if others > 1 else "pair"
        more = f" The same happened in {others} other {pairs} of model and method." if others else ""
        text = (
            f"{_title(study, measure)}, {row['method_label']} on {row['model']}: {row['note']}; with all sets one "
            f"draw has an SD of {number(row['sd_within'], 2)}{_unit(measure)}, without them of "
            f"{number(row['sd_typical'], 2)}{_unit(measure)}, so means of this method are not typical of a draw.{more}"
        )
        found.append(Finding(text, f"table-sensitivity-{measure}"))
    return found[:1]


def _matching(evidence: Evidence) -> list[Finding]:
    """Does calibrating on the text's own domain help, and by how much?"""
    table = evidence.match.drop_nulls("low")
    if table.is_empty():
        return []
    texts = table.drop_nulls("low_new_text").height == table.height
    low, high = ("low_new_text", "high_new_text") if texts else ("low", "high")
    clear, against = table.filter(pl.col(low) > 0).height, table.filter(pl.col(high) < 0).height
    best = _middle(table, "difference")
    verdict = f"lowers the perplexity increase in {clear} of {table.height} model and method pairs with 95 % confidence"
    verdict += f" and raises it in {against}" if against else ""
    about = "" if texts else " on these windows"
    less, bounds = ("less", (best[low], best[high])) if best["difference"] >= 0 else ("more", (-best[high], -best[low]))
    text = (
        f"Calibrating on a text's own domain instead of another one {verdict}{about}; {best['method_label']} on "
        f"{best['model']}{_middle_of(table)}: {best['matched']:+.1f} % on the own domain, "
        f"{best['mismatched']:+.1f} % on the others, {abs(best['difference']):.1f} points {less} (95 % interval "
        f"{bounds[0]:.1f} to {bounds[1]:.1f}, {best['texts']} texts, {best['trials']} trials)."
    )
    return [Finding(text, "table-domain-match")]


def _controls(study: Study) -> list[Finding]:
    """Calibrated methods against their data-free neighbour: what a typical set brings, the mean over sources."""
    measure = next(
        (name for name in ("perplexity_increase", "accuracy", "perplexity") if name in measures_of(study)), None
    )
    if measure is None:
        return []
    pairs = baselines(study)
    plain = {(r["model"], r["method_label"]): r["value"] for r in baseline_table(study, measure).iter_rows(named=True)}
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == MEAN).drop_nulls("value")
    gains = []
    for (model, label), part in rows.sort("source", "set").group_by("model", "method_label", maintain_order=True):
        control = plain.get((model, pairs.get(str(label), "")))
        if control is None:
            continue
        sign = 1 if MEASURES[measure].higher_is_better else -1
        groups = [sign * (p["value"].to_numpy() - control) for _, p in part.group_by("source", maintain_order=True)]
        gain = contrast(groups, [1 / len(groups)] * len(groups))
        if gain.low is not None and not any(typical(groups)[1]):
            named = {"model": model, "method_label": label, "control": pairs[str(label)]}
            gains.append({**named, "gain": gain.value, "low": gain.low, "high": gain.high, "sets": part.height})
    if not gains:
        return []
    table = pl.DataFrame(gains)
    row = _middle(table, "gain")
    better, low, high = "better", row["low"], row["high"]
    if row["gain"] < 0:
        better, low, high = "worse", -row["high"], -row["low"]
    clear, against = table.filter(pl.col("low") > 0).height, table.filter(pl.col("high") < 0).height
    among = f"{_middle_of(table)}," if table.height > 1 else ""
    text = (
        f"{_title(study, measure)} of {row['method_label']} on {row['model']}{among} is "
        f"{number(abs(row['gain']), 3)}{_unit(measure)} {better} than that of the data-free {row['control']} (95 % "
        f"interval over {row['sets']} sets {number(low, 3)} to {number(high, 3)}, on these test examples)"
    )
    if table.height > 1:
        text += f"; it is clearly better than no data in {clear} of {table.height} pairs, clearly worse in {against}"
    return [Finding(f"{text}.", f"table-source-{measure}")]


def _draws(evidence: Evidence) -> list[Finding]:
    """How large the luck of a draw is."""
    found = []
    study = evidence.study
    for measure in measures_of(study, evidence.answered):
        table = sensitivity_table(study, measure).drop_nulls("low")
        if table.is_empty():
            continue
        row = _middle(table, "sd_within")
        text = (
            f"{_title(study, measure)}: one draw of a source has an SD of "
            f"{number(row['sd_within'], 2)}{_unit(measure)} (95 % interval {number(row['low'], 2)} to "
            f"{number(row['high'], 2)}) with {row['method_label']} on {row['model']} "
            f"({row['n']} sets of {row['sources']} source{'s' if row['sources'] > 1 else ''}{_middle_of(table)})."
        )
        found.append(Finding(text, f"table-sensitivity-{measure}"))
    return found


def _luck(evidence: Evidence) -> list[Finding]:
    """Source against draw against test."""
    lead = evidence.lead if evidence.lead in COLUMN_OF else "accuracy"
    table = evidence.components(lead)
    table = table.filter((pl.col("task") == MEAN) & pl.col("sd").is_not_null())
    wide = table.pivot(on="component", index=["model", "method_label"], values=["sd", "low", "high"])
    needed = [f"{kind}_{name}" for kind in ("sd", "low", "high") for name in (SOURCE, SET, RESIDUAL)]
    if wide.is_empty() or not set(needed) <= set(wide.columns):
        return []
    wide = wide.drop_nulls(needed).filter(pl.col(f"high_{SET}") > 0)
    if wide.is_empty():
        return []
    top = _middle(wide, f"sd_{SOURCE}")
    place = _middle_of(wide)
    among = f"{place}," if place else ""

    def told(name: str) -> str:
        low, high = (number(top[f"{kind}_{name}"], 2) for kind in ("low", "high"))
        return f"{number(top[f'sd_{name}'], 2)}{_unit(lead)} ({low} to {high})"

    text = (
        f"{_title(evidence.study, lead)} with {top['method_label']} on {top['model']}{among} has an SD "
        f"over sources of {told(SOURCE)}, over draws within a source of {told(SET)}, and from chance on single "
        f"test questions of {told(RESIDUAL)}; 95 % intervals in brackets."
    )
    return [Finding(text, f"table-components-{lead}")]


def _reversals(evidence: Evidence) -> list[Finding]:
    """How often one set alone would have named the worse of two methods that do differ."""
    for measure in evidence.answered[:-1]:
        table = method_pairs(evidence.study, measure, examples=evidence.examples)
        sure = table.filter((pl.col("p_holm") < 0.05) & (pl.col("pairs") > 1))
        close = sure.filter(pl.col("reversed") > 0)
        if close.is_empty():
            continue
        row = _middle(close, "reversed")
        better, worse = (row["a"], row["b"]) if row["difference"] > 0 else (row["b"], row["a"])
        text = (
            f"{_title(evidence.study, measure)}: a single calibration set can name the worse method: {better} is "
            f"better than {worse} on {row['model']} ({_p(row['p_holm'])}, Holm), and {100 * row['reversed']:.0f} % of "
            f"{row['pairs']} sets say the opposite (95 % interval {100 * row['reversed_low']:.0f} to "
            f"{100 * row['reversed_high']:.0f} % for other sets of these sources); so do some sets in {close.height} "
            f"of {sure.height} pairs of methods that differ."
        )
        return [Finding(text, f"table-methods-{measure}")]
    return []


def _p(value: float) -> str:
    """`p = 0.012`, `p < 0.001`; never zero."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _proxies(evidence: Evidence) -> list[Finding]:
    """Whether the cheap metrics find the better source, where that has an interval."""
    table = evidence.correlations.filter(
        pl.col("metric").is_in(["perplexity_increase", "perplexity", "js_divergence"])
        & (pl.col("level") != "all trials")
    ).drop_nulls("spearman_low")
    if table.is_empty():
        return []
    accuracy = _title(evidence.study, "accuracy")
    clear = table.filter(pl.col("spearman_low") > 0).height
    against = table.filter(pl.col("spearman_high") < 0).height
    best = _middle(table, "spearman")
    text = (
        f"Cheap metrics order calibration data as {accuracy[0].lower()}{accuracy[1:]} does in {clear} of "
        f"{table.height} comparisons within or between sources (95 % interval of Spearman's correlation above zero; "
        f"below zero in {against}); in the middle is {MEASURES[best['metric']].title}, {best['level']} of "
        f"{best['model']}: {best['spearman']:+.2f} ({best['spearman_low']:+.2f} to {best['spearman_high']:+.2f}, "
        f"{best['n']} points)."
    )
    return [Finding(text, "table-correlations")]


def mean_rows(study: Study, measure: str) -> pl.DataFrame:
    """The trials' means over tasks of one measure in the main condition, baselines included, dense left out."""
    chosen = pl.col("measure") == measure, pl.col("task") == MEAN, pl.col("method") != "dense"
    return study.main.filter(*chosen)

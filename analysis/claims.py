"""What the published studies claim, an order or a direction, held against this study by a test.

Each claim is asked wherever the study can ask it (a model, a method, a source), with a p value or an interval over
calibration sets. `agrees` needs one clear case at least and none clear against it; `does not agree` the opposite; where
no case is clear, or some say yes and others no, this study cannot tell. A count without a test is no answer: among
equal sources half of all cells agree with any claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl
from scipy import stats

from analysis.cells import baseline_table, source_table
from analysis.compare import holm, source_pairs
from analysis.estimates.welch import contrast
from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.measures import MEAN
from analysis.ranking import sensitivity_table

PAPER_A = "Williams & Aletras 2024 (arXiv 2311.09755)"
PAPER_B = "Khanal & Capone 2024 (arXiv 2409.11233)"
AWQ_PAPER = "AWQ paper (arXiv 2306.00978)"
LEVEL = 0.05


@dataclass(frozen=True)
class Claim:
    """A published order or direction, and the function that holds this study against it."""

    text: str
    mark: str
    where: str
    verdict: Callable[[Evidence], tuple[str, bool | None]]


def claim_table(study: Study, *, evidence: Evidence | None = None) -> pl.DataFrame:
    """Published claims and what this study says: `agrees` is null where it cannot tell."""
    evidence = evidence or Evidence(study)
    rows = [(c.text, f"[{c.mark}]", c.where, *c.verdict(evidence)) for c in CLAIMS]
    schema = {"claim": pl.String, "mark": pl.String, "where": pl.String, "here": pl.String, "agrees": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass(frozen=True)
class _Case:
    """One place where a claim can be asked: whether the estimate agrees, and the p value of no difference."""

    agrees: bool
    p: float


def judge(cases: Sequence[_Case]) -> tuple[int, int, bool | None]:
    """(cases that are clear, cases that are clear against it, the verdict), p values corrected by Holm."""
    clear = [case.agrees for case, p in zip(cases, holm([case.p for case in cases]), strict=True) if p < LEVEL]
    return _verdict(clear.count(True), clear.count(False))


def _verdict(clear: int, against: int) -> tuple[int, int, bool | None]:
    return clear, against, None if bool(clear) == bool(against) else clear > 0


def _told(what: str, cases: Sequence[_Case], unit: str) -> tuple[str, bool | None]:
    """`refinedweb better than wikipedia: clear in 2 of 6 rows, clearly the opposite in 0 (p below .05, Holm)`."""
    clear, against, agrees = judge(cases)
    counts = f"clear in {clear} of {len(cases)} {unit}, clearly the opposite in {against}"
    return f"{what}: {counts} (p below .05 over calibration sets, Holm)", agrees


def _order_of_methods(evidence: Evidence) -> tuple[str, bool | None]:
    """F tests of neighbours in the order; methods share their sets, which makes the test the more careful."""
    order = ["sparsegpt", "wanda", "gptq", "spqr"]
    names = evidence.study.trials.select("method", "method_label").unique()
    table = sensitivity_table(evidence.study).drop_nulls("low").join(names, on="method_label")
    rows = table.sort("model", "method_label").rows(named=True)
    cases = []
    for place, more in enumerate(order):
        for less in order[place + 1 :]:
            pairs = [(a, b) for a in rows for b in rows if (a["method"], b["method"]) == (more, less)]
            for a, b in pairs:
                if a["model"] == b["model"]:
                    ratio = (a["sd_within"] / b["sd_within"]) ** 2
                    f = stats.f(a["freedom"], b["freedom"])
                    cases.append(_Case(ratio > 1, float(min(1.0, 2 * min(f.sf(ratio), f.cdf(ratio))))))
    if not cases:
        return "needs accuracy of two of these methods over several sets, none of them far off", None
    return _told("the SD of a draw of mean accuracy follows the order", cases, "pairs of methods and models")


def _magnitude_worst(evidence: Evidence) -> tuple[str, bool | None]:
    """A trial without calibration has no spread over sets: each source's mean against a fixed value."""
    cases = []
    for measure in ("js_divergence", "perplexity_increase"):
        plain = baseline_table(evidence.study, measure).filter(pl.col("method") == "magnitude")
        kinds = evidence.study.trials.select("method_label", "sparsity", "pattern").unique()
        pruned = source_table(evidence.study, measure).filter(pl.col("method").is_in(["sparsegpt", "wanda"]))
        pairs = plain.join(kinds, on="method_label").join(
            pruned.join(kinds, on="method_label"),
            on=["model", "sparsity", "pattern"],
            nulls_equal=True,
            suffix="_pruned",
        )
        for row in pairs.drop_nulls(["value", "low"]).iter_rows(named=True):
            t = (row["value"] - row["mean"]) / (row["sd"] / row["n_pruned"] ** 0.5)
            cases.append(_Case(t > 0, float(2 * stats.t.sf(abs(t), row["n_pruned"] - 1))))
    if not cases:
        return "needs magnitude beside Wanda or SparseGPT with two sets of a source", None
    return _told("magnitude worse, on these test examples", cases, "cells of two measures")


def _domain_helps(evidence: Evidence) -> tuple[str, bool | None]:
    """Intervals for other texts where windows tell them, for these windows otherwise."""
    table = evidence.match.drop_nulls("low")
    if table.is_empty():
        return "needs held-out text of a source's own domain and two sets", None
    texts = table["low_new_text"].null_count() == 0
    low, high = ("low_new_text", "high_new_text") if texts else ("low", "high")
    clear, against = table.filter(pl.col(low) > 0).height, table.filter(pl.col(high) < 0).height
    about = "" if texts else ", on these windows"
    text = (
        f"own domain better: 95 % interval above zero in {clear} of {table.height} (model, method) pairs, below in "
        f"{against}{about}"
    )
    return text, _verdict(clear, against)[2]


def _source_order(evidence: Evidence) -> tuple[str, bool | None]:
    """Welch's test of the two sources."""
    labels = evidence.study.trials.filter(pl.col("method") == "sparsegpt")["method_label"].unique().to_list()
    table = source_pairs(evidence.study, examples=evidence.examples).filter(
        pl.col("method_label").is_in(labels) & (pl.col("a") == "refinedweb") & (pl.col("b") == "wikipedia")
    )
    cases = [_Case(row["difference"] > 0, row["p"]) for row in table.drop_nulls("p").iter_rows(named=True)]
    if not cases:
        return "needs SparseGPT calibrated on refinedweb and on wikipedia, with two sets of each", None
    return _told("refinedweb above wikipedia", cases, "rows")


def _more_windows(evidence: Evidence) -> tuple[str, bool | None]:
    """The smallest and the largest size of the same set, which may hold the same windows: paired by set."""
    chosen = pl.col("measure") == "perplexity", pl.col("task") == MEAN, pl.col("method") == "sparsegpt"
    rows = evidence.study.values.filter(*chosen, pl.col("source").is_not_null()).drop_nulls(["value", "nsamples"])
    cell = ["model", "method_label", "source", "seqlen", "set"]
    sizes = rows.group_by(*cell, "nsamples").agg(pl.col("value").mean()).sort(*cell, "nsamples")
    pairs = sizes.group_by(cell, maintain_order=True).agg(
        pl.len().alias("sizes"), (pl.col("value").first() - pl.col("value").last()).alias("gain")
    )
    cases = []
    for _, part in pairs.filter(pl.col("sizes") > 1).group_by("model", "method_label", "seqlen", maintain_order=True):
        groups = [group["gain"].to_numpy() for _, group in part.group_by("source", maintain_order=True)]
        found = contrast(groups, [1 / len(groups)] * len(groups))
        if found.p is not None:
            cases.append(_Case(found.value > 0, found.p))
    if not cases:
        return "needs SparseGPT with two sizes of calibration set and two sets of a source", None
    return _told("perplexity lower with the largest size of a set than with the smallest", cases, "models and methods")


def _divergence_predicts(evidence: Evidence) -> tuple[str, bool | None]:
    """Intervals that do not overlap: careful, because both correlations are with the same accuracies."""
    table = evidence.correlations.filter(
        (pl.col("level") != "all trials") & pl.col("metric").is_in(["js_divergence", "perplexity_increase"])
    ).drop_nulls("spearman_low")
    wide = table.pivot(on="metric", index=["model", "level"], values=["spearman_low", "spearman_high"])
    if not {"spearman_low_js_divergence", "spearman_low_perplexity_increase"} <= set(wide.columns):
        return "needs accuracy, perplexity and divergence of several sets, enough for an interval", None
    wide = wide.drop_nulls()
    if wide.is_empty():
        return "needs accuracy, perplexity and divergence of several sets, enough for an interval", None
    clear = wide.filter(pl.col("spearman_low_js_divergence") > pl.col("spearman_high_perplexity_increase")).height
    against = wide.filter(pl.col("spearman_high_js_divergence") < pl.col("spearman_low_perplexity_increase")).height
    text = (
        f"divergence ranks closer to accuracy than perplexity does: clear in {clear} of {wide.height} comparisons "
        f"within or between sources, clearly the opposite in {against} (95 % intervals that do not overlap)"
    )
    return text, _verdict(clear, against)[2]


CLAIMS = (
    Claim("Sensitivity to calibration data: SparseGPT > Wanda > GPTQ > SpQR", "S", PAPER_A, _order_of_methods),
    Claim("With SparseGPT, RefinedWeb is better than Wikipedia", "S", PAPER_A, _source_order),
    Claim("More calibration windows lower SparseGPT's perplexity", "S", PAPER_A, _more_windows),
    Claim(
        "Magnitude pruning is clearly worse than Wanda and SparseGPT on divergence and perplexity",
        "U",
        PAPER_B,
        _magnitude_worst,
    ),
    Claim("Divergence is a better guide to task accuracy than perplexity", "P", PAPER_B, _divergence_predicts),
    Claim("Calibrating on another domain costs perplexity", "S", AWQ_PAPER, _domain_helps),
)

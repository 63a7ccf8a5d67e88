"""Is A better than B, by how much, and how sure is that?

Three questions, three pairings. Two sources are compared over their draws (the sets of different sources have nothing
in common but the test). Two methods are compared on the very same calibration sets, so they are paired by set. Two
models' answers are compared example by example (flips, McNemar). Every difference is signed so that positive means A
is better.

The hard case is what "sure" refers to. A difference can be certain for these test questions and still be luck of the
questions, so intervals and probabilities are given for new draws on the same test, and for new draws on a new test. And
a difference can be certain for these sources and still be luck of the sources: what is said about a new source rests on
as many independent values as there are sources, however many sets each of them has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy import stats

from analysis.estimates.comparisons import holm, paired, welch
from analysis.estimates.components import SOURCE_EXAMPLE
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.estimates.outcomes import COLUMN_OF
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.variance import component_table


def domain_match(study: Study, measure: str = "perplexity_increase") -> pl.DataFrame:
    """Per (model, method): the measure on a source's own domain and on the same texts under the other sources.

    `difference` is mismatched minus matched, averaged over the texts that have a source of their own domain; its 95 %
    t-interval is over calibration sets, the texts being fixed. Each trial enters with one contrast over its texts, so
    that the correlation between the texts of a trial is accounted for.
    """
    rows = study.calibrated.filter((pl.col("measure") == measure) & (pl.col("task") != MEAN)).drop_nulls("value")
    rows = rows.filter(pl.col("task").is_in(rows["source"].unique().to_list()))
    parts = []
    for (model, parameters, label), part in rows.group_by("model", "parameters", "method_label", maintain_order=True):
        found = _match_contrast(part)
        if found is not None:
            parts.append({"model": model, "parameters": parameters, "method_label": label, **found})
    schema = {
        "model": pl.String,
        "parameters": pl.Int64,
        "method_label": pl.String,
        "texts": pl.Int64,
        "trials": pl.Int64,
        **dict.fromkeys(["matched", "mismatched", "difference", "low", "high"], pl.Float64),
    }
    return pl.DataFrame(parts, schema=schema).sort("parameters", "model", "method_label")


def _match_contrast(part: pl.DataFrame) -> dict[str, float | int | None] | None:
    """The contrast of one model and method; None when fewer than two sources have a text of their own."""
    wide = part.pivot(on="task", index=["source", "set"], values="value", sort_columns=True).sort("source", "set")
    texts = [name for name in wide.columns if name not in ("source", "set")]
    wide = wide.drop_nulls(texts)
    sources = wide["source"].unique().sort().to_list()
    texts = [text for text in texts if text in sources]
    if len(sources) < 2 or not texts:
        return None
    owner, matrix = wide["source"].to_numpy(), wide.select(texts).to_numpy()
    others = np.array([[0.0 if s == t else 1 / (len(sources) - 1) for t in texts] for s in sources])
    own = np.array([[1.0 if s == t else 0.0 for t in texts] for s in sources])
    matched = mismatched = variance = squares = 0.0
    freedom = 0
    counts = []
    for index, source in enumerate(sources):
        values = matrix[owner == source]  # (sets, texts)
        mean = values.mean(axis=0)
        matched += float(own[index] @ mean) / len(texts)
        mismatched += float(others[index] @ mean) / len(texts)
        scores = values @ (others[index] - own[index]) / len(texts)
        squares += float(((scores - scores.mean()) ** 2).sum())
        freedom += len(scores) - 1
        counts.append(len(scores))
    low = high = None
    if freedom:
        variance = squares / freedom * sum(1 / count for count in counts)
        half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
        low, high = mismatched - matched - half, mismatched - matched + half
    return {
        "texts": len(texts),
        "trials": len(owner),
        "matched": matched,
        "mismatched": mismatched,
        "difference": mismatched - matched,
        "low": low,
        "high": high,
    }


SOURCE_PAIR_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "task": pl.String,
    "a": pl.String,
    "b": pl.String,
    **dict.fromkeys(["n_a", "n_b"], pl.Int64),
    **dict.fromkeys(
        [
            "difference",
            "low",
            "high",
            "low_new_test",
            "high_new_test",
            "p",
            "p_holm",
            "a_wins_new_draw",
            "a_wins_new_test",
        ],
        pl.Float64,
    ),
}
METHOD_PAIR_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "task": pl.String,
    "a": pl.String,
    "b": pl.String,
    **dict.fromkeys(["pairs", "sources"], pl.Int64),
    **dict.fromkeys(
        [
            "difference",
            "low",
            "high",
            "p",
            "p_holm",
            "a_wins_new_draw",
            "a_wins_new_test",
            "reversed",
            "reversed_low",
            "reversed_high",
        ],
        pl.Float64,
    ),
}


def source_pairs(
    study: Study, measure: str = "accuracy", task: str = MEAN, *, examples: ExampleTables | None = None
) -> pl.DataFrame:
    """Every pair of sources of a (model, method): is A better than B?

    `difference` is the advantage of A in the measure's unit, positive where A is better. `low`, `high`: 95 % Welch
    interval over draws, for these test examples. `low_new_test`, `high_new_test`: also over test examples, paired,
    where samples/ tell the source-by-example component. `p` is Welch's test, `p_holm` corrected within a (model,
    method). `a_wins_new_draw`: probability that one new set of A beats one new set of B; `a_wins_new_test`: on new
    examples too.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    crossed = _source_by_example(study, measure, task, examples)
    found: list[dict[str, object]] = []
    for (model, parameters, label), part in rows.group_by("model", "parameters", "method_label", maintain_order=True):
        cells = {str(s): sign * p["value"].to_numpy() for (s,), p in part.group_by("source", maintain_order=True)}
        context = {"model": model, "parameters": parameters, "method_label": label, "task": task}
        names = sorted(cells)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        test_variance = crossed.get((str(model), str(label)))
        family = [({**context, "a": a, "b": b}, welch(cells[a], cells[b], test_variance)) for a, b in pairs]
        found += _with_holm(family)
    return pl.DataFrame(found, SOURCE_PAIR_SCHEMA).sort("parameters", "model", "method_label", "a", "b")


def _source_by_example(
    study: Study, measure: str, task: str, examples: ExampleTables | None
) -> dict[tuple[str, str], float]:
    """(model, method) -> variance that the choice of test examples adds to the difference of two sources, halved."""
    if measure not in COLUMN_OF or measure == "perplexity":
        return {}
    table = component_table(study, measure, examples=examples).filter(
        (pl.col("task") == task) & (pl.col("component") == SOURCE_EXAMPLE) & pl.col("variance").is_not_null()
    )
    return {(r["model"], r["method_label"]): max(r["variance"], 0.0) for r in table.iter_rows(named=True)}


def method_pairs(
    study: Study, measure: str = "accuracy", task: str = MEAN, *, examples: ExampleTables | None = None
) -> pl.DataFrame:
    """Every pair of methods of a model on the calibration sets that both saw: paired by set.

    `difference` is the advantage of A, positive where A is better, averaged over sources with equal weight; interval
    and `p` are over draws within these sources, corrected by Holm within a model. `a_wins_new_draw` is the probability
    that A is better on one new set of a new source, null where the pair has a single source
    (`analysis.estimates.comparisons.new_source_wins`); `a_wins_new_test` is for new test examples as well (of accuracy
    alone, where samples/ hold them). `reversed` is the share of sets on which the method that is better on average is
    the worse one: how often a study with a single set of one of these sources would have told the opposite. Its Wilson
    interval is for other sets of these sources.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    tested: dict[tuple[object, str, str], float] = {}
    if measure == "accuracy":
        table = (examples or read_examples(study)).method_tests.filter(pl.col("task") == task).drop_nulls("variance")
        tested = {(r["model"], r["a"], r["b"]): r["variance"] for r in table.iter_rows(named=True)}
    found: list[dict[str, object]] = []
    for (model, parameters), part in rows.group_by("model", "parameters", maintain_order=True):
        labels = part["method_label"].unique().sort().to_list()
        family: list[tuple[dict[str, object], dict[str, float | None]]] = []
        for index, a in enumerate(labels):
            for b in labels[index + 1 :]:
                both = part.filter(pl.col("method_label") == a).join(
                    part.filter(pl.col("method_label") == b), on=["source", "set"], suffix="_b"
                )
                if both.is_empty():
                    continue
                both = both.sort("source", "set")
                gap = sign * (both["value"] - both["value_b"]).to_numpy()
                context: dict[str, object] = {"model": model, "parameters": parameters, "task": task, "a": a, "b": b}
                family.append((context, paired(gap, both["source"].to_list(), tested.get((model, a, b)))))
        found += _with_holm(family)
    return pl.DataFrame(found, METHOD_PAIR_SCHEMA).sort("parameters", "model", "a", "b")


def _with_holm(family: Sequence[tuple[dict[str, object], Mapping[str, float | None]]]) -> list[dict[str, object]]:
    """A row for each (context, comparison) of one family, with `p_holm` where it has a p value."""
    corrected = iter(holm([p for _, row in family if (p := row.get("p")) is not None]))
    return [{**context, **row, "p_holm": None if row.get("p") is None else next(corrected)} for context, row in family]


def flip_table(study: Study, *, examples: ExampleTables | None = None) -> pl.DataFrame:
    """Answers that compression changed, in % of the examples of all tasks, mean over sets per (model, method, source).

    `lost`: right before, wrong now; `gained`: wrong before, right now; `flipped`: both, with its SD over sets. Accuracy
    shows only lost minus gained.
    """
    return (examples or read_examples(study)).flips


def mcnemar_table(study: Study, *, examples: ExampleTables | None = None) -> pl.DataFrame:
    """McNemar's exact test between two methods on each calibration set that both saw.

    `a_only`, `b_only`: examples that only A, only B answers right, mean over sets. `p_median`: median p over the sets.
    `significant`: share of sets with p < 0.05. `a_better`: share of sets on which A answers more examples right.
    """
    return (examples or read_examples(study)).mcnemar

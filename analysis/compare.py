"""Is A better than B, by how much, and how sure is that?

Three questions, three pairings. Two sources are compared over their draws (the sets of different sources have nothing
in common but the test). Two methods are compared on the very same calibration sets, so they are paired by set. Two
models' answers are compared example by example (flips, McNemar). Every difference is signed so that positive means A
is better.

The hard case is what "sure" refers to. A difference can be certain for these test questions and still be luck of the
questions, so intervals and probabilities are given for new draws on the same test, and for new draws on a new test. A
difference can be certain for these sources and still be luck of the sources: what is said about a new source rests on
as many independent values as there are sources, however many sets each of them has. And the pair that looks most
different is the pair one looks at: who wins a new draw comes from the joint posterior of all sources, where a gap
that is the largest of many has been drawn back, while interval and p are for a pair that was chosen beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from analysis.domains import Domains
from analysis.estimates.clusters import WORDS, two_groups
from analysis.estimates.comparisons import holm, paired, welch
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.estimates.ranks import posterior_of
from analysis.estimates.spreads import far_words, repeats, typical
from analysis.estimates.welch import Interval, contrast
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.variance import example_noise

MATCH_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "texts": pl.Int64,
    "trials": pl.Int64,
    **dict.fromkeys(
        ["matched", "mismatched", "difference", "low", "high", "low_new_text", "high_new_text"], pl.Float64
    ),
    "note": pl.String,
}


def domain_match(
    study: Study, measure: str = "perplexity_increase", *, examples: ExampleTables | None = None
) -> pl.DataFrame:
    """Per (model, method): the measure on a source's own domain and on the same texts under the other sources.

    `difference` is mismatched minus matched, averaged over the texts that have a source of their own domain. Each trial
    enters with one contrast over its texts, so that the correlation between the texts of a trial is accounted for.
    `low` to `high` is Welch's 95 % interval over calibration sets, on these windows; `low_new_text` to `high_new_text`
    is about the texts, of which the windows are a sample, where samples/ hold two windows or more (of the perplexity
    increase alone). `note` says why something is null.
    """
    rows = study.calibrated.filter((pl.col("measure") == measure) & (pl.col("task") != MEAN)).drop_nulls("value")
    sources = rows["source"].unique().to_list()
    own = [t for t in rows["task"].unique().to_list() if any(study.domains.same(s, t) for s in sources)]
    rows = rows.filter(pl.col("task").is_in(own))
    windows: dict[tuple[str, str], float] = {}
    if measure == "perplexity_increase" and rows.height:
        tests = (examples or read_examples(study)).match_tests
        windows = {(model, label): variance for model, label, _, variance in tests.iter_rows()}
    parts = []
    for (model, parameters, label), part in rows.group_by("model", "parameters", "method_label", maintain_order=True):
        found = _match_contrast(part, windows.get((str(model), str(label))), study.domains)
        if found is not None:
            parts.append({"model": model, "parameters": parameters, "method_label": label, **found})
    return pl.DataFrame(parts, schema=MATCH_SCHEMA).sort("parameters", "model", "method_label")


def _match_contrast(part: pl.DataFrame, test_variance: float | None, domains: Domains) -> dict[str, object] | None:
    """The contrast of one model and method; None when fewer than two sources have a text of their own."""
    wide = part.pivot(on="task", index=["source", "set"], values="value", sort_columns=True).sort("source", "set")
    texts = [name for name in wide.columns if name not in ("source", "set")]
    wide = wide.drop_nulls(texts)
    sources = wide["source"].unique().sort().to_list()
    owners = {text: [domains.same(source, text) for source in sources] for text in texts}
    texts = [text for text, own in owners.items() if any(own) and not all(own)]
    if len(sources) < 2 or not texts:
        return None
    owner, matrix = wide["source"].to_numpy(), wide.select(texts).to_numpy()
    kin = np.array([owners[text] for text in texts]).T  # (sources, texts)
    own, others = kin / kin.sum(axis=0), ~kin / (~kin).sum(axis=0)  # each adds up to 1 for a text
    matched = mismatched = 0.0
    scores = []
    for index, source in enumerate(sources):
        values = matrix[owner == source]  # (sets, texts)
        mean = values.mean(axis=0)
        matched += float(own[index] @ mean) / len(texts)
        mismatched += float(others[index] @ mean) / len(texts)
        scores.append(values @ (others[index] - own[index]) / len(texts))
    ones = np.ones(len(scores))
    found = contrast(scores, ones)
    broad = contrast(scores, ones, test_variance) if test_variance is not None else Interval(found.value)
    note = "" if found.low is not None else "no interval: no two sets of a source differ"
    if not note and broad.low is None:
        note = "on these windows: samples/ do not tell how far others would lie"
    return {
        "texts": len(texts),
        "trials": len(owner),
        "matched": matched,
        "mismatched": mismatched,
        "difference": mismatched - matched,
        "low": found.low,
        "high": found.high,
        "low_new_text": broad.low,
        "high_new_text": broad.high,
        "note": note,
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
    "note": pl.String,
}
METHOD_PAIR_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "task": pl.String,
    "a": pl.String,
    "b": pl.String,
    **dict.fromkeys(["pairs", "sources", "far_off"], pl.Int64),
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
    interval over draws, for these test examples; none where sets of A or B are far off, which widen it so far that more
    than 98 of 100 hold, or fall into two groups. `low_new_test`, `high_new_test`: also over test examples, paired,
    where samples/ tell the source-by-example component. `p` is Welch's test, `p_holm` corrected within a
    (model, method). `a_wins_new_draw`: probability that one new set of A beats one new set of B, from the posterior of
    all sources; `a_wins_new_test`: on new examples too. `note` says why something is null.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    crossed = example_noise(study, measure, task, examples=examples)
    found: list[dict[str, object]] = []
    for (model, parameters, label), part in rows.group_by("model", "parameters", "method_label", maintain_order=True):
        cells = {str(s): sign * p["value"].to_numpy() for (s,), p in part.group_by("source", maintain_order=True)}
        context = {"model": model, "parameters": parameters, "method_label": label, "task": task}
        names = sorted(cells)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        test_variance = crossed.get((str(model), str(label)))
        wins = _wins(cells, names, test_variance)
        far = dict(zip(names, typical([cells[name] for name in names])[1], strict=True))
        family = []
        for a, b in pairs:
            row = welch(cells[a], cells[b], test_variance)
            note = _no_spread(cells, a, b) or _no_centre(cells, far, a, b)
            if note:
                row = {name: value for name, value in row.items() if not name.startswith(("low", "high"))}
            family.append(({**context, "a": a, "b": b, **wins(a, b), "note": note}, row))
        found += _with_holm(family)
    return pl.DataFrame(found, SOURCE_PAIR_SCHEMA).sort("parameters", "model", "method_label", "a", "b")


def _wins(
    cells: dict[str, np.ndarray], names: Sequence[str], test_variance: float | None
) -> Callable[[str, str], dict[str, float]]:
    """How likely a new set of a source beats one of another: nothing where no two sets of a source differ."""
    known = posterior_of(cells)
    on_the_task = None if test_variance is None else posterior_of(cells, test_variance)

    def wins(a: str, b: str) -> dict[str, float]:
        place = names.index(a), names.index(b)
        row = {} if known is None else {"a_wins_new_draw": known.wins(*place)}
        if on_the_task is not None and test_variance is not None:
            row["a_wins_new_test"] = on_the_task.wins(*place, examples=2 * test_variance)
        return row

    return wins


def _no_spread(cells: dict[str, np.ndarray], a: str, b: str) -> str:
    """What can be said of two sources whose sets do not differ: certainty is not among it."""
    if len(cells[a]) < 2 or len(cells[b]) < 2:
        return "no interval: a source has one set"
    if np.ptp(cells[a]) > 0 or np.ptp(cells[b]) > 0:
        return ""
    bound = repeats([cells[a], cells[b]])
    return f"no interval: the sets of both do not differ; at least {100 * bound:.0f} % of new sets repeat their value"


def _no_centre(cells: dict[str, np.ndarray], far: Mapping[str, int], a: str, b: str) -> str:
    """Why the sets of two sources do not lie around one value each; empty where they do."""
    groups = [cells[a], cells[b]]
    if told := far_words([a, b], groups, [far[a], far[b]]):
        return f"no interval: {told}"
    return f"no interval: {WORDS}" if two_groups(groups) else ""


def method_pairs(
    study: Study, measure: str = "accuracy", task: str = MEAN, *, examples: ExampleTables | None = None
) -> pl.DataFrame:
    """Every pair of methods of a model on the calibration sets that both saw: paired by set.

    `difference` is the advantage of A, positive where A is better, averaged over sources with equal weight; interval
    and `p` (Welch's and Satterthwaite's, every source with its own spread) are over draws within these sources,
    corrected by Holm within a model; where some sets are `far_off`, the difference is that of the others and has
    neither. `a_wins_new_draw` is the probability that A is better on one new set of a new source, null where the pair
    has a single source (`analysis.estimates.comparisons.new_source_wins`); `a_wins_new_test` and the interval
    `low_new_test` to `high_new_test` are for new test examples as well (of accuracy alone, where samples/ hold them).
    `reversed` is the share of sets on which the method that is better on average is the worse one: how often a study
    with a single set of one of these sources would have told the opposite. Its Wilson interval is for other sets of
    these sources.
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

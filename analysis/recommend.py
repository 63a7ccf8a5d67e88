"""Which calibration data should I use? Three sentences and one table.

    python -m analysis.recommend RESULTS --model M [--method gptq] [--tasks lambada,piqa] [--measure accuracy]
                                 [--matters 0.5]

The answer for a model, for one method or averaged over all, on the tasks that matter to the reader: use one source, any
of several will do, or it cannot be told yet, for differences of the size that matters. Then how sure that is, and how
many more sets would settle it. All three sentences come from one posterior, so that none can contradict another. The
hard case is a difference that no number of sets can settle, because it is smaller than the luck of the test questions;
then it says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.measure import Measurement

from analysis.answers import MATTERS_HELP, Matters, asked_of, matters_of, no_answer, parse_matters
from analysis.cells import everything, over_sets
from analysis.checks import true_minus
from analysis.estimates.component_rows import SCALE
from analysis.estimates.components import COMPONENTS, SOURCE_EXAMPLE, components
from analysis.estimates.equivalence import ANY, LEVEL, UNCLEAR, USE, Answer, answer
from analysis.estimates.outcomes import COLUMN_OF, answered, read_outcomes, tabled
from analysis.estimates.posterior import Posterior
from analysis.estimates.ranks import posterior_of
from analysis.estimates.settle import WANTED, settling
from analysis.estimates.spreads import far_words, typical
from analysis.evidence import Evidence
from analysis.frames import Study, load
from analysis.measures import MEAN, MEASURES
from analysis.page.render import number, percent, percent_below
from analysis.page.terminal import terminal_table
from calib.settings import SettingsError, suggestion
from sweep.results import ResultsError


@dataclass(frozen=True)
class Recommendation:
    """`sentences` (three) and `table`, one row per source, best first.

    kind: use, any or cannot tell yet; `sources` are those it names, `probability` that all of them will do. Empty and
    None where the sets do not differ. `best` leads: the first that is named, else the source with the best mean.
    `measure` is what was compared, `sets` has a row per set of each source (source, set, value, trial_id: ids of its
    trials, one per method), and `known` is the posterior of the sources in the order of their names, larger is better;
    None where nothing is known of the luck of a draw.
    """

    sentences: tuple[str, str, str]
    table: pl.DataFrame
    best: str
    kind: str
    sources: tuple[str, ...]
    probability: float | None
    matters: float
    measure: str
    sets: pl.DataFrame
    known: Posterior | None


@dataclass(frozen=True)
class _Question:
    """What is asked: the score in words, its measure, and the values of the sets of each source (larger is better).

    `means`: of each source, as the tables show them. `noise`: variance that the test examples give to a source's value.
    """

    what: str
    measure: str
    cells: dict[str, np.ndarray]
    means: dict[str, float]
    matters: Matters
    noise: float | None

    @property
    def names(self) -> list[str]:
        return sorted(self.cells)

    def amount(self, value: float, digits: int = 2) -> str:
        """A difference with its unit."""
        return f"{number(value, digits)}{_unit(self.measure)}"


def recommend(
    study: Study,
    model: str,
    method: str | None = None,
    tasks: Sequence[str] = (),
    measure: str | None = None,
    matters: float | Mapping[str, float] | None = None,
) -> Recommendation:
    """The source to calibrate on; `matters` is the difference that matters, in the measure's unit (`analysis.answers`).

    `matters` may be one for each measure, as `answers.parse_matters` gives them. Raises SettingsError for an unknown
    model, method, task or measure, too few sources, a difference of no size or of another measure.
    """
    tasks = () if list(tasks) == [MEAN] else tasks  # what tables call all of them
    rows, measure, what, labels = _chosen(study, model, method, tasks, measure)
    wanted = _asked(matters, measure)
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    cells = {str(s): sign * p["value"].to_numpy() for (s,), p in rows.group_by("source", maintain_order=True)}
    if len(cells) < 2:
        raise SettingsError(f"{what}: {len(cells)} source with results; a recommendation needs two")
    size = (
        matters_of(study, model, labels, measure, list(tasks) or [MEAN], cells)
        if wanted is None
        else Matters(wanted, "as asked")
    )
    noise = _test_variance(study, rows, model, measure)
    means = {name: sign * float(values.mean()) for name, values in cells.items()}
    question = _Question(what, measure, cells, means, size, noise)
    known = posterior_of(cells, noise or 0.0)
    table = _table(rows, cells, known, sign)
    if known is None or not size.value > 0:
        return _without_spread(question, table, rows)
    said = answer(known, size.value)
    named = tuple(question.names[index] for index in said.sources)
    sentences = (
        true_minus(_what_to_use(question, said, named)),
        true_minus(_how_sure(question, known, said)),
        true_minus(_what_would_settle(question, known, said)),
    )
    return Recommendation(
        sentences, table, named[0], said.kind, named, said.probability, size.value, measure, rows, known
    )


def _asked(matters: float | Mapping[str, float] | None, measure: str) -> float | None:
    """The difference of this measure; None where none was asked for."""
    if matters is None or (isinstance(matters, Mapping) and not matters):
        return None
    if isinstance(matters, Mapping):
        wanted = asked_of(matters, measure, measure)
        if wanted is None:
            told = ", ".join(matters)
            raise SettingsError(f"--matters: the answer is about {measure}, not about {told}; see --measure")
    else:
        wanted = matters
    if not (wanted > 0 and math.isfinite(wanted)):
        raise SettingsError(f"--matters: expected a finite difference above 0, got {wanted}")
    return wanted


def _table(rows: pl.DataFrame, cells: Mapping[str, np.ndarray], known: Posterior | None, sign: float) -> pl.DataFrame:
    """A row per source, best mean first."""
    columns = ["p_best", "p_best_single_set", "regret"]
    extra = pl.DataFrame({"source": sorted(cells)}, schema={"source": pl.String})
    if known is None:
        extra = extra.with_columns(pl.lit(None, pl.Float64).alias(name) for name in columns)
    else:
        values = zip(columns, (known.best, known.best_single_set, known.regret.mean(axis=0)), strict=True)
        extra = extra.with_columns(pl.Series(name, column) for name, column in values)
        if not known.tells:
            extra = extra.with_columns(pl.lit(None, pl.Float64).alias(name) for name in columns[:2])
    summary = over_sets(rows.with_columns(pl.col("value") * sign), ["source"])
    table = summary.join(extra, on="source").sort("mean", "source", descending=[True, False])
    if sign < 0:
        table = table.with_columns(-pl.col("mean"), -pl.col("high").alias("low"), -pl.col("low").alias("high"))
    return table.select("source", "n", "mean", "sd", "low", "high", *columns)


def _without_spread(question: _Question, table: pl.DataFrame, rows: pl.DataFrame) -> Recommendation:
    """Nothing is known of the luck of a draw: means are all there is."""
    best = str(table.item(0, "source"))
    why = no_answer(question.cells)
    leads = f"{best} has the best mean, {_value(question, best)}"
    if len(set(question.means.values())) == 1:
        leads = f"all {len(question.means)} have the same mean, {_value(question, best)}"
    sentences = (
        f"For {question.what}, it cannot be told yet which source to use: {leads}, and nothing says how far another "
        "set would lie.",
        f"How sure: that cannot be said, because {why}.",
        "What would settle it: two more sets of each source, for a start; without a spread nothing can be planned.",
    )
    return Recommendation(
        sentences, table, best, UNCLEAR, (), None, question.matters.value, question.measure, rows, None
    )


def _chosen(
    study: Study, model: str, method: str | None, tasks: Sequence[str], measure: str | None
) -> tuple[pl.DataFrame, str, str, list[str]]:
    """(one row per set: source, set, value, ids of its trials; the measure; what it is about, in words; methods)."""
    models = study.calibrated["model"].unique().sort().to_list()
    if model not in models:
        raise SettingsError(f"--model: the study has no calibrated trials of '{model}'{suggestion(model, models)}")
    rows = study.calibrated.filter(pl.col("model") == model)
    if method is not None:
        names = sorted({*rows["method"], *rows["method_label"]})
        if method not in names:
            raise SettingsError(f"--method: no '{method}' on {model}{suggestion(method, names)}")
        rows = rows.filter((pl.col("method") == method) | (pl.col("method_label") == method))
    present = rows.drop_nulls("value").select("measure", "task").unique()
    measure = measure or _default_measure(study, present, tasks)
    if measure not in set(present["measure"]):
        raise SettingsError(f"--measure: no '{measure}' on {model}{suggestion(measure, set(present['measure']))}")
    known = present.filter(pl.col("measure") == measure, pl.col("task") != MEAN)["task"].to_list()
    for task in tasks:
        if task not in known:
            raise SettingsError(f"--tasks: no '{task}' with {measure} on {model}{suggestion(task, known)}")
    wanted = list(tasks) or [MEAN]
    rows = rows.filter((pl.col("measure") == measure) & pl.col("task").is_in(wanted)).drop_nulls("value")
    labels = rows["method_label"].unique().sort().to_list()
    expected = len(labels) * len(wanted)
    sets = rows.group_by("source", "set").agg(
        pl.col("value").mean(), pl.len().alias("cells"), pl.col("trial_id").unique()
    )
    sets = sets.filter(pl.col("cells") == expected).sort("source", "set")
    over = ", ".join(tasks) if tasks else everything(study, measure)
    by = labels[0] if len(labels) == 1 else f"{len(labels)} methods ({', '.join(labels)})"
    tagged = sets.with_columns(pl.lit(list(tasks), dtype=pl.List(pl.String)).alias("tasks"))
    return tagged, measure, f"{model} with {by} on {over}", labels


def _default_measure(study: Study, present: pl.DataFrame, tasks: Sequence[str]) -> str:
    """The measure that the report leads with if all wanted tasks have it, then accuracy, then perplexity."""
    order = (Evidence(study).lead, "accuracy", "perplexity_increase", "perplexity")
    known = {measure: set(present.filter(pl.col("measure") == measure)["task"]) for measure in order}
    for measure, names in known.items():
        if names and names.issuperset(tasks):
            return measure
    for measure, names in known.items():  # no measure has them all: the first that has one says which it lacks
        if names.intersection(tasks):
            return measure
    raise SettingsError(f"--tasks: no result for {', '.join(tasks) or 'any task'}")


def _test_variance(study: Study, rows: pl.DataFrame, model: str, measure: str) -> float | None:
    """Variance that the choice of test examples adds to one source's mean; None where samples/ cannot tell."""
    of_logarithm = measure in ("perplexity", "perplexity_increase")
    column = COLUMN_OF.get("perplexity" if of_logarithm else measure)
    if column is None:
        return None
    ids = rows.explode("trial_id").select("source", "set", "trial_id")
    matrices = read_outcomes(study, ids, [column])[column]
    asked = set(rows.item(0, "tasks").to_list()) or tabled(study, model, column)
    if not asked <= set(matrices):
        return None
    wanted = [matrices[task] for task in sorted(asked)]
    cell = np.array([f"{s}\0{k}" for s, k in ids.select("source", "set").iter_rows()])
    lacking = {
        str(name) for matrix in wanted for name in cell[~answered(matrix)]
    }  # `load` names trials without samples
    names = sorted(set(cell) - lacking)
    # mean over methods of each set's outcome, so that one matrix stands for the score that is compared
    averaged = [np.stack([matrix[cell == name].mean(axis=0) for name in names]) for matrix in wanted] if names else []
    if not averaged:
        return None
    sources = [name.partition("\0")[0] for name in names]
    variance = components(averaged, sources, np.random.default_rng(0), draws=2).variance
    value = float(variance[COMPONENTS.index(SOURCE_EXAMPLE)])
    scale = SCALE[column]
    if of_logarithm:  # the value is an exponential of what the samples hold
        scale = float(np.mean(rows["value"].to_numpy())) + (100 if measure == "perplexity_increase" else 0)
    return None if np.isnan(value) else max(value, 0.0) * scale**2


def _unit(measure: str) -> str:
    return {"%": " points", "": ""}.get(MEASURES[measure].unit, f" {MEASURES[measure].unit}")


def _value(question: _Question, name: str) -> str:
    """`Accuracy 63.2 % (5 sets)`."""
    info = MEASURES[question.measure]
    unit = " %" if info.unit == "%" else _unit(question.measure)
    count = len(question.cells[name])
    return f"{info.title} {question.means[name]:.{info.decimals}f}{unit} ({count} set{'s' if count > 1 else ''})"


def _listed(names: Sequence[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _what_to_use(question: _Question, said: Answer, named: Sequence[str]) -> str:
    size = f"{question.amount(question.matters.value)} ({question.matters.why})"
    count = len(question.cells)
    within = f"within {size} of the best of {count} sources"
    chance = percent(said.probability) if said.kind != UNCLEAR else percent_below(said.probability, LEVEL)
    if said.kind == USE:
        return (
            f"For {question.what}, use {named[0]}: {_value(question, named[0])}; with a probability of {chance} it is "
            f"{within}, and of no other source can that be said as well."
        )
    if said.kind == ANY:
        every = "any source" if len(named) == count else f"any of {_listed(named, 'or')}"
        return f"For {question.what}, {every} will do: with a probability of {chance} all {len(named)} are {within}."
    return (
        f"For {question.what}, it cannot be told yet which source to use: {named[0]} leads, "
        f"{_value(question, named[0])}, and is {within} with a probability of {chance}, which is less than "
        f"{percent(LEVEL)}."
    )


def _how_sure(question: _Question, known: Posterior, said: Answer) -> str:
    """What is known of the leader and of the source that comes closest to it."""
    names, first = question.names, said.sources[0]
    regret = known.regret.mean(axis=0)
    second = min((index for index in range(len(names)) if index != first), key=lambda index: float(regret[index]))
    gap, low, high = known.gap(first, second)
    verdict = "worse"
    plain = question.cells[names[second]].mean() > question.cells[names[first]].mean()
    if gap < 0:
        verdict, gap, low, high = "better", -gap, -high, -low
    examples = "questions" if MEASURES[question.measure].name == "accuracy" else "examples"
    where = f"on new test {examples} " if question.noise is not None else ""
    wins = known.wins(first, second, 2 * (question.noise or 0.0))
    best = f"{names[first]} is the very best with a probability of {percent(float(known.best[first]))}, and costs"
    if not known.tells:
        best = (
            "these sets do not clearly show that sources differ, so none is called the best, and one that will do "
            f"need not be it; {names[first]} costs"
        )
    text = (
        f"How sure: {best} {question.amount(float(regret[first]))} on average against the best; next is {names[second]}"
        f"{' (whose plain mean is better)' if plain else ''}, "
        f"{question.amount(gap)} {verdict} (95 % interval {number(low, 2)} to "
        f"{number(high, 2)}, drawn towards zero as far as the leader leads by luck); one new set of {names[first]} "
        f"beats one of {names[second]} {where}with a probability of {percent(wins)}"
    )
    if question.noise is None:
        text += "; all this is about these test examples"
    groups = [question.cells[name] for name in names]
    told = far_words(names, groups, typical(groups)[1])
    return f"{text}. {told[0].upper()}{told[1:]}; what is said is about the other sets." if told else f"{text}."


def _what_would_settle(question: _Question, known: Posterior, said: Answer) -> str:
    """How many sets give an answer, averaged over what is not known."""
    if said.kind != UNCLEAR:
        return (
            "What would settle it: nothing more is needed for differences of "
            f"{question.amount(question.matters.value)}; smaller ones would need --matters and more sets."
        )
    plan = settling(known, said.matters)
    never = f"with a probability of {percent(plan.never)} even {plan.most} more would not"
    if plan.sets is None:
        hint = " Part of the doubt is about the test examples; only more of them remove it." if question.noise else ""
        return f"What would settle it: no number of sets does so with {percent(WANTED)}; {never}.{hint}"
    will_do = "several sources that will do" if plan.several > 0.5 else "one source that will do"
    return (
        f"What would settle it: {plan.sets} more set{'s' if plan.sets > 1 else ''} of each source would allow an "
        f"answer with a probability of {percent(plan.wanted)} or more, most likely {will_do}; {never}."
    )


def main(
    results: Annotated[str, typer.Argument(help="Results folder or URI of a study.")],
    model: Annotated[str, typer.Option(help="A model of the study.")],
    method: Annotated[str | None, typer.Option(help="A method's name or label; default: the mean over all.")] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Tasks or held-out texts that matter, separated by commas; may be given again."),
    ] = None,
    measure: Annotated[str | None, typer.Option(help="accuracy, perplexity_increase, js_divergence, ...")] = None,
    matters: Annotated[str, typer.Option(help=MATTERS_HELP)] = "",
) -> None:
    """Say which calibration data to use, how sure that is, and what would settle it."""
    console = Console()
    try:
        study = load(results)
        wanted = _named(tasks or (), set(study.values["task"]))
        said = recommend(study, model, method, wanted, measure, parse_matters(matters))
    except (ResultsError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    for sentence in said.sentences:
        console.print(sentence, highlight=False, markup=False)
    table = terminal_table(said.table)
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.width = max(console.width, needed)  # a number is never cut
    console.print(table)


def _named(given: Sequence[str], known: Collection[str]) -> list[str]:
    """The tasks and texts of `a,b` or `a b`; a label of the study may have commas and spaces itself."""
    for separator in (r"\s*,\s*", r"\s+"):
        given = [name for text in given for name in ([text] if text in known else re.split(separator, text.strip()))]
    return list(dict.fromkeys(name for name in given if name))


if __name__ == "__main__":
    typer.run(main)

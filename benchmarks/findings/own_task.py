"""Does calibration on a task's own training examples help on that task?

The hard case is what else is in the examples: those of continuation are cut from nine texts, one of which, in other
languages, the uniform mixture lacks. Continuation is therefore judged on the eight texts of both, and the ninth told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from analysis.estimates.welch import Interval, contrast
from benchmarks.findings.arms import Arm, Contrast, chart, contrasts, counted, of, origin, read, table
from benchmarks.findings.evidence import DATA, NAMES, UNIFORM, in_points, listed, sure
from benchmarks.findings.page import Page

STUDY, MODEL = "tasks_reference", "reference-2m"
WEB = "web_docs"
ACCURACY, LIKELIHOOD, RANK = "accuracy", "loglikelihood_change", "reciprocal_rank"
SCALES = {ACCURACY: 1.0, LIKELIHOOD: 1.0, RANK: 100.0}  # accuracy is in per cent already
FORMS = {"alone": "", "in context": "-in_context"}
ABOUT = (
    "reference-2m (a LLaMA shape of 2 million parameters), GPTQ to 3 bits in groups of 32 and SparseGPT 2:4, five sets of 16 "
    "windows of 128 tokens of each source, held-out texts of 8 windows, on one H200, 2026-11-29."
)


@dataclass(frozen=True)
class Task:
    """A bundled task. `tasks`: how its names in the data begin; `train`: the source of its training examples, one a
    document; `cut_from`: the text that these are cut from; `graded`: a measure of single answers that is finer than
    accuracy; `apart`: one of its names, of a text that `cut_from` lacks."""

    name: str
    tasks: str
    train: str
    cut_from: str
    graded: str = LIKELIHOOD
    apart: str = ""


CONTINUATION = Task(
    "continuation",
    "reference_continuation",
    "reference_continuation_train",
    UNIFORM,
    apart="reference_continuation_multilingual",
)
TASKS = (
    CONTINUATION,
    Task("last word", "reference_lambada", "reference_lambada_train", "books"),
    Task("names", "reference_facts_names", "reference_facts_names_train", "encyclopedia", graded=RANK),
)


@dataclass(frozen=True)
class Pair:
    """A task's own examples (`source`) against another calibration text."""

    task: Task
    form: str
    reference: str

    @property
    def source(self) -> str:
        return self.task.train + FORMS[self.form]

    @property
    def name(self) -> str:
        return f"{self.task.name}, {self.form} − {self.reference}"


def page() -> Page:
    accuracy = [c for method in methods() for c in _compared(method, lambda task: ACCURACY)]
    graded = [c for method in methods() for c in _compared(method, lambda task: task.graded)]
    context = [c for method in methods() for c in _forms(method)]
    return Page(
        name="own_task",
        question="Does a task's own training text help on that task?",
        title=_title(accuracy, context),
        answer=_answer(accuracy, graded),
        chart=chart(
            accuracy,
            "Right answers after calibration on a task's own examples, minus other text, points",
            "Mean of five sets, 95 % intervals. Right of zero the own examples are better.",
            "points",
            lambda value: float("nan") if value is None else value,
            shared=True,
        ),
        table=table(accuracy, "right answers, own examples minus other text, points", in_points),
        more={
            "In context against alone": table(context, "right answers, points", in_points),
            "How likely right answers are": table(
                graded,
                "log-likelihood of the right answer, nats; of names the reciprocal rank, hundredths",
                lambda gap: in_points(gap, 2),
            ),
            "Continuation with its eight texts as a sample of texts, and on the ninth (multilingual) over sets": _by_text(),
            "Perplexity on the text that the examples are cut from": table(
                _heldout(), "held-out text: own examples − other text"
            ),
            "Right answers, %": _levels(),
        },
        published=(
            "Khanal & Capone (arXiv 2409.11233), by their abstract, find that task-specific calibration data significantly enhances "
            "the downstream performance of a compressed LLaMA-2-7B against general data. Bandari et al. (arXiv 2410.07461), by "
            "their abstract, that pruning with downstream data sets does not necessarily help the corresponding task against "
            "pre-training data, and that in-context examples are widely beneficial. The latter's first half is what is seen here; "
            "neither of the two gains is, and neither is excluded at the size of the published models."
        ),
        limits=(
            "One model of 2 million parameters, which hardly knows two of the three tasks: of names chance is 10 %, of last words "
            "SparseGPT leaves next to none. Continuation has 800 questions in eight texts, last word 400, names 240. "
            "Intervals are over calibration sets alone and would be wider for other questions, so a comparison with a dot stays "
            "undecided there and one without need not hold: in a repeat on a CPU with the same sets, where answers were kept, neither of the "
            "two losses of SparseGPT against the mixture is clear when questions count ([log](../log.md)). Sets are small (2,048 tokens). A window of 128 tokens holds parts of "
            "one or two examples of continuation and last words, of a few names: what several whole examples in a window do is not asked. "
            "Examples are cut by rule from running text, so no task here has a form that its text lacks (a question with its "
            "choices, a sum). The examples of names are of names alone; years are not judged."
        ),
        origin=origin(STUDY, ABOUT, "sweep/studies"),
    )


@lru_cache(maxsize=1)
def _data() -> pl.DataFrame:
    return pl.read_parquet(DATA / f"{STUDY}.parquet")


def methods() -> list[str]:
    """The methods that are calibrated."""
    return _data().drop_nulls("source")["method_label"].unique().sort().to_list()


def scores(task: Task, method: str, source: str | None, measure: str, *, apart: bool = False) -> np.ndarray:
    """Values of a task after calibration on `source`, float64 [sets, texts]; `apart`: of the text that is told apart."""
    rows = _data().filter(
        pl.col("method_label") == method,
        pl.col("source").eq_missing(pl.lit(source)),
        pl.col("measure") == measure,
        pl.col("task").str.starts_with(task.tasks),
        (pl.col("task") == task.apart) == apart,
    )
    values = rows.with_columns(pl.col("value").cast(pl.Float64) * SCALES[measure], pl.col("set").fill_null(0))
    wide = values.pivot(on="task", index="set", values="value", sort_columns=True).sort("set")
    return wide.drop("set").to_numpy()


def gap(pair: Pair, method: str, measure: str, *, apart: bool = False) -> Interval:
    """Own examples minus the reference, the mean over texts; higher is better. The interval is over sets."""
    own, other = (
        scores(pair.task, method, source, measure, apart=apart).mean(axis=1) for source in (pair.source, pair.reference)
    )
    return contrast([own, other], [1, -1])


def over_texts(pair: Pair, method: str, measure: str) -> Interval:
    """The same difference with the task's texts as a sample of texts: the luck of the questions is in it, that of the sets
    only where it differs from text to text."""
    own, other = (scores(pair.task, method, source, measure).mean(axis=0) for source in (pair.source, pair.reference))
    return contrast([own - other], [1.0])


def pairs() -> Iterator[Pair]:
    for task in TASKS:
        for reference in dict.fromkeys((task.cut_from, WEB, UNIFORM)):
            for form in FORMS:
                yield Pair(task, form, reference)


def _compared(method: str, measure: Callable[[Task], str]) -> list[Contrast]:
    """Own examples against every other text, by the measure of each task."""
    return contrasts(method, {pair.name: gap(pair, method, measure(pair.task)) for pair in pairs()})


def _forms(method: str) -> list[Contrast]:
    return contrasts(method, {task.name: gap(Pair(task, "in context", task.train), method, ACCURACY) for task in TASKS})


def _heldout() -> list[Contrast]:
    """Perplexity of the held-out text of the kind that a task's examples are cut from."""
    judged = [pair for pair in pairs() if pair.task.cut_from != UNIFORM]
    found = []
    for cell in read(STUDY):
        found += contrasts(
            cell.method,
            {
                f"{pair.task.cut_from}: {pair.name}": cell.gap(
                    Arm(pair.source), Arm(pair.reference), [pair.task.cut_from]
                )
                for pair in judged
            },
        )
    return found


def better_worse(found: Sequence[Contrast]) -> tuple[int, int]:
    """How often the own examples are clearly better and clearly worse, where higher is better."""
    higher, lower, _ = counted(found)
    return higher, lower


def _title(accuracy: Sequence[Contrast], context: Sequence[Contrast]) -> str:
    better, worse = better_worse(accuracy)
    return (
        f"On {NAMES[MODEL]}, a task's own training examples are better for its right answers than other calibration text in "
        f"{better}, worse in {worse}, not told apart in {len(accuracy) - better - worse} of {len(accuracy)} comparisons; examples in "
        f"context are told apart from single ones in {sum(better_worse(context))} of {len(context)}"
    )


def _answer(accuracy: Sequence[Contrast], graded: Sequence[Contrast]) -> str:
    alike = [pair.name for pair in pairs() if pair.reference == pair.task.cut_from]
    web = [pair.name for pair in pairs() if pair.reference == WEB]
    most = max(c.gap.value if c.gap.high is None else c.gap.high for c in of(accuracy, *alike))
    pair = Pair(CONTINUATION, "alone", UNIFORM)
    ninth = [f"{gap(pair, m, LIKELIHOOD, apart=True).value:.0f} nats under {m}" for m in methods()]
    return (
        "Own examples are a prompt and its right answer, alone or five in a context: how a passage goes on (continuation), the "
        "last word of a passage (as LAMBADA has it), a name in a sentence of an encyclopedia. They are cut by the rules of the "
        "tasks from the bundled calibration text and share no eight words in a row with a question: last words from books, names "
        "from the encyclopedia, continuation from all domains, so that the uniform mixture is its like. Against the text that "
        f"they are cut from, intervals leave room for a gain of at most {most:.1f} points of right answers to these questions."
        f"{_told('differences of right answers are', accuracy, ACCURACY)} By finer measures own examples are "
        f"{_counts(of(graded, *web))} comparisons with web text, and {_counts(of(graded, *alike))} with the text that they are cut "
        f"from.{_told('of these are', of(graded, *web, *alike), LIKELIHOOD)} Looked at afterwards: a ninth text of continuation, in other "
        "languages, is among its examples and not in the mixture, and there right answers after own examples are likelier by "
        f"{listed(ninth)}."
    )


def _counts(found: Sequence[Contrast]) -> str:
    better, worse = better_worse(found)
    return f"better in {better} and worse in {worse} of {len(found)}"


def _told(what: str, found: Sequence[Contrast], measure: str) -> str:
    """How many differences are clear over sets, and of those of continuation over its texts too."""
    clear = [c for c in found if c.verdict]
    if not clear:
        return ""
    by_name = {pair.name: pair for pair in pairs()}
    several = [c for c in clear if by_name[c.arm].task is CONTINUATION]
    held = sum(sure(over_texts(by_name[c.arm], c.method, measure)) == c.verdict for c in several)
    share = "all" if len(several) == len(clear) else f"{len(several)} of them"
    return (
        f" {len(clear)} {what} clear over sets, {share} of continuation; with its eight texts as a sample of texts, which counts "
        f"the luck of the texts and of their questions and not that of the sets, {held} of {len(several)} intervals leave zero out."
    )


def _by_text() -> tuple[list[str], list[list[str]]]:
    """Continuation over its eight texts, and on the ninth, which the mixture lacks."""
    columns = [(measure, method) for measure in (ACCURACY, LIKELIHOOD) for method in methods()]
    own = [pair for pair in pairs() if pair.task is CONTINUATION]
    rows = [[pair.name, *(in_points(over_texts(pair, method, measure)) for measure, method in columns)] for pair in own]
    ninth = [
        [
            f"ninth text: {pair.name}",
            *(in_points(gap(pair, method, measure, apart=True)) for measure, method in columns),
        ]
        for pair in own
    ]
    names = {ACCURACY: "right answers, points", LIKELIHOOD: "log-likelihood, nats"}
    return ["own examples minus other text", *(f"{names[measure]}, {method}" for measure, method in columns)], [
        *rows,
        *ninth,
    ]


def _levels() -> tuple[list[str], list[list[str]]]:
    """Right answers of every calibration text, beside the dense model and rounding to nearest."""
    names = {task.train + suffix: f"{task.name}, {form}" for task in TASKS for form, suffix in FORMS.items()}
    sources = [*names, *(s for s in _data()["source"].drop_nulls().unique().sort() if s not in names)]
    free = _data().filter(pl.col("source").is_null(), pl.col("measure") == ACCURACY)["method_label"].unique().sort()
    columns = [(task, method) for task in TASKS for method in methods()]
    rows = [[names.get(s, s), *(f"{scores(task, m, s, ACCURACY).mean():.1f}" for task, m in columns)] for s in sources]
    plain = [
        [label, *(f"{scores(task, label, None, ACCURACY).mean():.1f}" for task, _ in columns)]
        for label in sorted(free, key=lambda label: label != "dense")
    ]
    return ["calibrated on", *(f"{task.name}, {method}" for task, method in columns)], [*plain, *rows]

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
OVER_SETS = (RANK,)  # measures of which the results keep no value of single questions
FORMS = {"alone": "", "in context": "-in_context"}
ABOUT = (
    "reference-2m (a LLaMA shape of 2 million parameters), GPTQ to 3 bits in groups of 32 and SparseGPT 2:4, five sets of 16 "
    "windows of 128 tokens of each source, held-out texts of 8 windows, on one H200, 2026-11-29."
)

LUCK = f"calibration sets and, but for perplexities and reciprocal ranks, questions (what became of each: `benchmarks/findings/data/{STUDY}_questions.parquet`)"


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
        title=_title(accuracy),
        answer=_answer(accuracy, graded, context),
        chart=chart(
            accuracy,
            "Right answers after calibration on a task's own examples, minus other text, points",
            "Mean of five sets, 95 % intervals over sets and questions. Right of zero the own examples are better.",
            "points",
            lambda value: float("nan") if value is None else value,
            shared=True,
        ),
        table=table(accuracy, "right answers, own examples minus other text, points", in_points),
        more={
            "In context against alone": table(context, "right answers, points", in_points),
            "How likely right answers are": table(
                graded,
                "log-likelihood of the right answer, nats; of names the reciprocal rank, hundredths, over sets alone",
                lambda gap: in_points(gap, 2),
            ),
            "Continuation with its eight texts as a sample of texts, and on the ninth (multilingual) over sets and questions": _by_text(),
            "Perplexity on the text that the examples are cut from, over sets alone": table(
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
            "Intervals count the luck of the sets and that of the questions; of reciprocal ranks, which are not kept by question, and of "
            "perplexities they count the sets alone. A comparison with a dot stays undecided. Sets are small (2,048 tokens). A "
            "window of 128 tokens holds parts of one or two examples of continuation and last words, of a few names: what several "
            "whole examples in a window do is not asked. "
            "Examples are cut by rule from running text, so no task here has a form that its text lacks (a question with its "
            "choices, a sum). The examples of names are of names alone; years are not judged."
        ),
        origin=origin(STUDY, ABOUT, "sweep/studies", over=LUCK),
    )


@lru_cache(maxsize=1)
def _data() -> pl.DataFrame:
    return pl.read_parquet(DATA / f"{STUDY}.parquet")


@lru_cache(maxsize=1)
def _asked() -> pl.DataFrame:
    return pl.read_parquet(DATA / f"{STUDY}_questions.parquet")


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
    """Own examples minus the reference, the mean over texts; higher is better.

    The interval is over sets and questions, over sets alone of a measure of `OVER_SETS`.
    """
    own, other = (
        scores(pair.task, method, source, measure, apart=apart).mean(axis=1) for source in (pair.source, pair.reference)
    )
    luck = 0.0 if measure in OVER_SETS else question_variance(pair, method, measure, apart=apart)
    return contrast([own, other], [1, -1], luck)


def question_variance(pair: Pair, method: str, measure: str, *, apart: bool = False) -> float:
    """Variance that the choice of questions gives to the mean over texts of the difference, in the squared unit.

    The spread over a text's questions of the difference of means over sets, less what other sets would change of it,
    which the spread over sets holds already: `analysis.estimates.flips.example_variance`, of two sources with sets of
    their own. Questions of different texts are independent.
    """
    own, other = (_answers(pair.task, method, source, measure, apart=apart) for source in (pair.source, pair.reference))
    found = []
    for text, (mean, noise) in own.items():
        mean_other, noise_other = other[text]
        spread = float((mean - mean_other).var(ddof=1)) - float((noise + noise_other).mean())
        found.append(max(spread, 0.0) / len(mean))
    return sum(found) / len(found) ** 2


def _answers(
    task: Task, method: str, source: str, measure: str, *, apart: bool = False
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Text -> (mean over sets of each question, variance of that mean by the sets), each float64 [questions]."""
    rows = _asked().filter(
        pl.col("method_label") == method,
        pl.col("source") == source,
        pl.col("measure") == measure,
        pl.col("task").str.starts_with(task.tasks),
        (pl.col("task") == task.apart) == apart,
    )
    ordered = rows.sort("task", "question").with_columns(pl.col("value", "between_sets").cast(pl.Float64))
    return {
        str(text): (part["value"].to_numpy(), (part["between_sets"] / part["sets"]).to_numpy())
        for (text,), part in ordered.group_by("task", maintain_order=True)
    }


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


def _title(accuracy: Sequence[Contrast]) -> str:
    better, worse = better_worse(accuracy)
    if not better and not worse:
        found = f"neither clearly more nor clearly fewer right answers than other text in any of {len(accuracy)} comparisons"
    else:
        found = f"clearly more right answers than other text in {better} and clearly fewer in {worse} of {len(accuracy)} comparisons"
    return f"On {NAMES[MODEL]}, calibrating on a task's own training examples gives {found}"


def _answer(accuracy: Sequence[Contrast], graded: Sequence[Contrast], context: Sequence[Contrast]) -> str:
    alike = [pair.name for pair in pairs() if pair.reference == pair.task.cut_from]
    web = [pair.name for pair in pairs() if pair.reference == WEB]
    most = max(c.gap.value if c.gap.high is None else c.gap.high for c in of(accuracy, *alike))
    pair = Pair(CONTINUATION, "alone", UNIFORM)
    ninth = [f"{gap(pair, m, LIKELIHOOD, apart=True).value:.0f} nats under {m}" for m in methods()]
    return (
        "Three tasks were asked: how a passage goes on (continuation), its last word (as LAMBADA has it), and a name in a sentence "
        "of an encyclopedia. Calibration sets were the task's own training examples, the text that these are cut from, web text "
        f"or a uniform mixture. In right answers the own examples are {_counts(accuracy)} comparisons with other text, counting "
        "the luck of the calibration sets and of the questions. That is no proof that they are alike: against the text that they "
        f"are cut from, intervals reach up to a gain of {most:.1f} points. It is one model of 2 million parameters.\n\n"
        "An own example is a prompt and its right answer, alone or five in a context; the two forms are told apart in "
        f"{sum(better_worse(context))} of {len(context)} comparisons of right answers. By finer measures, in the third table, own "
        f"examples are {_counts(of(graded, *web))} comparisons with web text, and {_counts(of(graded, *alike))} with the text that "
        f"they are cut from.{_told(of(graded, *web, *alike))} Examples are cut by the rules of the tasks from the bundled calibration "
        "text and share no eight words in a row with a question: last words from books, names from the encyclopedia, continuation "
        "from all domains, so that the uniform mixture is its like. Looked at afterwards: a ninth text of continuation, in other "
        "languages, is among its examples and not in the mixture, and there right answers after own examples are likelier by "
        f"{listed(ninth)}."
    )


def _counts(found: Sequence[Contrast]) -> str:
    better, worse = better_worse(found)
    return f"clearly better in {better} and clearly worse in {worse} of {len(found)}"


def _told(graded: Sequence[Contrast]) -> str:
    """How many differences of the finer measures are clear, and of those of continuation over its texts too."""
    clear = [c for c in graded if c.verdict]
    by_name = {pair.name: pair for pair in pairs()}
    several = [c for c in clear if by_name[c.arm].task is CONTINUATION]
    if not several:
        return ""
    held = sum(sure(over_texts(by_name[c.arm], c.method, LIKELIHOOD)) == c.verdict for c in several)
    return (
        f" Of the {len(clear)} that are clear, {len(several)} are of continuation; with its eight texts as a sample of texts, "
        f"{held} of {len(several)} intervals leave zero out."
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

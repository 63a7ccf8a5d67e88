"""What an arm is judged by: texts and tasks as targets, and the loss of a finished trial on each of them.

A loss is against the dense model, in the target's unit, lower is better: per cent of perplexity for a text (100 times
the nats per token, so it adds up), points of accuracy or nats of the right answer's log-likelihood for tasks. Short
tests ask the same things with fewer examples. There a text is judged by its divergence from the dense model, which
has less luck than perplexity (docs/adviser.md), and tasks by log-likelihood: right or wrong tells too little then. What
links the two is learned from the draws that have both, so their units need not agree. A trial of the first blocks alone
has no divergence: there a text is judged by the error of what leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from calib.settings import SettingsError
from calib.source import Source, get_source
from calib.sources.bundled import DOMAINS
from sweep.adviser.question import Question
from sweep.evaluation.questions.requests import build_requests
from sweep.evaluation.settings import EvaluationSettings
from sweep.runs.contamination import texts_in
from sweep.shipping.entries import HELDOUT, source_entry

TEXT, ACCURACY, LOGLIKELIHOOD = "text", "accuracy", "loglikelihood"
DIVERGENCE = "divergence"  # of texts in short tests
BLOCK_ERROR = "block error"  # of texts, behind the first blocks
NO_DIVERGENCE = 1e-9  # nats: as much as rounding makes
NO_ERROR = 1e-12  # of a token, relative and squared: likewise
UNITS = {TEXT: "% of perplexity", ACCURACY: "points of accuracy", LOGLIKELIHOOD: "nats"}
GENERAL = "held-out text"  # the target where none is named


@dataclass(frozen=True)
class Target:
    """One target. `labels`: of its texts; `tasks`: as asked of lm-eval."""

    name: str
    measure: str
    labels: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return UNITS[self.measure]


@dataclass(frozen=True)
class Asked:
    """All targets of a question, with the held-out entries of the evaluation and their sources."""

    targets: tuple[Target, ...]
    heldout: tuple[Any, ...]
    sources: dict[str, Source]  # by label, in the order of `heldout`


def make_targets(question: Question) -> Asked:
    """The targets of a question; without any, the bundled held-out text. Raises SettingsError."""
    count = len(question.targets) + bool(question.tasks) or 1
    if len(question.matters) not in (0, 1, count):
        raise SettingsError(f"--matters: {len(question.matters)} numbers for {count} targets; give one, or one each")
    if not question.targets and not question.tasks:
        sources = {name: get_source(_heldout(name)) for name in HELDOUT}
        return Asked((Target(GENERAL, TEXT, tuple(HELDOUT)),), tuple(HELDOUT), sources)
    entries, sources, targets = [], {}, []
    for given in question.targets:
        if given in DOMAINS and not Path(str(given)).exists():
            entry, source = given, get_source(_heldout(given))
        else:
            try:
                source = get_source(source_entry(given), "--target")
            except SettingsError as error:
                *before, last = error.faults
                raise SettingsError(*before, f"{last}; or a bundled held-out text: {', '.join(DOMAINS)}") from None
            entry = source.to_dict()
        if source.label in sources:
            raise SettingsError(f"--target: two targets are called '{source.label}'; leave one out")
        source.check()
        entries.append(entry)
        sources[source.label] = source
        targets.append(Target(source.label, TEXT, (source.label,)))
    if question.tasks:
        name = question.tasks[0] if len(question.tasks) == 1 else f"{len(question.tasks)} tasks"
        targets.append(Target(name, question.measure, tasks=tuple(question.tasks)))
    return Asked(tuple(targets), tuple(entries), sources)


def task_texts(evaluation: EvaluationSettings, tokenizer: Any, context: int) -> dict[str, list[str]]:
    """The documents of each task that is asked, each as one text. Raises SettingsError for one that does not load."""
    if not evaluation.tasks:
        return {}
    built = build_requests(evaluation, tokenizer, context)
    return {task.name: [" ".join(texts_in(doc)) for doc in task.docs] for task in built.tasks}


def losses(metrics: pl.DataFrame, dense: pl.DataFrame, targets: Sequence[Target], *, screen: bool) -> tuple[float, ...]:
    """The loss of one trial on each target, from its rows and the dense model's rows in `metrics/`.

    inf where the model gives no number (its logits are NaN, its perplexity overflows).
    """
    return tuple(_loss(metrics, dense, target, screen=screen) for target in targets)


def examples(metrics: pl.DataFrame, target: Target) -> int:
    """Windows or examples behind a target's loss."""
    rows = _rows(metrics, target, target.measure)
    return int(rows["n"].sum()) if rows.height else 0


def _loss(metrics: pl.DataFrame, dense: pl.DataFrame, target: Target, *, screen: bool) -> float:
    measure = target.measure
    if screen and (errors := _rows(metrics, target, BLOCK_ERROR)).height:
        values = errors["value"].to_list()
        return math.inf if None in values else 100.0 * sum(math.log(max(v, NO_ERROR)) for v in values) / len(values)
    if screen and measure == TEXT and _rows(metrics, target, DIVERGENCE).height:
        apart = _mean(_rows(metrics, target, DIVERGENCE), DIVERGENCE)
        return math.inf if apart is None else 100.0 * math.log(max(apart, NO_DIVERGENCE))
    if screen and measure == ACCURACY and _rows(dense, target, LOGLIKELIHOOD)["value"].null_count() == 0:
        measure = LOGLIKELIHOOD if _rows(dense, target, LOGLIKELIHOOD).height else ACCURACY
    here, there = _mean(_rows(metrics, target, measure), measure), _mean(_rows(dense, target, measure), measure)
    if here is None or there is None:
        return math.inf
    if measure == TEXT:
        return 100.0 * (here - there)
    return (100.0 if measure == ACCURACY else 1.0) * (there - here)


def _rows(metrics: pl.DataFrame, target: Target, measure: str) -> pl.DataFrame:
    if measure == TEXT:
        return metrics.filter(pl.col("metric") == "perplexity", pl.col("task").is_in(list(target.labels)))
    if measure == DIVERGENCE:
        return metrics.filter(pl.col("metric") == "js_divergence", pl.col("task").is_in(list(target.labels)))
    if measure == BLOCK_ERROR:
        return metrics.filter(pl.col("metric") == "block_error", pl.col("task").is_in(list(target.labels)))
    if measure == ACCURACY:
        return metrics.filter(pl.col("kind") == "task", pl.col("metric") == pl.col("accuracy"))
    return metrics.filter(pl.col("kind") == "answers", pl.col("metric") == LOGLIKELIHOOD)


def _mean(rows: pl.DataFrame, measure: str) -> float | None:
    """Over texts or tasks; of perplexities that of their logarithms. None where one has no number."""
    if rows.is_empty() or rows["value"].null_count():
        return None
    values = [math.log(value) if measure == TEXT else value for value in rows["value"].to_list()]
    return sum(values) / len(values)


def _heldout(domain: str) -> dict[str, str]:
    return {"source": "heldout", "domain": domain}

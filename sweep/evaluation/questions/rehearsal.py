"""Every metric is computed once before the first trial, from made-up answers.

What a task's author got wrong in an aggregation, a metric or a `process_results` shows only when there are scores, and
would fail every trial after hours of compression. So the metrics of each task are computed once while its requests are
built. What fails for every example, or cannot be right whatever the scores, stops the study with one line that names
task and metric; what fails for some examples or some numbers only is left to the trials, where it costs that one metric
its value. The hard case is code that minds what it is given: generated answers are made up from the right ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from calib.settings import SettingsError
from sweep.evaluation.metrics.accuracy import accuracy_of, metric_name
from sweep.evaluation.metrics.aggregation import aggregation_of, told
from sweep.evaluation.questions.replay import Examples, Scores, TaskReplay

PASSING = (ArithmeticError, ValueError)  # of an aggregation: other numbers may do (too few classes, an overflow)


def rehearse(tasks: Sequence[TaskReplay], requests: int, generations: int, path: str) -> None:
    """Find out each task's metrics and its accuracy. Raises SettingsError for what would fail in every trial."""
    scores = _made_up(tasks, requests, generations)
    for replay in tasks:
        examples = replay.examples(scores)
        _check(replay, examples, f"{path}.tasks: task '{replay.name}'")
        replay.expected = {key: len(values) for key, values in examples.values.items()}
        replay.accuracy = accuracy_of(replay.task, {key: found.values() for key, found in examples.values.items()})


def _check(replay: TaskReplay, examples: Examples, where: str) -> None:
    remedy = "correct the task, install what it needs, or leave it out"
    for filter_name, failures in examples.failures.items():
        if filter_name not in {name for _, name in examples.values}:  # it fails for every example
            number, error = next(iter(failures.items()))
            under = "" if filter_name == "none" else f" under the filter '{filter_name}'"
            raise SettingsError(
                f"{where}: its metrics cannot be computed{under}: example {number}: {told(error)}; {remedy}"
            )
    if not examples.values:
        raise SettingsError(f"{where}: it gives no metric at all; name one in its metric_list")
    for key, values in examples.values.items():
        if key[0] not in replay.task.aggregation():  # nobody asked for it: null in every trial, with its reason
            continue
        try:
            aggregation_of(replay.task, key[0])(list(values.values()))
        except PASSING:
            continue
        except Exception as error:  # the task author's own code
            raise SettingsError(
                f"{where}, metric '{metric_name(key)}': its aggregation fails: {told(error)}; {remedy}"
            ) from error


def _made_up(tasks: Sequence[TaskReplay], requests: int, generations: int) -> Scores:
    """Scores as a model may give them, and the right answers where texts are asked for."""
    rng = np.random.default_rng(0)
    texts = ["1"] * generations
    for replay in tasks:
        for call in replay.calls:
            if call.kind == "generation":
                texts[call.start : call.stop] = [_right_text(replay, call.doc)] * (call.stop - call.start)
    return Scores(-rng.uniform(1, 20, requests), rng.random(requests) < 0.5, texts)


def _right_text(replay: TaskReplay, number: int) -> str:
    task, doc = replay.task, replay.docs[number]
    if task.config.doc_to_target is None:
        return "1"
    gold: Any = task.doc_to_target(doc)
    if isinstance(gold, list):
        gold = gold[0] if gold else "1"
    if task.config.doc_to_choice is not None and isinstance(gold, int):
        gold = task.doc_to_choice(doc)[gold]
    return str(gold)

"""From scores to metrics, by lm-eval's own code, on any machine and without the task's data set.

`freeze_task` takes what `process_results` needs of a task: its documents as plain values, its rendered choices and
targets (so that nothing is rendered again), its filters and aggregations. A frozen task is pickled, sent to workers
and replayed there for every trial. The hard case is code that lives in files that Python cannot import, such as the
`utils.py` beside a local task: it travels with the files beside it (`code.py`).
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.settings import SettingsError
from sweep.evaluation.metrics.accuracy import Key
from sweep.evaluation.metrics.aggregation import aggregate, aggregation_of, as_number, check_aggregations, finite
from sweep.evaluation.metrics.choices import Forecast, comparable, forecast
from sweep.evaluation.metrics.outcomes import Examples, Number, Outcome, TaskMetrics
from sweep.evaluation.questions.code import Freezer, Frozen

if TYPE_CHECKING:
    from lm_eval.api.task import Task


@dataclass(frozen=True)
class Call:
    """One request of a task: `scored` and `rolling` refer to Requests start..stop, `generation` to the generations."""

    doc: int
    choice: int
    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class Scores:
    """What the model answered, in the order of the requests."""

    loglikelihood: np.ndarray  # (n,), float64, nats
    greedy: np.ndarray  # (n,), bool: the continuation is the most likely one, token by token
    generations: Sequence[str | None] = ()  # None where the model's logits were no numbers


class Doc(dict):  # type: ignore[type-arg]
    """A task's document that knows its number, so that recorded renderings can be looked up."""

    number: int = -1


@dataclass(frozen=True)
class Recorded:
    """Stands in for `doc_to_choice` and its like: what they returned for each document when the task was built."""

    values: list[Any]

    def __call__(self, doc: Doc, *_: Any) -> Any:
        return self.values[doc.number]


@dataclass
class TaskReplay:
    """A task without its data set. Picklable; `metrics` may be called any number of times.

    `accuracy` and `expected` are found by `rehearse` (sweep/evaluation/questions/rehearsal.py), once for all trials.
    """

    name: str
    frozen: Frozen  # the task object, with the code beside its file
    docs: list[Doc]
    calls: list[Call]
    right: list[list[int]]  # numbers of the right choices of each document; empty when there are none
    accuracy: Key | None = None
    expected: dict[Key, int] = field(default_factory=dict)  # the task's metrics, and how many examples give them
    _task: Any = field(default=None, repr=False)
    _instances: list[Any] = field(default_factory=list, repr=False)
    _by_doc: dict[int, list[Any]] = field(default_factory=dict, repr=False)  # the instances of each document, by choice

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_task": None, "_instances": [], "_by_doc": {}}

    @property
    def task(self) -> Any:
        """The thawed lm-eval task; thawed once in each process."""
        if self._task is None:
            from lm_eval.api.instance import Instance

            self._task = self.frozen.thaw()
            self._instances = [
                Instance(
                    request_type="loglikelihood",
                    doc=self.docs[call.doc],
                    arguments=("",),
                    idx=call.choice,
                    metadata=(self.name, call.doc, 1),
                )
                for call in self.calls
            ]
            self._task._instances = self._instances
            by_doc: dict[int, list[Any]] = defaultdict(list)
            for instance in sorted(self._instances, key=lambda instance: instance.idx):
                by_doc[instance.doc_id].append(instance)
            self._by_doc = {number: by_doc[number] for number in sorted(by_doc)}
        return self._task

    def metrics(self, scores: Scores, bootstrap_iters: int = 0) -> TaskMetrics:
        """Filters, per-example metrics, aggregation and standard errors of lm-eval for these scores.

        A metric that fails is None with its reason and costs no other its value.
        """
        with _no_garbage_collection():
            examples = self.examples(scores)
            keys = dict.fromkeys((*examples.values, *self.expected))
            numbers = {key: self._number(key, examples, bootstrap_iters) for key in keys}
            outcomes = [self._outcome(number, examples) for number in self._by_doc]
        return TaskMetrics(
            self.name,
            {key: number.value for key, number in numbers.items()},
            {key: number.stderr for key, number in numbers.items()},
            {key: number.n for key, number in numbers.items()},
            {key: number.reason for key, number in numbers.items() if number.reason is not None},
            outcomes,
            self.accuracy,
            examples.unscored_reason(),
        )

    def examples(self, scores: Scores) -> Examples:
        """What lm-eval makes of every example; examples whose scores are no numbers are left out."""
        task = self.task
        repeats = task.config.repeats or 1
        for instance, call in zip(self._instances, self.calls, strict=True):
            instance.resps, instance.filtered_resps = _answers(call, scores, repeats), {}
        unscored = _unscored(self.calls, scores, mutual="acc_mutual_info" in task.aggregation())
        found = Examples(len(self._by_doc), unscored)
        try:
            task.apply_filters()
        except MemoryError:
            raise
        except Exception as error:  # a filter may be the task author's own code
            names = dict.fromkeys(name for _, name in self.expected) or {"none": None}
            return replace(found, failures={name: dict.fromkeys(self._by_doc, error) for name in names})
        for filter_name in self._instances[0].filtered_resps:
            for number, instances in self._by_doc.items():
                if number in found.unscored:
                    continue
                answers = [instance.filtered_resps[filter_name] for instance in instances]
                try:
                    results = dict(task.process_results(self.docs[number], answers))
                except MemoryError:
                    raise
                except Exception as error:  # the task author's own code; lm-eval would stop here
                    found.failures.setdefault(filter_name, {})[number] = error
                    continue
                for metric, value in results.items():
                    found.values.setdefault((metric, filter_name), {})[number] = value
        return found

    def _number(self, key: Key, examples: Examples, bootstrap_iters: int) -> Number:
        items = list(examples.values.get(key, {}).values())
        n = self.expected.get(key, len(items))
        reason = examples.unscored_reason() or examples.failure_reason(key[1])
        if reason is None and not items:
            reason = "no example gives this metric"
        if reason is not None:
            return Number(None, None, n, reason)
        value, stderr, reason = aggregate(aggregation_of(self.task, key[0]), items, bootstrap_iters)
        return Number(value, stderr, len(items), reason)

    def _outcome(self, number: int, examples: Examples) -> Outcome:
        if number in examples.unscored:
            return Outcome(number, None, None, None, None)
        margin, likelihood, forecast = self._likelihoods(number)
        found = {key[0]: values[number] for key, values in reversed(examples.values.items()) if number in values}
        correct = examples.values.get(self.accuracy or ("", ""), {}).get(number)
        return Outcome(number, finite(correct), finite(found.get("acc_norm")), margin, likelihood, forecast)

    def _likelihoods(self, number: int) -> tuple[float | None, float | None, Forecast | None]:
        """(margin, log-likelihood of the right answer, forecast) of one example, in nats; None where there is none."""
        answers = [instance.resps[0] for instance in self._by_doc[number]]
        if isinstance(answers[0], float):
            return None, finite(answers[0]), None
        if not isinstance(answers[0], tuple):
            return None, None, None
        lls = [answer[0] for answer in answers]
        if self.task.OUTPUT_TYPE != "multiple_choice":
            return None, finite(lls[0]) if len(lls) == 1 else None, None
        right = self.right[number]
        if not right or callable(self.task.config.process_results):  # then which answers are right is its secret
            return None, None, None
        choices = self.task.doc_to_choice(self.docs[number])
        found = forecast(comparable(lls, choices, self.accuracy[0] if self.accuracy else None), right)
        lls = lls[: len(choices)]  # beyond the choices: what they are worth unasked
        likelihood = max(lls[choice] for choice in right)
        wrong = [ll for choice, ll in enumerate(lls) if choice not in right]
        return finite(likelihood - max(wrong)) if wrong else None, finite(likelihood), found


def freeze_task(name: str, task: Task, calls: Sequence[Call], path: str, freezer: Freezer) -> TaskReplay:
    """Copy what `process_results` needs of `task`. Raises SettingsError when the task's code cannot be sent."""
    check_aggregations(name, task, path)
    by_doc = {instance.doc_id: instance.doc for instance in task.instances or ()}
    numbers = {doc_id: position for position, doc_id in enumerate(sorted(by_doc))}
    docs = []
    for doc_id, position in numbers.items():
        doc = Doc(by_doc[doc_id])
        doc.number = position
        docs.append(doc)
    originals = [by_doc[doc_id] for doc_id in numbers]
    frozen = _without_data(name, task, originals)
    right = [_right_choices(task, doc) for doc in originals]
    calls = [Call(numbers[call.doc], call.choice, call.kind, call.start, call.stop) for call in calls]
    try:
        return TaskReplay(name, freezer.freeze(frozen), docs, calls, right)
    except SettingsError as error:
        raise SettingsError(f"{path}.tasks: task '{name}': {error}") from error
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path}.tasks: task '{name}' holds code that cannot be sent to workers: {error}; give it a name in the "
            "module beside the task's file"
        ) from error


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing here forms cycles, and looking for them among a suite's documents takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _answers(call: Call, scores: Scores, repeats: int) -> list[Any]:
    """What lm-eval's model classes return for one request, one entry for each repeat."""
    if call.kind == "generation":
        return list(scores.generations[call.start : call.stop])
    if call.kind == "rolling":
        return [float(scores.loglikelihood[call.start : call.stop].sum())] * repeats
    return [(float(scores.loglikelihood[call.start]), bool(scores.greedy[call.start]))] * repeats


def _unscored(calls: Sequence[Call], scores: Scores, *, mutual: bool) -> frozenset[int]:
    """Examples with a score that is no number: the largest of NaNs is no answer, though `argmax` gives one.

    Minus infinity is the score of something impossible and counts as lm-eval counts it, except where two of them are
    subtracted (`mutual`).
    """
    valid = np.isfinite(scores.loglikelihood)
    if not mutual:
        valid |= np.isneginf(scores.loglikelihood)
    written = np.asarray([text is not None for text in scores.generations], bool)
    if valid.all() and written.all():
        return frozenset()
    return frozenset(
        call.doc
        for call in calls
        if not (written if call.kind == "generation" else valid)[call.start : call.stop].all()
    )


def _without_data(name: str, task: Any, docs: Sequence[Any]) -> Any:
    """A copy of the task that holds no data set and looks its renderings up."""
    frozen = copy.copy(task)
    for attribute in ("dataset", "task_docs", "_training_docs", "_fewshot_docs", "sampler", "fewshot_rnd", "prompt"):
        frozen.__dict__[attribute] = None
    frozen._instances = None
    config = copy.copy(task.config)
    config.task = name
    for attribute in ("custom_dataset", "process_docs", "doc_to_text", "doc_to_target", "fewshot_config"):
        setattr(config, attribute, None)
    for attribute in ("metric_list", "filter_list", "doc_to_decontamination_query", "dataset_kwargs", "metadata"):
        setattr(config, attribute, None)
    if task.config.doc_to_choice is not None:
        config.doc_to_choice = "recorded"
        frozen.doc_to_choice = Recorded([task.doc_to_choice(doc) for doc in docs])
    if task.config.doc_to_target is not None:
        frozen.doc_to_target = Recorded([task.doc_to_target(doc) for doc in docs])
    if getattr(task, "multiple_input", False):
        frozen.doc_to_text = Recorded([task.doc_to_text(doc) for doc in docs])
    frozen._config = config
    if task.OUTPUT_TYPE != "generate_until" and hasattr(task, "_metric_fn_list"):
        frozen._metric_fn_list = dict.fromkeys(task._metric_fn_list)  # only their names are asked for
    return frozen


def _right_choices(task: Any, doc: Any) -> list[int]:
    """Numbers of the right choices of a multiple-choice document, as `process_results` finds them."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.doc_to_choice is None:
        return []
    gold = task.doc_to_text(doc) if getattr(task, "multiple_input", False) else task.doc_to_target(doc)
    choices = task.doc_to_choice(doc)
    found = gold if isinstance(gold, list) else [gold]
    numbers = [choices.index(item) if isinstance(item, str) and item in choices else item for item in found]
    whole = [number for number in numbers if as_number(number) in range(len(choices))]  # 1.0 is as good as 1
    return [number if isinstance(number, int) else int(number) for number in whole]

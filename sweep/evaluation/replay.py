"""From scores to metrics, by lm-eval's own code, on any machine and without the task's data set.

`freeze_task` takes what `process_results` needs of a task: its documents as plain values, its rendered choices and
targets (so that nothing is rendered again), its filters and aggregations. A frozen task is pickled, sent to workers
and replayed there for every trial. The hard case is code that lives in files that Python cannot import, such as the
`utils.py` beside a local task: it travels with the files beside it (`taskcode.py`).
"""

from __future__ import annotations

import copy
import gc
import math
import pickle
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.settings import SettingsError
from sweep.evaluation.presets import Mean
from sweep.evaluation.taskcode import Freezer, Frozen

if TYPE_CHECKING:
    from lm_eval.api.group import Group
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
    generations: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """One example of one task. None where the task has no such thing."""

    doc_id: int
    correct: bool | None
    correct_norm: bool | None
    margin: float | None
    loglikelihood: float | None


@dataclass(frozen=True)
class TaskMetrics:
    """A task's numbers: `values` and `stderrs` by (metric, filter), and the outcome of every example."""

    name: str
    values: dict[tuple[str, str], float | None]
    stderrs: dict[tuple[str, str], float | None]
    counts: dict[tuple[str, str], int]
    outcomes: list[Outcome]


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
    """A task without its data set. Picklable; `metrics` may be called any number of times."""

    name: str
    frozen: Frozen  # the task object, with the code beside its file
    docs: list[Doc]
    calls: list[Call]
    right: list[list[int]]  # numbers of the right choices of each document; empty when there are none
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
        """Filters, per-example metrics, aggregation and standard errors of lm-eval for these scores."""
        with _no_garbage_collection():
            return self._metrics(scores, bootstrap_iters)

    def _metrics(self, scores: Scores, bootstrap_iters: int) -> TaskMetrics:
        task = self.task
        for instance, call in zip(self._instances, self.calls, strict=True):
            instance.resps, instance.filtered_resps = _answers(call, scores), {}
        task.apply_filters()
        raw: dict[tuple[str, str], list[Any]] = defaultdict(list)
        per_doc: dict[int, dict[str, Any]] = {number: {} for number in self._by_doc}
        for filter_name in self._instances[0].filtered_resps:
            for number, instances in self._by_doc.items():
                found = task.process_results(
                    self.docs[number], [instance.filtered_resps[filter_name] for instance in instances]
                )
                for metric, value in found.items():
                    raw[metric, filter_name].append(value)
                    per_doc[number].setdefault(metric, value)
        values, stderrs = {}, {}
        for key, items in raw.items():
            values[key], stderrs[key] = _aggregate(task, key[0], items, bootstrap_iters)
        outcomes = [self._outcome(number, per_doc[number], self._by_doc[number]) for number in self._by_doc]
        return TaskMetrics(self.name, values, stderrs, {key: len(items) for key, items in raw.items()}, outcomes)

    def _outcome(self, number: int, found: Mapping[str, Any], instances: Sequence[Any]) -> Outcome:
        right = self.right[number]
        margin = likelihood = None
        answers = [instance.resps[0] for instance in instances]
        if isinstance(answers[0], tuple):
            lls = [answer[0] for answer in answers]
            if right and max(right) < len(lls):
                likelihood = max(lls[choice] for choice in right)
                wrong = [ll for choice, ll in enumerate(lls) if choice not in right]
                margin = likelihood - max(wrong) if wrong else None
            elif len(lls) == 1:
                likelihood = lls[0]
        elif isinstance(answers[0], float):
            likelihood = answers[0]
        correct = next((found[name] for name in ("acc", "exact_match", "em") if name in found), None)
        return Outcome(number, _flag(correct), _flag(found.get("acc_norm")), margin, likelihood)


@dataclass(frozen=True)
class GroupReplay:
    """An lm-eval group: the names of its tasks, and its aggregation rules as lm-eval writes them."""

    name: str
    tasks: tuple[str, ...]
    rules: tuple[dict[str, Any], ...]

    def metrics(self, tasks: Mapping[str, TaskMetrics]) -> dict[tuple[str, str], tuple[float, float | None, int]]:
        """(metric, filter) -> (value, stderr, n) by lm-eval's rule; empty when the group does not aggregate."""
        from lm_eval.api.group import Group
        from lm_eval.config.group import AggMetricConfig

        group: Any = Group(self.name, aggregate_metric_list=[AggMetricConfig(**rule) for rule in self.rules])
        group.get_all_tasks = lambda: [SimpleNamespace(task_name=name) for name in self.tasks]
        found = group.aggregate({name: _as_lm_eval(tasks[name]) for name in self.tasks})
        rows: dict[tuple[str, str], tuple[float, float | None, int]] = {}
        for key, count in found.get("sample_count", {}).items():
            metric, _, filter_name = key.partition(",")
            stderr = found[f"{metric}_stderr,{filter_name}"]
            rows[metric, filter_name] = (float(found[key]), None if stderr == "N/A" else float(stderr), int(count))
        return rows


def freeze_task(name: str, task: Task, calls: Sequence[Call], path: str, freezer: Freezer) -> TaskReplay:
    """Copy what `process_results` needs of `task`. Raises SettingsError when the task's code cannot be sent."""
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


def freeze_groups(groups: Mapping[str, Group], labels: Sequence[str], names: Collection[str]) -> list[GroupReplay]:
    """lm-eval's groups over the tasks, and once more over each kind of perturbed variant (`labels`).

    `names` are the tasks and variants that there are; a group with a task that has no variant is not repeated.
    """
    frozen = []
    for label in ("", *labels):
        for name, group in groups.items():
            tasks = tuple(task.task_name + label for task in group.get_all_tasks())
            if set(tasks) <= set(names):
                rules = tuple(asdict(rule) for rule in group.aggregate_metric_list or ())
                frozen.append(GroupReplay(name + label, tasks, rules))
    return frozen


def preset_group(mean: Mean) -> GroupReplay:
    """A preset's unweighted mean as an lm-eval group, so that value and standard error follow lm-eval's rules."""
    return GroupReplay(mean.name, mean.tasks, ({"metric": mean.metric, "weight_by_size": False},))


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


def _answers(call: Call, scores: Scores) -> list[Any]:
    """What lm-eval's model classes return for one request, one entry for each repeat."""
    if call.kind == "generation":
        return list(scores.generations[call.start : call.stop])
    if call.kind == "rolling":
        return [float(scores.loglikelihood[call.start : call.stop].sum())]
    return [(float(scores.loglikelihood[call.start]), bool(scores.greedy[call.start]))]


def _aggregate(task: Any, metric: str, items: list[Any], bootstrap_iters: int) -> tuple[float | None, float | None]:
    from lm_eval.api import metrics as rules

    aggregate = task.aggregation().get(metric, rules.mean)
    closed_form = aggregate in (rules.mean, rules.acc_all)
    stderr = None
    if len(items) > 1 and (closed_form or bootstrap_iters):
        rule = rules.stderr_for_metric(metric=aggregate, bootstrap_iters=bootstrap_iters or 1)
        stderr = _number(rule(items)) if rule is not None else None
    return _number(aggregate(items)), stderr


def _number(value: Any) -> float | None:
    """A finite float, or None for what has no number ('N/A', NaN, an overflow)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _flag(value: Any) -> bool | None:
    return None if value is None or isinstance(value, (tuple, list, dict, str)) else bool(value)


def _as_lm_eval(result: TaskMetrics) -> dict[str, Any]:
    """The task's numbers in the form that `Group.aggregate` reads."""
    flat: dict[str, Any] = {"name": result.name, "sample_len": max(result.counts.values(), default=0)}
    for (metric, filter_name), value in result.values.items():
        if value is not None:
            stderr = result.stderrs[metric, filter_name]
            flat[f"{metric},{filter_name}"] = value
            flat[f"{metric}_stderr,{filter_name}"] = "N/A" if stderr is None else stderr
    return flat


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
    return [number for number in numbers if isinstance(number, int) and 0 <= number < len(choices)]

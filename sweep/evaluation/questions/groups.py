"""Numbers over several tasks, by lm-eval's own rules: its groups, and the means that presets report.

The hard case is a mean over a group, such as MMLU's 57 tasks beside six others: the group counts as one task.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from sweep.evaluation.metrics.accuracy import Key
from sweep.evaluation.metrics.aggregation import finite
from sweep.evaluation.metrics.outcomes import Number, TaskMetrics
from sweep.evaluation.tasks.presets import Mean

if TYPE_CHECKING:
    from lm_eval.api.group import Group


@dataclass(frozen=True)
class GroupReplay:
    """An lm-eval group: the names of its tasks, and its aggregation rules as lm-eval writes them."""

    name: str
    tasks: tuple[str, ...]
    rules: tuple[dict[str, Any], ...]
    inner: tuple[GroupReplay, ...] = ()  # those of `tasks` that are groups: each counts as one task

    def metrics(self, tasks: Mapping[str, TaskMetrics]) -> dict[Key, Number]:
        """The group's numbers by lm-eval's rule; empty when it does not aggregate.

        A metric that one of its tasks could not compute is None: the mean over the others is another number.
        """
        tasks = {**tasks, **{group.name: group.as_task(tasks) for group in self.inner}}
        rows: dict[Key, Number] = {}
        for rule in self.rules:
            rows |= self._aggregate(rule, tasks)
            for name in self.tasks:
                for key, reason in tasks[name].reasons.items():
                    if key[0] == rule["metric"] and _asked(key[1], rule.get("filter_list")):
                        n = sum(tasks[other].counts.get(key, 0) for other in self.tasks)
                        rows[key] = Number(None, None, n, f"{name}: {reason}")
        return rows

    def as_task(self, tasks: Mapping[str, TaskMetrics]) -> TaskMetrics:
        """The group's own numbers, in the place of a task's."""
        rows = self.metrics(tasks)
        return TaskMetrics(
            self.name,
            {key: number.value for key, number in rows.items()},
            {key: number.stderr for key, number in rows.items()},
            {key: number.n for key, number in rows.items()},
            {key: number.reason for key, number in rows.items() if number.reason is not None},
            [],
            None,
        )

    def _aggregate(self, rule: dict[str, Any], tasks: Mapping[str, TaskMetrics]) -> dict[Key, Number]:
        from lm_eval.api.group import Group
        from lm_eval.config.group import AggMetricConfig

        group: Any = Group(self.name, aggregate_metric_list=[AggMetricConfig(**rule)])
        group.get_all_tasks = lambda: [SimpleNamespace(task_name=name) for name in self.tasks]
        found = group.aggregate({name: _as_lm_eval(tasks[name]) for name in self.tasks})
        rows: dict[Key, Number] = {}
        for key, count in found.get("sample_count", {}).items():
            metric, _, filter_name = key.partition(",")
            value, stderr = finite(found[key]), finite(found[f"{metric}_stderr,{filter_name}"])
            reason = None if value is not None else f"the group's mean is {found[key]}"
            rows[metric, filter_name] = Number(value, stderr, int(count), reason)
        return rows


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


def preset_group(mean: Mean, groups: Sequence[GroupReplay], path: str) -> GroupReplay:
    """A preset's unweighted mean as an lm-eval group, so that value and standard error follow lm-eval's rules.

    A task that is itself one of the `groups` counts as one task, with the group's own mean. Raises SettingsError where
    such a group gives no mean of this metric.
    """
    inner = tuple(group for group in groups if group.name in mean.tasks)
    for group in inner:
        if mean.metric not in [rule["metric"] for rule in group.rules]:
            raise SettingsError(
                f"{path}.tasks: the preset's mean '{mean.name}' needs {mean.metric} of the group '{group.name}', which "
                "gives none; leave the preset out and name its tasks"
            )
    return GroupReplay(mean.name, mean.tasks, ({"metric": mean.metric, "weight_by_size": False},), inner)


def _asked(filter_name: str, filters: Any) -> bool:
    """Whether a group's rule is about this filter; without a list it is about all."""
    return filters is None or filter_name in ([filters] if isinstance(filters, str) else filters)


def _as_lm_eval(result: TaskMetrics) -> dict[str, Any]:
    """The task's numbers in the form that `Group.aggregate` reads."""
    flat: dict[str, Any] = {"name": result.name, "sample_len": max(result.counts.values(), default=0)}
    for (metric, filter_name), value in result.values.items():
        stderr = result.stderrs[metric, filter_name]
        flat[f"{metric},{filter_name}"] = math.nan if value is None else value  # left out, it would count as not asked
        flat[f"{metric}_stderr,{filter_name}"] = "N/A" if stderr is None else stderr
    return flat

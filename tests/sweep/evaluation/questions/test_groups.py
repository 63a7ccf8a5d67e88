"""Means over tasks and groups."""

from __future__ import annotations

import pytest

from calib.settings import SettingsError
from sweep.evaluation.metrics.outcomes import TaskMetrics
from sweep.evaluation.questions.groups import GroupReplay, preset_group
from sweep.evaluation.tasks.presets import Mean

ACC = ("acc", "none")
GROUP = GroupReplay("mmlu", ("law", "logic"), ({"metric": "acc", "weight_by_size": True},))


def task(name: str, value: float | None, n: int) -> TaskMetrics:
    reasons = {ACC: "broken"} if value is None else {}
    return TaskMetrics(name, {ACC: value}, {ACC: 0.1}, {ACC: n}, reasons, [])


def test_a_group_counts_as_one_task_in_a_presets_mean() -> None:
    tasks = {"piqa": task("piqa", 0.8, 10), "law": task("law", 0.2, 30), "logic": task("logic", 0.6, 10)}
    mean = preset_group(Mean("both", ("piqa", "mmlu")), [GROUP], "evaluation")
    number = mean.metrics(tasks)[ACC]
    assert number.value == pytest.approx((0.8 + (0.2 * 30 + 0.6 * 10) / 40) / 2)
    assert number.n == 50


def test_a_group_that_has_no_number_leaves_the_mean_without_one() -> None:
    tasks = {"piqa": task("piqa", 0.8, 10), "law": task("law", None, 30), "logic": task("logic", 0.6, 10)}
    number = preset_group(Mean("both", ("piqa", "mmlu")), [GROUP], "evaluation").metrics(tasks)[ACC]
    assert number.value is None
    assert number.reason == "mmlu: law: broken"


def test_a_group_without_this_mean_is_refused_before_any_trial() -> None:
    with pytest.raises(SettingsError, match="evaluation.tasks: the preset's mean 'both' needs f1 of the group 'mmlu'"):
        preset_group(Mean("both", ("piqa", "mmlu"), "f1"), [GROUP], "evaluation")

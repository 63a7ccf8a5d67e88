"""Metrics that no score could give a value: found by computing every metric once before the first trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.common import Case, write_study

HEAD = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: docs.jsonl}}\ntest_split: test\n"
CHOICE = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['yes', 'no']\ndoc_to_target: gold\n"
WRITE = "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{answer}}'\n"
DOCS = [{"q": "Is it?", "answer": "yes", "gold": 0}, {"q": "Was it?", "answer": "no", "gold": 1}]


def task(body: str, metric: str) -> Callable[[Path], list[str]]:
    """A study of one task with one metric."""

    def build(folder: Path) -> list[str]:
        tasks = folder / "tasks"
        tasks.mkdir()
        (tasks / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
        (tasks / "mine.yaml").write_text(f"{HEAD}{body}metric_list: [{{{metric}}}]\n")
        return [
            write_study(folder, evaluation={"tasks": ["mine"], "task_path": str(tasks), "allow_code": True}),
            "--local",
        ]

    return build


MINE = r"evaluation\.tasks: task 'mine', metric "
CASES: dict[str, Case] = {
    "an aggregation that wants pairs": Case(
        task(CHOICE, "metric: acc, aggregation: weighted_perplexity, higher_is_better: true"),
        MINE + r"'acc': its aggregation fails: TypeError: .*; correct the task",
        torch=True,
    ),
    "an aggregation of right and predicted": Case(
        task(CHOICE, "metric: acc, aggregation: matthews_corrcoef, higher_is_better: true"),
        MINE + r"'acc': its aggregation fails: \w+: .*; correct the task",
        torch=True,
    ),
    "a metric of a package that is not there": Case(
        task(WRITE, "metric: no_such_metric, aggregation: mean, higher_is_better: true, hf_evaluate: true"),
        r"evaluation\.tasks: task 'mine' \(.*mine.yaml\): metric_list: no metric 'no_such_metric' can be had",
        torch=True,
    ),
}

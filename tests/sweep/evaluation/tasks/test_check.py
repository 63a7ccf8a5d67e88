"""What is right with a task's file stays right, and code runs where it may; mistakes are in the table of bad inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from calib.settings import SettingsError
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.tasks import lmeval
from sweep.evaluation.tasks.check import check_tasks
from sweep.plan import evaluation_identity

TASK = """task: mine
tag: [easy, short]
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl, train: [docs.jsonl]}}
training_split: train
test_split: test
fewshot_split: train
output_type: generate_until
description: "Answer {{kind|default('it')}}.\\n"
doc_to_text: "Q: {{q}}\\nA:"
doc_to_target: answer
gen_prefix: "So"
target_delimiter: ""
num_fewshot: 2
repeats: 1
fewshot_config: {sampler: first_n, doc_to_text: "Q: {{q}}"}
generation_kwargs: {until: ["\\n", "Q:"], max_gen_toks: 8, do_sample: false, temperature: 0.0, top_p: 0.9}
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "(\\\\d+)"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
metadata: {version: 1.0}
"""
CODED = TASK.replace("task: mine", "task: coded") + "process_results: !function rules.rate\n"
Checker = Callable[..., None]


@pytest.fixture
def check(tmp_path: Path) -> Checker:
    """Check tasks in a folder with these files."""

    def call(names: list[str], allow_code: bool | None = False, **files: str) -> None:
        contents = {"docs.jsonl": "{}\n", "mine.yaml": TASK, "coded.yaml": CODED, "rules.py": "rate = max\n", **files}
        for name, content in contents.items():
            (tmp_path / name).write_text(content)
        check_tasks(names, str(tmp_path), "evaluation.tasks", allow_code=allow_code)

    return call


def test_a_task_of_every_key_is_right(check: Checker) -> None:
    check(["mine"])


def test_groups_of_every_shape_are_right(check: Checker) -> None:
    group = (
        "group: all\ntask:\n- mine\n- piqa\n- {task: boolq, num_fewshot: 1}\n"
        "- {group: inner, task: [{task: mine, num_fewshot: 0}]}\n"
        "- {task: here, dataset_path: json, dataset_kwargs: {data_files: {test: docs.jsonl}}, test_split: test,\n"
        "   output_type: loglikelihood, doc_to_text: q, doc_to_target: answer}\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true, filter_list: [none]}]\n"
    )
    check(["all"], **{"all.yaml": group})


def test_a_group_may_put_settings_over_those_of_its_tasks(check: Checker) -> None:
    over = "num_fewshot: 1\nmetric_list: [{metric: exact_match}]\ndescription: '{{q}}'\n"
    check(
        ["all"], **{"all.yaml": f"group: all\n{over}task:\n- mine\n- {{task: piqa, metric_list: [{{metric: acc}}]}}\n"}
    )


def test_code_may_register_filters_and_metrics_of_its_own(check: Checker) -> None:
    code = (
        "from helper import *\n@register_metric(\n    metric='own', aggregation='mean')\ndef rate(**_):\n    return 0\n"
    )
    task = CODED.replace("process_results", "process_docs").replace(
        "metric: exact_match, aggregation: mean", "metric: own"
    )
    task = task.replace("function: take_first", "function: cut")
    check(
        ["coded"],
        allow_code=True,
        **{"coded.yaml": task, "rules.py": code, "helper.py": "@register_filter('cut')\nclass Cut: ...\n"},
    )
    with pytest.raises(SettingsError, match="unknown filter 'cut'"):
        check(["coded"], allow_code=True, **{"coded.yaml": task, "rules.py": code, "helper.py": ""})


def test_other_files_of_the_folder_may_be_wrong(check: Checker) -> None:
    check(["mine"], **{"wrong.yaml": "task: [", "twice.yaml": "task: other\n", "again.yaml": "task: other\n"})


@pytest.mark.parametrize("name", ["coded", "easy"])
def test_code_runs_where_it_is_allowed(check: Checker, name: str) -> None:
    check([name], allow_code=True)
    check([name], allow_code=None)  # a caller of this package runs Python anyway
    with pytest.raises(SettingsError, match=r"process_results: `!function rules\.rate` runs Python code"):
        check([name], allow_code=False)


@pytest.mark.parametrize("name", ["reference", "hellaswag", "mmlu_anatomy", "squadv2"])
def test_tasks_that_come_with_lm_eval_and_ours_need_no_word(name: str) -> None:
    check_tasks([name], None, "evaluation.tasks", allow_code=False)


def test_code_that_lm_evals_own_file_names_is_trusted_through_an_include(check: Checker) -> None:
    own = lmeval.tasks_folder() / "hellaswag" / "hellaswag.yaml"
    check(["mine"], **{"mine.yaml": f"include: {own}\ntask: mine\n"})


def test_looking_at_code_does_not_run_it(check: Checker, tmp_path: Path) -> None:
    code = (
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef rate(doc, answers):\n    return {{}}\n"
    )
    check(["coded"], allow_code=True, **{"rules.py": code})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "code",
    [
        "from math import *\n",
        "globals()['rate'] = max\n",
        "try:\n    from fast import rate\nexcept ImportError:\n    rate = max\n",
        "if True:\n    def rate(doc, answers): ...\n",
        "def make():\n    global rate\n    rate = max\n\nmake()\n",
        "import math as rate\n",
        "(a, rate) = (1, max)\n",
    ],
)
def test_names_are_found_however_a_module_makes_them(check: Checker, code: str) -> None:
    check(["coded"], allow_code=True, **{"rules.py": code})


def test_allow_code_is_no_part_of_the_identity() -> None:
    identities = [
        evaluation_identity(EvaluationSettings(tasks=["reference_piqa"], allow_code=allowed))
        for allowed in (None, False, True)
    ]
    assert identities[0] == identities[1] == identities[2]

"""Tasks of every kind of metric, what they ask, and answers that are made up."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.evaluation.questions.replay import Scores
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import EvaluationData, build_evaluation

HEAD = "dataset_path: json\ndataset_kwargs: {data_files: {test: docs.jsonl}}\ntest_split: test\n"
ASK = 'doc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\n'
CHOICE = f"output_type: multiple_choice\n{ASK}doc_to_target: gold\n"
WRITE = 'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{answer}}"\n'
WRITE += 'generation_kwargs: {until: ["\\n"], max_gen_toks: 4}\n'
CODE = """
import math
from statistics import fmean

def mass(doc, results):
    p = [math.exp(value) for value, _ in results]
    return {"acc": p[doc["gold"]] / sum(p)}

def em(doc, results):
    return {"em": results[0].strip() == doc["answer"], "length": [len(results[0])]}

def sometimes(doc, results):
    right = float(results[doc["gold"]][0] == max(value for value, _ in results))
    return {"acc": right, "all": right} if doc["gold"] else {"all": right}

def picky(doc, results):
    if results[0][0] < -900:
        raise ZeroDivisionError("no mass")
    return {"acc": 1.0}

def average(items):
    return fmean(items)

def worst(items):
    return 1 / sum(items) if sum(items) < 0.5 else min(items)
"""


def metrics(*names: str, aggregation: str = "mean", better: bool = True) -> str:
    rows = [
        f"{{metric: {name}, aggregation: {aggregation}, higher_is_better: {str(better).lower()}}}" for name in names
    ]
    return f"metric_list: [{', '.join(rows)}]\n"


def named(*patterns: str) -> str:
    filters = [
        f"{{name: {name}, filter: [{{function: regex, regex_pattern: '{pattern}'}}, {{function: take_first}}]}}"
        for name, _, pattern in (text.partition(" ") for text in patterns)
    ]
    return f"filter_list: [{', '.join(filters)}]\n"


VOTES = "filter_list: [{name: first, filter: [{function: take_first}]}, "
VOTES += "{name: vote, filter: [{function: majority_vote}, {function: take_first}]}]\nrepeats: 3\n"
MEDIAN = "metric_list:\n- {metric: acc, aggregation: median, higher_is_better: true}\n"
MEDIAN += "- {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
TASKS = {
    "plain": CHOICE + metrics("acc", "acc_norm"),
    "norm": CHOICE + metrics("acc_norm"),
    "f1": CHOICE + metrics("f1", aggregation="f1"),
    "mutual": CHOICE + metrics("acc_mutual_info"),
    "several": f"output_type: multiple_choice\n{ASK}doc_to_target: golds\n" + metrics("acc"),
    "inputs": 'output_type: multiple_choice\ndoc_to_text: gold\ndoc_to_choice: "{{c}}"\ndoc_to_target: "{{answer}}"\n'
    + metrics("acc"),
    "mass": CHOICE + "process_results: !function code.mass\n" + metrics("acc"),
    "sometimes": CHOICE + "process_results: !function code.sometimes\n" + metrics("acc", "all"),
    "picky": CHOICE + "process_results: !function code.picky\n" + metrics("acc"),
    "own_mean": CHOICE + metrics("acc", aggregation="!function code.average"),
    "own_other": CHOICE + metrics("acc", aggregation="!function code.worst"),
    "median": CHOICE + MEDIAN,
    "lower": CHOICE + metrics("acc", better=False),
    "number": WRITE + named("strict ^(yes)$", "loose (yes|no|maybe)") + metrics("exact_match"),
    "votes": WRITE + VOTES + metrics("exact_match"),
    "em": WRITE + "process_results: !function code.em\n" + metrics("em"),
    "last": 'output_type: loglikelihood\ndoc_to_text: "{{q}}"\ndoc_to_target: " {{answer}}"\n'
    "metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false},"
    " {metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "page": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{q}}"\n'
    "metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]\n",
}
ACCURACY = {
    "plain": ("acc", "none"),
    "norm": ("acc_norm", "none"),
    "mutual": ("acc_mutual_info", "none"),
    "several": ("acc", "none"),
    "inputs": ("acc", "none"),
    "mass": ("acc", "none"),
    "sometimes": ("acc", "none"),
    "picky": ("acc", "none"),
    "own_mean": ("acc", "none"),
    "median": ("acc_norm", "none"),
    "number": ("exact_match", "strict"),
    "votes": ("exact_match", "first"),
    "em": ("em", "none"),
    "last": ("acc", "none"),
}
DOCS = [
    {"q": f"the cat number {n}", "c": ["yes", "no no", "maybe"], "gold": n % 3, "golds": [n % 3, (n + 1) % 3]}
    for n in range(7)
]
DOCS = [{**doc, "answer": ("yes", "no", "maybe")[int(str(doc["gold"]))]} for doc in DOCS]


def write(folder: Path, tasks: dict[str, str], code: str = CODE) -> Path:
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (folder / "code.py").write_text(code)
    for name, body in tasks.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{HEAD}{body}")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> EvaluationData:
    folder = write(tmp_path_factory.mktemp("tasks"), TASKS)
    means = "aggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    (folder / "both.yaml").write_text(f"group: both\ntask: [plain, mass]\n{means}")
    settings = EvaluationSettings(
        tasks=["both", *(name for name in TASKS if name not in ("plain", "mass"))], task_path=str(folder)
    )
    return pickle.loads(pickle.dumps(build_evaluation(settings, tokenizer, 96)))  # as a worker gets it


def made_up(data: EvaluationData, seed: int = 1) -> Scores:
    rng = np.random.default_rng(seed)
    count = len(data.tasks.requests)
    texts = rng.choice(["yes", "no", "maybe", "the yes", " "], len(data.tasks.generations)).tolist()
    return Scores(-rng.uniform(1, 9, count), rng.random(count) < 0.5, texts)


def of(data: EvaluationData, name: str) -> Any:
    return next(replay for replay in data.tasks.tasks if replay.name == name)


def name_of(key: tuple[str, str]) -> str:
    return key[0] if key[1] == "none" else ",".join(key)

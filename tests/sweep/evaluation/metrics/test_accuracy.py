"""What is said of an example is what lm-eval says of it, and each number fails alone."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.evaluation.metrics.aggregation import is_mean
from sweep.evaluation.questions.replay import Scores
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import EvaluationData, build_evaluation, task_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves

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


@pytest.mark.parametrize("name", ACCURACY)
def test_outcomes_of_the_examples_average_to_the_accuracy(name: str, data: EvaluationData) -> None:
    for seed in range(3):
        found = of(data, name).metrics(made_up(data, seed))
        assert found.accuracy == ACCURACY[name]
        outcomes = [outcome.correct for outcome in found.outcomes if outcome.correct is not None]
        assert len(outcomes) == found.counts[found.accuracy]
        assert np.mean(outcomes) == pytest.approx(found.values[found.accuracy], abs=1e-15)
        metrics, samples = task_rows({name: found}, {name: found}, [])
        written = [row["score"] for row in samples]
        assert written == [outcome.correct for outcome in found.outcomes]
        assert [row["correct"] for row in samples] == [{1.0: True, 0.0: False}.get(value) for value in written]
        label = name_of(ACCURACY[name])
        assert {row["accuracy"] for row in metrics} == {label}
        assert next(row for row in metrics if row["metric"] == label)["value"] == found.values[found.accuracy]


def name_of(key: tuple[str, str]) -> str:
    return key[0] if key[1] == "none" else ",".join(key)


@pytest.mark.parametrize("name", sorted(set(TASKS) - set(ACCURACY)))
def test_a_task_whose_examples_do_not_average_has_no_accuracy(name: str, data: EvaluationData) -> None:
    found = of(data, name).metrics(made_up(data))
    assert found.accuracy is None
    assert all(outcome.correct is None for outcome in found.outcomes)
    metrics, _ = task_rows({name: found}, {name: found}, [])
    assert {row["accuracy"] for row in metrics} == {""}
    assert not [row for row in metrics if row["metric"].startswith("flips")]


def test_shares_are_numbers_and_never_flip(data: EvaluationData) -> None:
    rng = np.random.default_rng(0)
    replay = of(data, "mass")
    scores = [Scores(-rng.uniform(1, 9, len(data.tasks.requests)), made_up(data).greedy) for _ in range(2)]
    now, before = (replay.metrics(score) for score in scores)
    assert all(0 < outcome.correct < 1 for outcome in now.outcomes)
    rows, samples = task_rows({"mass": now}, {"mass": before}, [])
    assert {row["correct"] for row in samples} == {None}
    assert [row["metric"] for row in rows] == ["acc"]


def test_margins_are_about_the_answers_that_lm_eval_scores(data: EvaluationData) -> None:
    scores = made_up(data)
    for name, pick in (("plain", "gold"), ("mutual", "gold"), ("inputs", "gold"), ("several", "golds")):
        replay = of(data, name)
        for outcome, doc in zip(replay.metrics(scores).outcomes, DOCS, strict=True):
            lls = [scores.loglikelihood[call.start] for call in replay.calls if call.doc == outcome.doc_id]
            assert len(lls) == (6 if name == "mutual" else 3)
            right = doc[pick] if isinstance(doc[pick], list) else [doc[pick]]
            wrong = [ll for number, ll in enumerate(lls[:3]) if number not in right]
            assert outcome.loglikelihood == max(lls[number] for number in right)
            assert outcome.margin == pytest.approx(outcome.loglikelihood - max(wrong))
    for name in ("mass", "number", "votes"):  # which answers are right is the code's own secret, or nothing is chosen
        assert {outcome.margin for outcome in of(data, name).metrics(scores).outcomes} == {None}
    last = of(data, "last").metrics(scores).outcomes
    assert all(outcome.loglikelihood is not None and outcome.margin is None for outcome in last)


def test_texts_of_a_model_whose_logits_are_nan_are_not_scored(data: EvaluationData) -> None:
    scores = made_up(data)
    broken = Scores(scores.loglikelihood, scores.greedy, [None] * len(scores.generations))
    found = of(data, "number").metrics(broken)
    assert set(found.values) == {("exact_match", "strict"), ("exact_match", "loose")}
    assert set(found.values.values()) == {None}
    assert "7 of 7 examples" in found.reasons["exact_match", "strict"]
    assert not of(data, "plain").metrics(broken).reasons


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_scores_that_are_no_numbers_make_no_accuracy(number: float, data: EvaluationData) -> None:
    scores, dense = made_up(data), made_up(data, 2)
    plain = of(data, "plain")
    scores.loglikelihood[plain.calls[4].start] = number  # example 1: the largest of NaNs is said to be choice 1
    before = {replay.name: replay.metrics(dense) for replay in data.tasks.tasks}
    found = {replay.name: replay.metrics(scores) for replay in data.tasks.tasks}
    metrics, samples = task_rows(found, before, data.tasks.groups)
    rows = {(row["task"], row["metric"]): row for row in metrics}
    reason = "the model's scores are NaN or infinite in 1 of 7 examples (first: example 1)"
    for metric in ("acc", "acc_norm", "flips_right_to_wrong", "flips_wrong_to_right", "margin_change"):
        assert rows["plain", metric]["value"] is None
        assert rows["plain", metric]["reason"] == reason
    assert rows["both", "acc"]["value"] is None
    assert rows["both", "acc"]["reason"] == f"plain: {reason}"
    broken = next(row for row in samples if row["task"] == "plain" and row["doc_id"] == 1)
    assert {key: value for key, value in broken.items() if value is not None} == {"task": "plain", "doc_id": 1}
    never = ("f1", "length")  # of three classes, of lists
    assert {row["task"] for row in metrics if row["reason"] and row["metric"] not in never} == {"plain", "both"}
    again = task_rows(before, found, data.tasks.groups)[0]  # and a dense model that is broken
    flips = next(row for row in again if row["metric"] == "flips_right_to_wrong" and row["task"] == "plain")
    assert flips["reason"] == f"the dense model: {reason}"


def test_an_impossible_answer_is_scored_as_lm_eval_scores_it(data: EvaluationData) -> None:
    scores = made_up(data)
    plain = of(data, "plain")
    right = [call.start for call in plain.calls if call.choice == DOCS[call.doc]["gold"]]
    scores.loglikelihood[right] = -math.inf
    found = plain.metrics(scores)
    assert found.values["acc", "none"] == 0
    assert not found.reasons
    assert {(outcome.correct, outcome.margin, outcome.loglikelihood) for outcome in found.outcomes} == {(0, None, None)}


def test_a_number_that_overflows_costs_only_itself(data: EvaluationData) -> None:
    scores = made_up(data)
    for call in of(data, "last").calls + of(data, "page").calls:
        scores.loglikelihood[call.start : call.stop] = -1e6
    last, page = of(data, "last").metrics(scores), of(data, "page").metrics(scores)
    assert last.values["perplexity", "none"] is None
    assert "OverflowError" in last.reasons["perplexity", "none"]
    assert last.values["acc", "none"] == np.mean([outcome.correct for outcome in last.outcomes])
    assert page.values["word_perplexity", "none"] is None
    assert page.counts["word_perplexity", "none"] == 7


def test_code_that_fails_for_an_example_costs_that_task_its_metrics(data: EvaluationData) -> None:
    scores = made_up(data)
    picky = of(data, "picky")
    scores.loglikelihood[[call.start for call in picky.calls if call.doc == 2]] = -1000
    found = picky.metrics(scores)
    assert found.values["acc", "none"] is None
    assert found.reasons["acc", "none"] == "example 2: ZeroDivisionError: no mass (1 of 7 examples)"
    assert [outcome.correct for outcome in found.outcomes] == [1, 1, None, 1, 1, 1, 1]
    rows, _ = task_rows({"picky": found}, {"picky": picky.metrics(made_up(data))}, [])
    assert all(row["value"] is None and "no mass" in row["reason"] for row in rows)


def test_an_aggregation_that_fails_for_some_numbers_costs_that_metric(data: EvaluationData) -> None:
    scores = made_up(data)
    other = of(data, "own_other")
    right = [call.start for call in other.calls if call.choice == DOCS[call.doc]["gold"]]
    scores.loglikelihood[right] = -100  # no answer is right, and the code divides by their number
    found = other.metrics(scores)
    assert found.values == {("acc", "none"): None}
    assert "ZeroDivisionError" in found.reasons["acc", "none"]


def test_values_that_are_no_numbers_have_no_mean(data: EvaluationData) -> None:
    found = of(data, "em").metrics(made_up(data))
    assert found.values["length", "none"] is None
    assert "its aggregation fails: TypeError" in found.reasons["length", "none"]
    assert found.values["em", "none"] is not None


def test_an_average_is_known_by_what_it_does() -> None:
    assert is_mean(lambda items: float(np.mean(items)))
    assert is_mean(lambda items: sum(items) / len(items))
    for other in (max, sum, np.median, len, lambda items: items, lambda items: {}["a"], lambda items: math.nan):
        assert not is_mean(other)


BROKEN = {
    "example 0: KeyError: 'nowhere'": "def judge(doc, results):\n    return {'acc': doc['nowhere']}\n",
    "example 0: ModuleNotFoundError: No module named 'no_such_package'": (
        "def judge(doc, results):\n    import no_such_package\n    return {'acc': 1.0}\n"
    ),
    "it gives no metric at all": "def judge(doc, results):\n    return {}\n",
    "metric 'acc': its aggregation fails: TypeError": "def judge(doc, results):\n    return {'acc': 'right'}\n",
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_fails_in_every_trial_is_found_before_the_first(message: str, tmp_path: Path, tokenizer: Any) -> None:
    body = CHOICE + "process_results: !function code.judge\n" + metrics("acc")
    folder = write(tmp_path, {"mine": body}, BROKEN[message])
    with pytest.raises(SettingsError, match="evaluation.tasks: task 'mine'") as caught:
        build_evaluation(EvaluationSettings(tasks=["mine"], task_path=str(folder)), tokenizer, 96)
    assert message in str(caught.value)


def test_unknown_metrics_and_aggregations_are_named(tmp_path: Path, tokenizer: Any) -> None:
    from sweep.evaluation.metrics.aggregation import check_metrics
    from sweep.evaluation.questions.loading import load_tasks

    folder = write(tmp_path, {"mine": CHOICE + metrics("acc")})
    tasks, _ = load_tasks(EvaluationSettings(tasks=["mine"], task_path=str(folder)))
    task = tasks["mine"]
    check_metrics("mine", task, "evaluation")
    task.config.metric_list[0]["aggregation"] = "meen"
    task._aggregation_list["acc"] = None  # what lm-eval makes of a name that it does not know
    with pytest.raises(
        SettingsError, match="task 'mine', metric 'acc': unknown aggregation 'meen', did you mean 'mean'"
    ):
        check_metrics("mine", task, "evaluation")
    task._metric_fn_list["acurracy"] = None
    with pytest.raises(SettingsError, match="metric 'acurracy': lm-eval has no such metric"):
        check_metrics("mine", task, "evaluation")

"""Examples that can be asked and judged are let through, and the first that cannot is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.evaluation.questions.examine import bad_json, check_generation
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import build_evaluation

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves

CHOICE = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: choices\ndoc_to_target: gold\n"
ROW = {"q": "Is it?", "choices": ["yes", "no"], "gold": 1}
Build = Callable[..., int]


@pytest.fixture
def build(tmp_path: Path, tokenizer: Any) -> Build:
    """How many requests a task with this body and these rows makes."""

    def call(body: str, *rows: dict[str, Any], **settings: Any) -> int:
        (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = "dataset_path: json\ndataset_kwargs: {data_files: {test: docs.jsonl}}\ntest_split: test\n"
        (tmp_path / "mine.yaml").write_text(f"task: mine\n{data}{body}")
        asked = EvaluationSettings(tasks=["mine"], task_path=str(tmp_path), **settings)
        return len(build_evaluation(asked, tokenizer, 96).tasks.requests)

    return call


@pytest.mark.parametrize(
    ("body", "row"),
    [
        (CHOICE, ROW),
        (CHOICE, {**ROW, "gold": "no"}),
        (CHOICE, {**ROW, "choices": ["yes", "yes", "no"], "gold": 2}),  # two wrong ones that read the same harm nobody
        (CHOICE, {**ROW, "choices": ["no", "no"]}),  # as in published data; lm-eval takes the first
        (CHOICE, {**ROW, "gold": [0, 1]}),
        (CHOICE.replace("choices", "'{{choices}}'").replace("gold", "'{{gold}}'"), ROW),
        (CHOICE.replace("'{{q}}'", "''"), ROW),
        (CHOICE.replace("'{{q}}'", "gold").replace("doc_to_target: gold", "doc_to_target: '{{q}}'"), ROW),
        ("output_type: loglikelihood\ndoc_to_text: 'word'\ndoc_to_target: ' answer'\n", ROW),
    ],
)
def test_examples_that_can_be_judged_are_let_through(build: Build, body: str, row: dict[str, Any]) -> None:
    assert build(body, row) >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": 2}, r"example 1: doc_to_target: 2 is none of the 2 choices"),
        ({"gold": -1}, r"example 1: doc_to_target: -1 is none"),
        ({"gold": None}, r"example 1: doc_to_target: expected the number of a choice, or its text, got None"),
        ({"choices": ["yes", " "]}, r"example 1: doc_to_choice: choice 1 is blank"),
        ({"choices": ["yes", None]}, r"example 1: doc_to_choice: choice 1 is None"),
        ({"choices": []}, r"example 1: doc_to_choice: expected texts to choose from, got none"),
    ],
)
def test_the_first_example_that_cannot_be_judged_is_named(build: Build, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=rf"task 'mine' \(.*mine\.yaml\), {message}"):
        build(CHOICE, ROW, {**ROW, **change})
    assert build(CHOICE, ROW, {**ROW, **change}, limit=1) == 2  # what is not asked may be wrong


def test_a_blank_prompt_is_asked_as_lm_eval_asks_it_but_not_in_every_example(build: Build) -> None:
    assert build(CHOICE, ROW, {**ROW, "q": ""}) == 4
    with pytest.raises(SettingsError, match="doc_to_text: the prompt is empty in every example; name another column"):
        build(CHOICE, {**ROW, "q": ""}, {**ROW, "q": " "})


def test_lists_of_right_answers_are_for_all_examples_or_none(build: Build) -> None:
    with pytest.raises(SettingsError, match="a list for some examples and one answer for others"):
        build(
            CHOICE.replace("doc_to_target: gold", "doc_to_target: '{{gold}}'"), {**ROW, "gold": [1]}, {**ROW, "gold": 0}
        )


def test_answers_of_code_may_be_numbers_of_numpy_and_its_own_scoring_takes_any(build: Build, tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(
        "import numpy as np\n"
        "def gold(doc):\n    return np.int64(doc['gold'])\n"
        "def golds(doc):\n    return doc['gold'] if doc['gold'] else [1]\n"
        "def rate(doc, answers):\n    return {'acc': 1.0}\n"
    )
    assert build(CHOICE.replace("target: gold", "target: !function rules.gold"), ROW, {**ROW, "gold": 0}) == 4
    with pytest.raises(SettingsError, match="2 is none of the 2 choices"):
        build(CHOICE.replace("target: gold", "target: !function rules.gold"), {**ROW, "gold": 2})
    own = CHOICE.replace("target: gold", "target: !function rules.golds") + "process_results: !function rules.rate\n"
    assert build(own + "metric_list: [{metric: acc, aggregation: mean}]\n", ROW, {**ROW, "gold": 0}) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: no JSON"),
        (b'{"a": 1}\n\n[1]\n', "line 3: expected an object"),
        (b'{"a": 1}\n{"a": "\\ud83d"}\n', "line 2: holds half of a surrogate pair"),
        (b'{"a": "\xff"}\n', "byte 7 is no UTF-8"),
        (b" \n", "is empty"),
        (b'{"a": 1}\n{"a": 2}\n', None),
        (b'[{"a": 1},\n {"a": 2}]', None),
    ],
)
def test_the_line_that_is_no_json_is_named(tmp_path: Path, content: bytes, message: str | None) -> None:
    (tmp_path / "docs.jsonl").write_bytes(content)
    found = bad_json({"test": [str(tmp_path / "docs.jsonl")]})
    assert message in found if message and found else found == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"until": ["a"]}, r"an answer of up to 256 tokens leaves no room"),
        ({"max_new_tokens": 96}, r"an answer of up to 96 tokens leaves no room"),
        ({"max_gen_toks": 8, "top_pp": 1}, r"unknown argument 'top_pp', did you mean 'top_p'"),
    ],
)
def test_generation_that_cannot_be_done_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_generation(arguments, 96, "task 'mine'")
    check_generation({"max_gen_toks": 8, "do_sample": True, "temperature": 0.5, "until": "a"}, 96, "task 'mine'")

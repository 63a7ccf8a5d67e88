"""The published suites, from lm-eval's own task files to their means, with small data sets in place of the hub's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.evaluation.questions.loading import load_tasks
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import Evaluator, build_evaluation
from sweep.evaluation.tasks.check import check_tasks
from sweep.evaluation.tasks.presets import PRESETS, expand_tasks, means_of
from sweep.models import MODELS

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves

TEXT = "The river runs behind the old stone house and nobody knows where it ends ."
SUBJECTS = 57  # of MMLU


def _arc(number: int) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": f"What falls on day {number}?",
        "choices": {"text": ["rain", "a stone", "the house", "light"], "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[number % 4],
    }


def _boolq(number: int) -> dict[str, Any]:
    return {"question": "does the river end", "passage": TEXT, "idx": number, "label": number % 2}


def _hellaswag(number: int) -> dict[str, Any]:
    return {
        "ind": number,
        "activity_label": "Washing",
        "ctx_a": "A man stands at the river.",
        "ctx_b": "he",
        "ctx": "A man stands at the river. he",
        "endings": ["sings [title] loudly.", "falls in.", "runs away from it.", "is a stone."],
        "source_id": "x",
        "split": "val",
        "split_type": "indomain",
        "label": str(number % 4),
    }


def _lambada(number: int) -> dict[str, Any]:
    return {"text": f"In house {number} the old man looked at his dog and the dog looked at the man"}


def _openbookqa(number: int) -> dict[str, Any]:
    asked = _arc(number)
    return {"id": asked["id"], "question_stem": asked["question"], **{k: asked[k] for k in ("choices", "answerKey")}}


def _piqa(number: int) -> dict[str, Any]:
    return {
        "goal": f"Cross {number} rivers",
        "sol1": "Use the bridge.",
        "sol2": "Use a bridge of rain.",
        "label": number % 2,
    }


def _rte(number: int) -> dict[str, Any]:
    return {"sentence1": TEXT, "sentence2": "A river runs.", "label": number % 2, "idx": number}


def _winogrande(number: int) -> dict[str, Any]:
    sentence = "The dog did not cross the river because the _ was too wide."
    return {"sentence": sentence, "option1": "dog", "option2": "river", "answer": "12"[number % 2]}


def _storycloze(number: int) -> dict[str, Any]:
    lines = {f"input_sentence_{line}": f"On day {line} the dog sings." for line in range(1, 5)}
    endings = {"sentence_quiz1": "Then it sleeps.", "sentence_quiz2": "Then it is a stone."}
    return {"story_id": str(number), **lines, **endings, "answer_right_ending": 1 + number % 2}


def _wikitext(number: int) -> dict[str, Any]:
    return {"page": f" = River {number} = \n\n {TEXT * 6}\n"}


def _mmlu(number: int) -> dict[str, Any]:
    return {"question": f"What is {number}?", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": number % 4}


def _anli(number: int) -> dict[str, Any]:
    return {"uid": str(number), "premise": TEXT, "hypothesis": "A river runs.", "label": number % 3, "reason": ""}


def _paws(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "sentence1": "The dog saw a river .",
        "sentence2": "A river saw the dog .",
        "label": number % 2,
    }


def _advglue(number: int) -> dict[str, Any]:
    """The columns of all its tasks."""
    names = ("sentence", "question", "question1", "question2", "premise", "hypothesis", "sentence1", "sentence2")
    return {"idx": number, "label": number % 2, **{name: f"The {name} of day {number}." for name in names}}


def _triviaqa(number: int) -> dict[str, Any]:
    return {"question": f"What runs behind house {number}?", "answer": {"aliases": ["the river", "a river"]}}


def _nq_open(number: int) -> dict[str, Any]:
    return {"question": f"what runs behind house {number}", "answer": ["the river", "a river"]}


def _truthfulqa(number: int) -> dict[str, Any]:
    several = {"choices": ["It runs.", "It ends.", "It is a stone."], "labels": [1, 1, 0]}
    single = {"choices": ["It runs.", "It is a stone."], "labels": [1, 0]}
    return {"question": f"What does river {number} do?", "mc1_targets": single, "mc2_targets": several}


HUB: dict[tuple[str, str | None], tuple[Callable[[int], dict[str, Any]], dict[str, int]]] = {
    ("allenai/ai2_arc", "ARC-Easy"): (_arc, {"train": 2, "validation": 2, "test": 3}),
    ("allenai/ai2_arc", "ARC-Challenge"): (_arc, {"train": 2, "validation": 2, "test": 3}),
    ("aps/super_glue", "boolq"): (_boolq, {"train": 2, "validation": 4, "test": 2}),
    ("Rowan/hellaswag", None): (_hellaswag, {"train": 2, "validation": 3, "test": 2}),
    ("EleutherAI/lambada_openai", "default"): (_lambada, {"test": 3}),
    ("allenai/openbookqa", "main"): (_openbookqa, {"train": 2, "validation": 2, "test": 3}),
    ("baber/piqa", None): (_piqa, {"train": 7, "validation": 3}),
    ("nyu-mll/glue", "rte"): (_rte, {"train": 2, "validation": 3, "test": 2}),
    ("allenai/winogrande", "winogrande_xl"): (_winogrande, {"train": 2, "validation": 3, "test": 2}),
    ("LSDSem/story_cloze", "2016"): (_storycloze, {"validation": 2, "test": 3}),
    ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1"): (
        _wikitext,
        {"train": 1, "validation": 1, "test": 2},
    ),
    ("facebook/anli", None): (
        _anli,
        {f"{split}_r{part}": 3 for split in ("train", "dev", "test") for part in (1, 2, 3)},
    ),
    ("google-research-datasets/paws-x", "en"): (_paws, {"train": 2, "validation": 2, "test": 3}),
    ("AI-Secure/adv_glue", "*"): (_advglue, {"validation": 4}),
    ("mandarjoshi/trivia_qa", "rc.nocontext"): (_triviaqa, {"train": 6, "validation": 3}),
    ("google-research-datasets/nq_open", None): (_nq_open, {"train": 6, "validation": 3}),
    ("truthfulqa/truthful_qa", "multiple_choice"): (_truthfulqa, {"validation": 3}),
    ("cais/mmlu", "*"): (_mmlu, {"test": 2, "validation": 1, "dev": 5}),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str | None]]:
    """`datasets.load_dataset` with a few documents of every data set; returns what was asked for."""
    import datasets

    asked: set[tuple[str, str | None]] = set()

    really = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, **arguments: Any) -> Any:
        if path == "json":  # files of our own
            return really(path, name, **arguments)
        asked.add((path, name))
        make, splits = HUB.get((path, name)) or HUB[path, "*"]
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_list([make(number) for number in range(count)])
                for split, count in splits.items()
            }
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    """(model, tokenizer) of reference-2m in float32"""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODELS / "reference-2m", dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODELS / "reference-2m")


ACCURACIES = {"acc", "acc_norm"}
METRICS = {  # of lm-eval's own task files
    "arc_easy": ACCURACIES,
    "arc_challenge": ACCURACIES,
    "boolq": {"acc"},
    "hellaswag": ACCURACIES,
    "lambada_openai": {"acc", "perplexity"},
    "openbookqa": ACCURACIES,
    "piqa": ACCURACIES,
    "rte": {"acc"},
    "winogrande": {"acc"},
    "storycloze_2016": {"acc"},
    "wikitext": {"word_perplexity", "byte_perplexity", "bits_per_byte"},
    "triviaqa": {"exact_match"},
    "nq_open": {"exact_match"},
}
OF_A_COMPARISON = {"flips_right_to_wrong", "flips_wrong_to_right", "margin_change"}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_task_of_a_preset_resolves_with_its_metrics_and_examples(preset: str, hub: set[Any]) -> None:
    tasks, groups = load_tasks(EvaluationSettings(tasks=[preset]))
    plain = [name for name in expand_tasks([preset]) if name != "mmlu"]
    subjects = set(tasks) - set(plain)
    assert set(plain) <= set(tasks)
    assert len(subjects) == (SUBJECTS if "mmlu" in expand_tasks([preset]) else 0)
    assert all(name.startswith("mmlu_") for name in subjects)
    assert set(groups) >= ({"mmlu", "mmlu_stem", "mmlu_humanities"} if subjects else set())
    for name, task in tasks.items():
        assert task.get_config("num_fewshot") == (5 if name in {*subjects, "triviaqa", "nq_open"} else 0), name
        assert set(task.aggregation()) == METRICS.get(name, {"acc"}), name
    shared = {"anli_r2", "anli_r3", "truthfulqa_mc2"} & set(tasks)  # their data are those of the first
    assert len(hub) == len(tasks) - len(shared)


def _value(rows: dict[tuple[str, str], dict[str, Any]], task: str, metric: str) -> float:
    """Under whichever filter the task gives it."""
    (value,) = (row["value"] for (name, key), row in rows.items() if name == task and key.split(",")[0] == metric)
    return float(value)


@pytest.mark.parametrize("preset", [*sorted(PRESETS), "reference"])
def test_a_preset_is_built_scored_and_averaged(preset: str, hub: set[Any], reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    data = build_evaluation(EvaluationSettings(tasks=[preset], limit=3), tokenizer, 512)
    assert (preset == "reference") is not bool(hub)
    result = Evaluator(data, model, tokenizer, "cpu").evaluate(model)
    rows = {(row["task"], row["metric"]): row for row in result.metrics}
    assert len(rows) == len(result.metrics)
    assert len(result.samples) == sum(len(task.docs) for task in data.tasks.tasks)
    for task in data.tasks.tasks:
        found = {metric for (name, metric), row in rows.items() if name == task.name and row["kind"] == "task"}
        plain = {metric.split(",")[0] for metric in found}
        assert plain - OF_A_COMPARISON == METRICS.get(task.name, plain - OF_A_COMPARISON)
        assert all(rows[task.name, metric]["value"] is not None for metric in found)
    for mean in PRESETS[preset].means if preset in PRESETS else ():
        single = [_value(rows, task, mean.metric) for task in mean.tasks]
        assert _value(rows, mean.name, mean.metric) == pytest.approx(sum(single) / len(single))
    for group in ("reference", "mmlu"):
        if group in data.settings.task_names:
            assert 0 <= rows[group, "acc"]["value"] <= 1
            assert rows[group, "acc"]["stderr"] > 0


def test_mmlu_is_asked_after_five_examples_and_the_others_after_none(hub: set[Any], reference: tuple[Any, Any]) -> None:
    _, tokenizer = reference
    data = build_evaluation(EvaluationSettings(tasks=["beware"], limit=1), tokenizer, 512)
    requests = data.tasks.requests
    for task in data.tasks.tasks:
        for call in task.calls:
            prompt = tokenizer.decode(requests.sequence(call.start))
            if task.name.startswith("mmlu_"):
                assert prompt.count("Answer:") == 6
            elif task.name not in ("hellaswag", "winogrande"):
                assert prompt.count("Answer:") == 1


def test_both_presets_of_paper_a_report_the_nine_task_mean_once(hub: set[Any], reference: tuple[Any, Any]) -> None:
    _, tokenizer = reference
    settings = EvaluationSettings(tasks=["paper_a", "paper_a_without_storycloze"], limit=1)
    groups = [group.name for group in build_evaluation(settings, tokenizer, 512).tasks.groups]
    assert groups == ["paper_a", "paper_a_without_storycloze"]


def test_requests_longer_than_the_models_context_are_counted(hub: set[Any], reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    data = build_evaluation(EvaluationSettings(tasks=["mmlu_anatomy", "piqa"], num_fewshot=5), tokenizer, 64)
    result = Evaluator(data, model, tokenizer, "cpu").evaluate(model)
    whole = build_evaluation(data.settings, tokenizer, 512).tasks.requests
    longer = [len(whole.sequence(number)) > 65 for number in range(len(whole))]
    assert 0 < result.truncated_requests == sum(longer)


def _gated() -> Exception:
    from huggingface_hub.errors import GatedRepoError

    return GatedRepoError("401 Client Error. Access to dataset LSDSem/story_cloze is restricted.", response=_Response())


class _Response:
    """What a hub error looks at."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
    status_code = 401


def _gated_by_datasets() -> Exception:
    from datasets.exceptions import DatasetNotFoundError

    return DatasetNotFoundError("Dataset 'LSDSem/story_cloze' is a gated dataset on the Hub. Visit the dataset page.")


def _missing() -> Exception:
    from datasets.exceptions import DatasetNotFoundError

    return DatasetNotFoundError("Dataset 'LSDSem/story_cloze' doesn't exist on the Hub or cannot be accessed.")


def _broken() -> Exception:
    from datasets.exceptions import DatasetGenerationError

    return DatasetGenerationError("An error occurred while generating the dataset")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (_gated, "accept its terms on the hub and log in"),
        (_gated_by_datasets, "accept its terms on the hub and log in"),
        (_missing, "if it is private, log in"),
        (lambda: ConnectionError("Couldn't reach 'LSDSem/story_cloze' on the Hub (ConnectTimeout)"), "go online once"),
        (lambda: FileNotFoundError("Couldn't find any data file at /x/LSDSem/story_cloze."), "local copy"),
        (lambda: RuntimeError("Dataset scripts are no longer supported, but found story_cloze.py"), "by hand"),
        (_broken, "local copy"),
    ],
)
def test_a_data_set_that_cannot_be_had_stops_the_sweep_before_a_model_is_loaded(
    error: Callable[[], Exception], remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets
    import transformers

    from sweep import plan
    from sweep.config import parse_study
    from sweep.runs.local import LocalRunner
    from sweep.runs.provenance import provenance

    def fails(*_: Any, **__: Any) -> Any:
        raise error()

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", never)
    study = parse_study(
        {
            "study": "s",
            "models": ["reference-2m"],
            "methods": [{"method": "rtn", "bits": 4}],
            "evaluation": {"tasks": ["storycloze_2016"]},
        }
    )
    trials = plan.expand(study)
    runner = LocalRunner(str(tmp_path), provenance())
    with pytest.raises(SettingsError) as caught:
        runner.prepare(plan.pools(trials), plan.request_sets(trials))
    message = str(caught.value)
    assert "task 'storycloze_2016' (data set LSDSem/story_cloze) cannot be loaded" in message
    assert remedy in message
    assert "task_path" in message


def test_the_subject_of_mmlu_that_fails_is_named(hub: set[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    whole = datasets.load_dataset

    def fails(path: str, name: str | None = None, **arguments: Any) -> Any:
        if name == "anatomy":
            raise ConnectionError("Couldn't reach 'cais/mmlu' on the Hub")
        return whole(path, name, **arguments)

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(SettingsError, match=r"task 'mmlu_anatomy' of 'mmlu' \(data set cais/mmlu\).*go online once"):
        load_tasks(EvaluationSettings(tasks=["beware"]))


def test_a_task_without_its_split_is_named_with_its_data_set(hub: set[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HUB, ("baber/piqa", None), (_piqa, {"train": 2}))
    with pytest.raises(SettingsError, match=r"task 'piqa' \(data set baber/piqa\) reads 'validation'"):
        load_tasks(EvaluationSettings(tasks=["piqa"]))


def test_too_few_documents_for_the_examples_in_the_prompt_are_an_error(
    hub: set[Any], reference: tuple[Any, Any]
) -> None:
    _, tokenizer = reference
    with pytest.raises(
        SettingsError, match=r"task 'mmlu_anatomy': num_fewshot: 6 examples are asked for .* the data have 5"
    ):
        build_evaluation(EvaluationSettings(tasks=["mmlu_anatomy"], num_fewshot=6), tokenizer, 512)


def test_a_mistyped_preset_gets_a_suggestion() -> None:
    with pytest.raises(SettingsError, match=r"evaluation\.tasks\[0\]: unknown task 'papr_a', did you mean 'paper_a'"):
        EvaluationSettings(tasks=["papr_a"]).check()


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_task_of_a_preset_exists_in_lm_eval(preset: str) -> None:
    check_tasks([preset], None, "tasks", allow_code=False)
    for mean in means_of([preset]):
        assert set(mean.tasks) <= set(expand_tasks([preset]))


def test_paper_a_reports_the_mean_without_storycloze() -> None:
    ten, nine = means_of(["paper_a"])
    assert set(ten.tasks) - set(nine.tasks) == {"storycloze_2016"}
    assert (len(ten.tasks), len(nine.tasks)) == (10, 9)

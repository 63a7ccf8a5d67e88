"""Every number equals lm-eval's HFLM on the same model, in float32."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.suite import flips, task_questions
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.attention import ExplicitMask
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.scoring import PackedScorer, PlainScorer
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import EvaluationData, Evaluator, build_evaluation

CONTEXT = 96
PACKED = ("llama", "qwen2", "mistral", "gemma2", "cohere", "gpt2", "opt", "gpt_neox")
PLAIN = ("bloom", "mamba")
ROUNDING = {"atol": 1e-4, "rtol": 2e-6}  # of what HFLM adds up in float32: hundreds of nats, on any processor

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves


@pytest.fixture(scope="module")
def data(task_path: Path, tokenizer: Any, all_tasks: list[str]) -> EvaluationData:
    settings = EvaluationSettings(tasks=all_tasks, task_path=str(task_path))
    # as a worker gets it
    return pickle.loads(pickle.dumps(build_evaluation(settings, tokenizer, CONTEXT)))


def hflm_scores(
    model: Any,
    tokenizer: Any,
    requests: Requests,
    max_length: int = CONTEXT,
    batch_size: int = 7,
    softmax_dtype: str = "float32",
) -> Any:
    """(log-likelihoods, is_greedy) of lm-eval's own scorer for the same token ids."""
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=max_length,
        softmax_dtype=softmax_dtype,
    )
    asked = []
    for number in range(len(requests)):
        ids = requests.sequence(number).tolist()
        count = int(requests.continuation[number])
        asked.append((("", ""), ids[:-count], ids[-count:]))
    answers = wrapped._loglikelihood_tokens(asked, disable_tqdm=True)
    return np.asarray([answer[0] for answer in answers]), np.asarray([answer[1] for answer in answers])


@pytest.mark.parametrize("kind", PACKED + PLAIN)
def test_loglikelihoods_equal_hflm(
    kind: str, data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model(kind)
    requests = data.tasks.requests
    wanted, wanted_greedy = hflm_scores(model, tokenizer, requests)
    scorer = choose_scorer(model, requests, TokenBudget(torch.device("cpu")), head_rule(model))
    assert scorer.name == ("packed, explicit mask" if kind in PACKED else "plain")
    found, greedy = scorer.score(model)
    np.testing.assert_allclose(found, wanted, **ROUNDING)
    np.testing.assert_array_equal(greedy, wanted_greedy)
    plain, plain_greedy = PlainScorer(requests, TokenBudget(torch.device("cpu")), None).score(model)
    np.testing.assert_allclose(plain, wanted, **ROUNDING)
    np.testing.assert_array_equal(plain_greedy, wanted_greedy)


def bundled(name: str, dtype: torch.dtype, device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer)"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import sweep.reference

    folder = Path(sweep.reference.__file__).parent / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def test_bundled_models_and_tasks_equal_hflm() -> None:
    """Ours, in float32, are HFLM's in float64, and lie no farther from them than HFLM's own float32.

    HFLM takes log-softmax in float32 and adds a continuation's log-probabilities up in float32, which loses up to 2e-4
    of hundreds of nats, how often depends on the processor; ours are added in float64.
    """
    model, tokenizer = bundled("reference-2m", torch.float32)
    data = build_evaluation(EvaluationSettings(tasks=["reference"], limit=2), tokenizer, 512)
    requests = data.tasks.requests
    scorer = choose_scorer(model, requests, TokenBudget(torch.device("cpu")), head_rule(model))
    assert scorer.name == "packed, explicit mask"
    found, greedy = scorer.score(model)
    single, _ = hflm_scores(model, tokenizer, requests, 512)
    exact, exact_greedy = hflm_scores(model.double(), tokenizer, requests, 512, softmax_dtype="float64")
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-4)  # scores of up to 190 nats
    np.testing.assert_array_equal(greedy, exact_greedy)
    ours, theirs = (float(np.abs(scores - exact).mean()) for scores in (found, single))
    assert ours <= 1.25 * theirs


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["reference-2m", "reference-17m"])
def test_bfloat16_decisions_change_no_more_than_rounding_changes_those_of_hflm(name: str) -> None:
    """Rounding: another batch size, another order of the sums in attention, and bfloat16 itself against float32.

    Another batch size alone changes no sum of a small model, so the other two say what a change is worth; and ours must
    lie as near to float32 as HFLM does.
    """
    model, tokenizer = bundled(name, torch.bfloat16, "cuda")
    data = build_evaluation(EvaluationSettings(tasks=["reference"], limit=100), tokenizer, 512)
    questions = task_questions(data.tasks)
    requests, budget = questions.requests, TokenBudget(torch.device("cuda"))
    ours = choose_scorer(model, requests, budget, head_rule(model)).score(model)

    def hflm(batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
        return hflm_scores(model, tokenizer, requests, 512, batch_size=batch_size)

    theirs, other_size = hflm(), flips(questions, hflm(8), hflm(64))
    model.set_attn_implementation("eager")
    other_order = flips(questions, hflm(), theirs)
    model.set_attn_implementation("sdpa")
    model.float()
    exact = hflm()
    found, own, ours_exact = (flips(questions, *pair) for pair in ((ours, theirs), (theirs, exact), (ours, exact)))
    print(f"{name}: HFLM at 8 and at 64 {other_size}; with eager attention {other_order}; ours {found}")
    distances = [float(np.abs(scores[0] - exact[0]).mean()) for scores in (theirs, ours)]
    print(f"{name}: from float32: HFLM {own}; ours {ours_exact}; in nats {distances}")
    assert distances[1] <= 1.25 * distances[0]
    for which in ("answers", "greedy"):  # a count of rare events scatters by its root
        moved = max(getattr(change, which) for change in (other_size, other_order))
        assert getattr(found, which) <= moved + 3 * max(1.0, moved) ** 0.5
        rounded = getattr(own, which)
        assert getattr(ours_exact, which) <= rounded + 3 * max(1.0, rounded) ** 0.5


@pytest.mark.parametrize(("kind", "num_fewshot"), [("llama", None), ("llama", 2), ("bloom", None)])
def test_every_metric_equals_simple_evaluate(
    kind: str,
    num_fewshot: int | None,
    task_path: Path,
    all_tasks: list[str],
    make_model: Callable[..., Any],
    tokenizer: Any,
    lm_eval_scores: Callable[..., dict[str, Any]],
) -> None:
    model = make_model(kind)
    tasks = ["tiny_choice"] if num_fewshot else all_tasks
    settings = EvaluationSettings(tasks=tasks, task_path=str(task_path), num_fewshot=num_fewshot, limit=8)
    ours = Evaluator(build_evaluation(settings, tokenizer, CONTEXT), model, tokenizer, "cpu").evaluate(model)
    theirs = lm_eval_scores(model, tasks, num_fewshot=num_fewshot, limit=8, bootstrap_iters=0)
    rows = {(row["task"], row["metric"]): row for row in ours.metrics}
    compared = 0
    for task, numbers in theirs["results"].items():
        for key, value in numbers.items():
            metric, _, filter_name = key.partition(",")
            if filter_name != "none" or metric.endswith("_stderr"):
                continue
            row = rows[task, metric]
            assert row["value"] == pytest.approx(value, rel=1e-4, abs=1e-6), (task, metric)
            if task != "tiny_group":
                assert row["n"] == numbers["sample_len"]
            compared += 1
    assert compared >= (3 if num_fewshot else 13)


def test_standard_errors_equal_lm_eval(
    task_path: Path,
    make_model: Callable[..., Any],
    tokenizer: Any,
    lm_eval_scores: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    model = make_model("llama")
    tasks = ["tiny_group", "tiny_lambada"]
    settings = EvaluationSettings(tasks=tasks, task_path=str(task_path), bootstrap_iters=20)
    ours = Evaluator(build_evaluation(settings, tokenizer, CONTEXT), model, tokenizer, "cpu").evaluate(model)
    theirs = lm_eval_scores(model, tasks, bootstrap_iters=20)["results"]
    rows = {(row["task"], row["metric"]): row["stderr"] for row in ours.metrics}
    for task, metric in (
        ("tiny_choice", "acc"),
        ("tiny_choice", "acc_norm"),
        ("tiny_group", "acc"),
        ("tiny_lambada", "perplexity"),
    ):
        assert rows[task, metric] == pytest.approx(theirs[task][f"{metric}_stderr,none"], rel=1e-4)


def test_generations_equal_hflm(
    task_path: Path, make_model: Callable[..., Any], tokenizer: Any, lm_eval_scores: Callable[..., dict[str, Any]]
) -> None:
    from sweep.evaluation.scorer.generation import generate

    model = make_model("llama")
    settings = EvaluationSettings(tasks=["tiny_numbers"], task_path=str(task_path))
    data = build_evaluation(settings, tokenizer, CONTEXT)
    texts = generate(model, tokenizer, data.tasks.generations, CONTEXT, TokenBudget(torch.device("cpu")))
    theirs = lm_eval_scores(model, ["tiny_numbers"], log_samples=True)
    assert texts == [sample["resps"][0][0] for sample in theirs["samples"]["tiny_numbers"]]
    ours = Evaluator(data, model, tokenizer, "cpu").evaluate(model)
    row = next(row for row in ours.metrics if row["metric"] == "exact_match")
    assert row["value"] == theirs["results"]["tiny_numbers"]["exact_match,none"]


def test_chat_templates_are_applied_as_in_lm_eval(
    task_path: Path, make_model: Callable[..., Any], tokenizer: Any, lm_eval_scores: Callable[..., dict[str, Any]]
) -> None:
    model = make_model("llama")
    template = "{% for m in messages %}[{{m.role}}] {{m.content}}\n{% endfor %}[assistant]"
    tokenizer.chat_template = template
    try:
        settings = EvaluationSettings(
            tasks=["tiny_choice"], task_path=str(task_path), chat_template=True, num_fewshot=1, limit=5
        )
        ours = Evaluator(build_evaluation(settings, tokenizer, CONTEXT), model, tokenizer, "cpu").evaluate(model)
        theirs = lm_eval_scores(
            model, ["tiny_choice"], apply_chat_template=True, num_fewshot=1, limit=5, log_samples=True
        )
    finally:
        tokenizer.chat_template = None
    sampled = [sample["resps"] for sample in theirs["samples"]["tiny_choice"]]
    rights = [sample["target"] for sample in theirs["samples"]["tiny_choice"]]
    for row, answers, right in zip(ours.samples, sampled, rights, strict=True):
        assert row["loglikelihood"] == pytest.approx(answers[int(right)][0][0], abs=1e-4)


def test_a_window_shorter_than_the_requests_is_respected(make_model: Callable[..., Any], tokenizer: Any) -> None:
    wide, narrow = make_model("mistral", sliding_window=CONTEXT), make_model("mistral")
    rng = np.random.default_rng(0)
    requests = Requests.pack([(rng.integers(3, 400, 40).tolist(), [5, 6, 7]) for _ in range(3)], CONTEXT)
    budget = TokenBudget(torch.device("cpu"))
    rule = head_rule(narrow)
    assert rule is not None
    assert choose_scorer(narrow, requests, budget, rule).name.startswith("packed")
    found, _ = PackedScorer(requests, budget, rule, ExplicitMask()).score(narrow)
    other, _ = PackedScorer(requests, budget, rule, ExplicitMask()).score(wide)
    wanted, _ = hflm_scores(narrow, tokenizer, requests)
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)
    assert np.abs(found - other).max() > 0.01

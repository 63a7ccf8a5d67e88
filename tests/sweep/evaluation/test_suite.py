"""The evaluation of a model from end to end: rows that fit the tables, and comparisons with the dense model."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import EvaluationData, Evaluator, build_evaluation
from sweep.results import Results, TrialRows
from sweep.weights.hashes import weights_hash

CONTEXT = 96

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(0)
    words = ["river", "stone", "house", "garden", "light", "night", "runs", "sleeps", "sings", "old", "new", "red"]
    entries = []
    for label in ("north", "south"):
        rows = [{"text": " ".join(rng.choice(words) for _ in range(90))} for _ in range(40)]
        (folder / f"{label}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        entries.append({"source": "file", "path": str(folder / f"{label}.jsonl"), "label": label})
    return entries


@pytest.fixture(scope="module")
def data(task_path: Path, all_tasks: list[str], texts: list[Any], tokenizer: Any) -> EvaluationData:
    settings = EvaluationSettings(
        tasks=all_tasks, task_path=str(task_path), heldout=texts, heldout_windows=3, heldout_seqlen=40
    )
    return build_evaluation(settings, tokenizer, CONTEXT)


def damaged(model: Any, amount: float) -> Any:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.get_decoder().layers.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return model


def by_key(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["task"], row["metric"]): row for row in rows}


def test_the_dense_model_is_no_distance_from_itself(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model("llama")
    rows = by_key(Evaluator(data, model, tokenizer, "cpu").evaluate(model).metrics)
    for label in ("north", "south"):
        assert rows[label, "js_divergence"]["value"] == 0
        assert rows[label, "kl_divergence"]["value"] == 0
        assert rows[label, "top1_agreement"]["value"] == 1
    assert rows["tiny_choice", "flips_right_to_wrong"]["value"] == 0
    assert rows["tiny_choice", "margin_change"]["value"] == 0


@pytest.mark.parametrize("divergence", [True, False])
def test_the_dense_model_is_run_once(
    divergence: bool, data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    data = replace(data, settings=replace(data.settings, divergence=divergence))
    model = make_model("gemma2")
    evaluator = Evaluator(data, model, tokenizer, "cpu")
    again = evaluator.evaluate(model)
    calls = []
    hook = model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    kept = evaluator.evaluate_dense(model, weights_hash(model))
    hook.remove()
    assert bool(calls) is not divergence  # without divergence, nothing is kept of the windows
    for one, other in ((kept.samples, again.samples), (kept.metrics, again.metrics)):
        for left, right in zip(one, other, strict=True):
            assert left == {
                key: pytest.approx(value, rel=1e-5, abs=1e-7) if isinstance(value, float) else value
                for key, value in right.items()
            }
    for label in ("north", "south"):
        assert not divergence or by_key(kept.metrics)[label, "js_divergence"]["value"] == 0


def test_a_model_that_is_not_the_dense_one_is_refused_as_dense(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model("llama")
    evaluator = Evaluator(data, model, tokenizer, "cpu")
    with torch.no_grad():
        model.get_decoder().layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    with pytest.raises(RuntimeError, match="not given back"):
        evaluator.evaluate_dense(model, weights_hash(model))


def test_perplexity_and_divergence_equal_a_plain_float64_computation(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    dense, model = make_model("gemma2"), damaged(make_model("gemma2"), 0.05)
    rows = by_key(Evaluator(data, dense, tokenizer, "cpu").evaluate(model).metrics)
    for text in data.heldout:
        tokens = torch.tensor(text.tokens.astype(np.int64))
        with torch.no_grad():
            p = torch.log_softmax(dense(tokens).logits[:, :-1].double(), -1)
            q = torch.log_softmax(model(tokens).logits[:, :-1].double(), -1)
        nll = -q.gather(2, tokens[:, 1:, None]).mean()
        assert rows[text.label, "perplexity"]["value"] == pytest.approx(math.exp(nll), rel=1e-5)
        middle = torch.log((p.exp() + q.exp()) / 2)
        js = ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)) / 2
        kl = (p.exp() * (p - q)).sum(-1)
        assert rows[text.label, "js_divergence"]["value"] == pytest.approx(js.mean().item(), rel=1e-4)
        bits = rows[text.label, "js_divergence_bits"]["value"]
        assert bits == pytest.approx(js.mean().item() / math.log(2), rel=1e-4)
        assert rows[text.label, "kl_divergence"]["value"] == pytest.approx(kl.mean().item(), rel=1e-4)
        reverse = (q.exp() * (q - p)).sum(-1).mean().item()
        assert rows[text.label, "kl_divergence_reverse"]["value"] == pytest.approx(reverse, rel=1e-4)
        agree = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
        assert rows[text.label, "top1_agreement"]["value"] == pytest.approx(agree)
        q95 = np.percentile(js.numpy(), 95)
        assert rows[text.label, "js_divergence_q95"]["value"] == pytest.approx(q95, rel=1e-3)
        errors = -q.gather(2, tokens[:, 1:, None])[..., 0].mean(1).numpy()
        stderr = math.exp(nll) * errors.std(ddof=1) / math.sqrt(len(errors))
        assert rows[text.label, "perplexity"]["stderr"] == pytest.approx(stderr, rel=1e-3)


def test_compressing_in_place_leaves_the_dense_reference_alone(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model("llama", tie_word_embeddings=True)
    evaluator = Evaluator(data, model, tokenizer, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():  # the vocabulary projection too
            parameter.mul_(1.05)
    in_place = by_key(evaluator.evaluate(model).metrics)
    apart = by_key(
        Evaluator(data, make_model("llama", tie_word_embeddings=True), tokenizer, "cpu").evaluate(model).metrics
    )
    assert in_place["north", "js_divergence"]["value"] > 0
    assert in_place["north", "js_divergence"]["value"] == pytest.approx(apart["north", "js_divergence"]["value"])


def test_flips_and_margins_compare_each_example_with_dense(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    dense, model = make_model("llama"), damaged(make_model("llama"), 0.3)
    evaluator = Evaluator(data, dense, tokenizer, "cpu")
    before = [row for row in evaluator.evaluate(dense).samples if row["task"] == "tiny_choice"]
    result = evaluator.evaluate(model)
    after = [row for row in result.samples if row["task"] == "tiny_choice"]
    rows = by_key(result.metrics)
    lost = np.mean([old["correct"] and not new["correct"] for old, new in zip(before, after, strict=True)])
    won = np.mean([new["correct"] and not old["correct"] for old, new in zip(before, after, strict=True)])
    change = np.mean([new["margin"] - old["margin"] for old, new in zip(before, after, strict=True)])
    assert lost + won > 0
    assert rows["tiny_choice", "flips_right_to_wrong"]["value"] == lost
    assert rows["tiny_choice", "flips_wrong_to_right"]["value"] == won
    assert rows["tiny_choice", "margin_change"]["value"] == pytest.approx(change)
    accuracy = np.mean([row["correct"] for row in after])
    assert rows["tiny_choice", "acc"]["value"] == accuracy
    assert all((row["margin"] > 0) == row["correct"] for row in after)


def test_a_model_of_nan_has_no_numbers_and_reasons_instead(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model("llama")
    evaluator = Evaluator(data, model, tokenizer, "cpu")
    with torch.no_grad():
        model.get_decoder().layers[1].mlp.down_proj.weight.fill_(math.nan)
    result = evaluator.evaluate(model)
    assert {row["kind"] for row in result.metrics} == {"task", "group", "perplexity", "divergence"}
    assert all(row["value"] is None and row["stderr"] is None and row["reason"] for row in result.metrics)
    whole = evaluator.evaluate_dense(make_model("llama"), evaluator.dense_hash)
    assert [(row["task"], row["metric"]) for row in result.metrics] == [(r["task"], r["metric"]) for r in whole.metrics]
    assert all(set(row.values()) <= {None, row["task"], row["doc_id"]} for row in result.samples)


def test_a_model_of_nan_writes_no_answers(task_path: Path, make_model: Callable[..., Any], tokenizer: Any) -> None:
    settings = EvaluationSettings(tasks=["tiny_numbers"], task_path=str(task_path))
    model = make_model("llama")
    evaluator = Evaluator(build_evaluation(settings, tokenizer, CONTEXT), model, tokenizer, "cpu")
    with torch.no_grad():
        model.get_decoder().layers[1].mlp.down_proj.weight.fill_(math.nan)
    found = evaluator.evaluate(model)
    (row,) = [row for row in found.metrics if row["metric"] == "exact_match"]
    assert row["value"] is None
    assert "NaN or infinite in 4 of 4 examples" in row["reason"]


def test_rows_fit_the_results_tables(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    model = make_model("llama")
    result = Evaluator(data, model, tokenizer, "cpu").evaluate(model)
    store = Results(tmp_path)
    store.write_trial(TrialRows({"trial_id": "t", "status": "ok"}, metrics=result.metrics, samples=result.samples))
    metrics, samples = store.read("metrics"), store.read("samples")
    assert set(metrics["kind"]) == {"task", "group", "perplexity", "divergence"}
    assert len(samples.filter(samples["task"] == "north")) == 3
    assert samples.filter(samples["task"] == "north")["nll"].null_count() == 0
    assert samples.filter(samples["task"] == "tiny_lambada")["loglikelihood"].null_count() == 0
    assert set(result.seconds) == {"tasks", "windows"}
    assert result.scorer == "packed, explicit mask"


def test_truncated_requests_are_counted(task_path: Path, make_model: Callable[..., Any], tokenizer: Any) -> None:
    settings = EvaluationSettings(tasks=["tiny_choice"], task_path=str(task_path))
    data = build_evaluation(settings, tokenizer, 12)
    model = make_model("llama")
    result = Evaluator(data, model, tokenizer, "cpu").evaluate(model)
    lengths = np.diff(data.tasks.requests.offsets)
    assert 0 < result.truncated_requests < len(lengths)
    assert lengths.max() == 13


def test_another_process_scores_from_the_pickle_alone(
    data: EvaluationData, make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    """Neither the task files nor the data sets' caches are there, and the task's own code still runs."""
    model = make_model("llama")
    here = Evaluator(data, model, tokenizer, "cpu").evaluate(model)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    moved = pickle.dumps(data)
    for cache in (f"{Path.home()}/.cache", os.environ["HF_DATASETS_CACHE"]):
        assert cache.encode() not in moved
    (tmp_path / "data.pickle").write_bytes(moved)
    script = (
        "import json, pickle, sys, pathlib, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "import datasets\n"
        "datasets.load_dataset = None\n"
        "from sweep.evaluation.suite import Evaluator\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(folder / 'model').eval()\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder / 'model')\n"
        "data = pickle.loads((folder / 'data.pickle').read_bytes())\n"
        "print(json.dumps(Evaluator(data, model, tokenizer, 'cpu').evaluate(model).metrics))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    there = json.loads(done.stdout.splitlines()[-1])
    assert [(row["task"], row["metric"]) for row in there] == [(row["task"], row["metric"]) for row in here.metrics]
    for left, right in zip(there, here.metrics, strict=True):
        assert left["value"] == pytest.approx(right["value"], rel=1e-5, abs=1e-7)


def test_the_same_settings_build_the_same_requests(task_path: Path, tokenizer: Any) -> None:
    settings = EvaluationSettings(tasks=["tiny_choice"], task_path=str(task_path), num_fewshot=2)
    first, second = (build_evaluation(settings, tokenizer, CONTEXT).tasks.requests for _ in range(2))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    other = EvaluationSettings(tasks=["tiny_choice"], task_path=str(task_path), num_fewshot=2, fewshot_seed=5)
    assert not np.array_equal(first.tokens, build_evaluation(other, tokenizer, CONTEXT).tasks.requests.tokens)


def test_perturbed_variants_are_tasks_of_their_own(
    task_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    settings = EvaluationSettings(
        tasks=["tiny_group"],
        task_path=str(task_path),
        perturbations=[{"perturbation": "typos", "strength": 0.3}],
    )
    data = build_evaluation(settings, tokenizer, CONTEXT)
    names = [replay.name for replay in data.tasks.tasks]
    # the sentences of tiny_pairs have no prompt, so there is nothing to perturb
    assert names == ["tiny_choice", "tiny_pairs", "tiny_blanks", "tiny_choice@typos=0.3", "tiny_blanks@typos=0.3"]
    model = make_model("llama")
    rows = by_key(Evaluator(data, model, tokenizer, "cpu").evaluate(model).metrics)
    assert rows["tiny_choice@typos=0.3", "acc"]["n"] == rows["tiny_choice", "acc"]["n"]


def test_too_little_heldout_text_is_an_error(texts: list[dict[str, Any]], tokenizer: Any) -> None:
    settings = EvaluationSettings(heldout=texts, heldout_windows=100000, heldout_seqlen=40)
    with pytest.raises(SettingsError, match="north"):
        build_evaluation(settings, tokenizer, CONTEXT)


def test_windows_longer_than_the_context_are_an_error(texts: list[dict[str, Any]], tokenizer: Any) -> None:
    settings = EvaluationSettings(heldout=texts, heldout_seqlen=200)
    with pytest.raises(SettingsError, match=r"heldout_seqlen: 200 tokens .* context of 96"):
        build_evaluation(settings, tokenizer, CONTEXT)

"""Our evaluation beside lm-eval's HFLM: one process, one model, the same requests.

    python -m benchmarks.evaluation                             # a laptop: a model of 5 M parameters, 2 % of the suite
    python -m benchmarks.evaluation --model reference-5m        # a bundled model on the bundled tasks
    python -m benchmarks.evaluation --model 7b --share 1        # one large GPU: a 7B LLaMA shape, the whole suite
    python -m benchmarks.evaluation --model 7b --whole          # a trial's evaluation from text to numbers
    python -m benchmarks.evaluation --outside --share 1         # only what happens outside the model

A shape has random weights, and its requests have the shape of the papers' zero-shot suite (`suite.py`). Both sides
score what they are given, one after the other in each repeat, and the ratio is the median of the repeats' ratios, so
that a busy machine slows both. HFLM is asked for float32 log-softmax, as ours takes it. Beside the speed stand the
decisions that change: between HFLM and ours, and between HFLM and itself at another batch size, which no scorer avoids.

Outside the model: request building once a study; packing and batches once a worker; metrics, rows and files once a
trial. lm-eval does all of it for every model, which `--whole` counts and `--outside --beside` times alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.suite import Questions, flips, random_questions, task_questions, write_tasks
from sweep.evaluation.questions.loading import load_tasks
from sweep.evaluation.questions.replay import Scores
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.attention import ExplicitMask
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import CUDA_TOKENS, HeadRule, TokenBudget, head_rule
from sweep.evaluation.scorer.scoring import CUDA_ROW, PackedScorer, Scorer
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import Evaluator, build_evaluation, task_rows
from sweep.models import MODELS, bundled_models
from sweep.results import Results, TrialRows

WARM_UP = 256  # requests that are scored before anything is timed


@dataclass(frozen=True)
class Shape:
    """A LLaMA shape."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


SHAPES = {
    "2m": Shape(128, 352, 4, 4, 4, 8192),
    "5m": Shape(256, 704, 4, 4, 4, 8192),
    "160m": Shape(768, 2048, 12, 12, 12, 32000),
    "1b": Shape(2048, 5632, 22, 32, 4, 32000),
    "7b": Shape(4096, 11008, 32, 32, 32, 32000),
}


def make_model(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    return model.to(dtype).eval()


def bundled_model(name: str, device: str, dtype: torch.dtype, limit: int | None) -> tuple[Any, Questions]:
    """A bundled model, and the bundled tasks in its tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    model: Any = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=dtype).to(device).eval()
    data = build_evaluation(EvaluationSettings(tasks=["reference"], limit=limit), tokenizer, 512)
    return model, task_questions(data.tasks)


def hflm(model: Any, requests: Requests, batch_size: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """lm-eval's scorer on the same token ids."""
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    wrapped = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=2048, softmax_dtype="float32"
    )
    asked = []
    for number in range(len(requests)):
        asked.append((("", ""), *_pair(requests, number)))

    def score() -> tuple[np.ndarray, np.ndarray]:
        answers = wrapped._loglikelihood_tokens(asked, disable_tqdm=True)
        return np.asarray([value for value, _ in answers]), np.asarray([greedy for _, greedy in answers])

    return score


def _pair(requests: Requests, number: int) -> tuple[list[int], list[int]]:
    """(context, continuation) of one request."""
    ids, count = requests.sequence(number).tolist(), int(requests.continuation[number])
    return ids[:-count], ids[-count:]


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """(wall seconds, result), with the device's queue empty before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def compare(model: Any, questions: Questions, device: str, batch_size: int, other_size: int, repeats: int) -> None:
    """Print the speed of both sides, how far they are apart, and the decisions that change."""
    requests = questions.requests
    budget = TokenBudget(torch.device(device))
    few = Requests.pack([_pair(requests, number) for number in range(min(WARM_UP, len(requests)))], 2048)
    choose, warm = timed(lambda: choose_scorer(model, few, budget, head_rule(model)), device)
    first, _ = timed(lambda: warm.score(model), device)
    timed(hflm(model, few, batch_size), device)
    prepare, scorer = timed(lambda: choose_scorer(model, requests, budget, head_rule(model)), device)
    batches, _ = timed(scorer.batches, device)
    reference = hflm(model, requests, batch_size)
    pairs = [(timed(lambda: scorer.score(model), device), timed(reference, device)) for _ in range(repeats)]
    ours, theirs = pairs[0][0][1], pairs[0][1][1]
    print_tokens(scorer)
    print(f"first use            {choose + first:8.2f} s   once a process: choose, compile, score {len(few)} requests")
    print(f"pack, batches        {prepare + batches:8.2f} s   once a worker")
    print(f"{scorer.name:<20} {median(own for (own, _), _ in pairs):8.2f} s   median of {repeats}")
    print(f"HFLM                 {median(other for _, (other, _) in pairs):8.2f} s   batch {batch_size}")
    ratio = median(other / own for (own, _), (other, _) in pairs)
    print(f"speed-up             {ratio:8.2f} x   median of paired ratios")
    print(f"largest difference {np.abs(ours[0] - theirs[0]).max():.2g} nats")
    print(f"changed decisions: ours and HFLM {batch_size}: {flips(questions, ours, theirs)}")
    if other_size:
        again = hflm(model, requests, other_size)()
        print(f"                   HFLM {other_size} and HFLM {batch_size}: {flips(questions, again, theirs)}")


def print_tokens(scorer: Scorer) -> None:
    if isinstance(scorer, PackedScorer):
        packing = scorer.packing
        rows = sum(batch.tokens.numel() for batch in scorer.batches())
        print(
            f"tokens: {packing.requested_tokens:,} asked, {packing.tokens:,} after sharing prefixes, "
            f"{packing.tokens / rows:.1%} of the positions are real"
        )


def outside(share: float, inside: float | None, *, beside: bool) -> None:
    """Print what happens outside the model, for lm-eval tasks of the suite's shape and random answers.

    `inside` is the seconds that the model itself takes, for the share of the whole; `beside`: lm-eval's own as well.
    """
    from transformers import AutoTokenizer

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = EvaluationSettings(tasks=write_tasks(Path(folder), share), task_path=folder)
        tokenizer = AutoTokenizer.from_pretrained(MODELS / "reference-2m")
        build, data = timed(lambda: build_evaluation(settings, tokenizer, 2048), "cpu")
        requests, tasks = data.tasks.requests, data.tasks.tasks
        budget = TokenBudget(torch.device("cpu"), tokens=CUDA_TOKENS)
        pack, scorer = timed(lambda: PackedScorer(requests, budget, HeadRule(), ExplicitMask(), CUDA_ROW), "cpu")
        batches, _ = timed(lambda: list(scorer._prepare()), "cpu")

        def answers() -> Scores:
            return Scores(-rng.gamma(9.0, 5.0, len(requests)), rng.random(len(requests)) < 0.1)

        thaw, dense = timed(lambda: {task.name: task.metrics(answers()) for task in tasks}, "cpu")
        metrics, found = timed(lambda: {task.name: task.metrics(answers()) for task in tasks}, "cpu")
        make_rows, rows = timed(lambda: task_rows(found, dense, data.tasks.groups), "cpu")
        trial = TrialRows({"trial_id": "t", "status": "ok"}, metrics=rows[0], samples=rows[1])
        write, _ = timed(lambda: Results(Path(folder) / "results").write_trial(trial), "cpu")
        theirs = lm_eval_outside(settings, tokenizer) if beside else None
    print(f"{sum(len(task.docs) for task in tasks):,} documents, {len(requests):,} requests of {len(tasks)} tasks")
    print(f"once a study:  build requests {build:.2f} s")
    print(f"once a worker: pack {pack:.2f} s, batches {batches:.2f} s, first metrics {thaw:.2f} s")
    print(f"once a trial:  metrics {metrics:.2f} s, rows {make_rows:.2f} s, write {write:.2f} s")
    total = metrics + make_rows + write
    part = f", {total / (total + inside):.1%} of the evaluation" if inside else ""
    print(f"outside the model: {total:.2f} s{part}")
    if theirs is not None:
        print(f"lm-eval, every trial: {theirs:.2f} s outside the model: prompts, tokens, metrics (tasks loaded)")


def lm_eval_outside(settings: EvaluationSettings, tokenizer: Any) -> float:
    """Seconds of `lm_eval.evaluate` with an HFLM whose model answers at once."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    rng = np.random.default_rng(0)

    class Answers(HFLM):
        def _loglikelihood_tokens(self, requests: list[Any], *_: Any, **__: Any) -> list[tuple[float, bool]]:
            return list(zip((-rng.gamma(9.0, 5.0, len(requests))).tolist(), [False] * len(requests), strict=True))

    model = AutoModelForCausalLM.from_pretrained(MODELS / "reference-2m")
    wrapped = Answers(pretrained=model, tokenizer=tokenizer, batch_size=64, max_length=2048)
    tasks, _ = load_tasks(settings)
    seconds, _ = timed(lambda: evaluate(wrapped, tasks, bootstrap_iters=0), "cpu")
    return seconds


def whole(model: Any, share: float, device: str, batch_size: int) -> None:
    """Print the seconds of a trial's whole evaluation, from prompts to numbers, beside `lm_eval.evaluate` with HFLM.

    The tasks have the suite's shape in text. lm-eval renders and tokenizes them for every model; here that is done
    once a study, and its time is printed apart.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        settings = EvaluationSettings(tasks=write_tasks(Path(folder), share), task_path=folder, bootstrap_iters=0)
        tokenizer = AutoTokenizer.from_pretrained(MODELS / "reference-2m")
        build, data = timed(lambda: build_evaluation(settings, tokenizer, 2048), "cpu")
        tasks, _ = load_tasks(settings)
        prepare, evaluator = timed(lambda: Evaluator(data, model, tokenizer, device), device)
        wrapped = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=2048, softmax_dtype="float32"
        )
        evaluate(wrapped, tasks, limit=2, bootstrap_iters=0)  # warms up
        ours, found = timed(lambda: evaluator.evaluate(model), device)
        theirs, wanted = timed(lambda: evaluate(wrapped, tasks, bootstrap_iters=0), device)
    assert wanted is not None
    accuracy = {row["task"]: row["value"] for row in found.metrics if row["metric"] == "acc"}
    apart = [abs(accuracy[name] - numbers["acc,none"]) for name, numbers in wanted["results"].items()]
    print(f"{len(data.tasks.requests):,} requests, {found.scorer}")
    print(f"once a study      {build:8.2f} s   prompts and tokens")
    print(f"once a worker     {prepare:8.2f} s   choose, pack, compile, score the dense model")
    print(f"ours              {ours:8.2f} s   a trial")
    print(f"lm-eval           {theirs:8.2f} s   a trial, batch {batch_size}")
    print(f"speed-up             {theirs / ours:8.2f} x")
    print(f"accuracies differ by at most {max(apart):.4f}")


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*sorted(SHAPES), *bundled_models()], default="1b" if on_gpu else "5m")
    parser.add_argument("--share", type=float, default=1.0 if on_gpu else 0.02, help="share of the suite's documents")
    parser.add_argument("--limit", type=int, help="documents of each bundled task, for a bundled model")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both sides, on a CPU")
    parser.add_argument("--batch-size", type=int, default=64, help="of HFLM")
    parser.add_argument("--other-batch-size", type=int, default=16, help="of HFLM beside itself; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--outside", action="store_true", help="only what happens outside the model")
    parser.add_argument("--whole", action="store_true", help="a trial's evaluation from text to numbers, and lm-eval's")
    parser.add_argument("--beside", action="store_true", help="with --outside: lm-eval outside the model as well")
    parser.add_argument("--inside", type=float, help="with --outside: seconds that the model itself takes")
    arguments = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if arguments.outside:
        outside(arguments.share, arguments.inside, beside=arguments.beside)
        return
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    if arguments.whole:
        if arguments.model not in SHAPES:
            parser.error("--whole takes a shape with random weights")
        model = make_model(SHAPES[arguments.model], arguments.device, dtype)
        whole(model, arguments.share, arguments.device, arguments.batch_size)
        return
    if arguments.model in SHAPES:
        shape = SHAPES[arguments.model]
        questions = random_questions(arguments.share, shape.vocabulary)
        model = make_model(shape, arguments.device, dtype)
    else:
        model, questions = bundled_model(arguments.model, arguments.device, dtype, arguments.limit)
    where = f"{arguments.device}, {arguments.dtype}, {arguments.threads} threads"
    print(f"{arguments.model} on {where}: {len(questions.requests):,} requests")
    compare(model, questions, arguments.device, arguments.batch_size, arguments.other_batch_size, arguments.repeats)


if __name__ == "__main__":
    main()

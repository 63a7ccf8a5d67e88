"""Our scorer beside lm-eval's HFLM: one process, one model with random weights, the same requests.

    python -m benchmarks.evaluation                         # a laptop: a model of 5 M parameters, 2 % of the suite
    python -m benchmarks.evaluation --model 7b --share 1    # one large GPU: a 7B LLaMA shape, the whole suite

The requests have the shape of the eleven zero-shot tasks of the calibration papers (documents, choices, mean tokens of
context and of continuation), with random token ids. Both sides score what they are given; building requests and the
metrics of lm-eval are timed apart. HFLM is asked for float32 log-softmax, as ours takes it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sweep.evaluation.forward import TokenBudget, head_rule
from sweep.evaluation.requests import Requests
from sweep.evaluation.scoring import PackedScorer, choose_scorer

SUITE = {  # documents, choices, mean context, mean continuation
    "arc_easy": (2376, 4, 26, 5),
    "arc_challenge": (1172, 4, 31, 6),
    "boolq": (3270, 2, 150, 1),
    "hellaswag": (10042, 4, 62, 30),
    "lambada": (5153, 1, 85, 2),
    "openbookqa": (500, 4, 13, 4),
    "piqa": (1838, 2, 12, 25),
    "rte": (277, 2, 85, 1),
    "storycloze": (1871, 2, 55, 14),
    "winogrande": (1267, 2, 22, 6),
    "copa": (100, 2, 11, 9),
}


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


def suite_requests(share: float, vocabulary: int, seed: int = 0) -> Requests:
    """Random requests in the suite's shape; lengths scatter around their means as those of real tasks do."""
    rng = np.random.default_rng(seed)

    def tokens(mean: float) -> list[int]:
        length = max(1, round(mean * rng.gamma(9.0, 1 / 9.0)))
        return [int(token) for token in rng.integers(3, vocabulary, length)]

    pairs = []
    for documents, choices, context_mean, continuation_mean in SUITE.values():
        for _ in range(max(1, round(documents * share))):
            context = [1, *tokens(context_mean)]
            pairs += [(context, tokens(continuation_mean)) for _ in range(choices)]
    return Requests.pack(pairs, 2048)


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
        ids, count = requests.sequence(number).tolist(), int(requests.continuation[number])
        asked.append((("", ""), ids[:-count], ids[-count:]))

    def score() -> tuple[np.ndarray, np.ndarray]:
        answers = wrapped._loglikelihood_tokens(asked, disable_tqdm=True)
        return np.asarray([value for value, _ in answers]), np.asarray([greedy for _, greedy in answers])

    return score


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """(wall seconds, result), with the device's queue empty before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="1b" if on_gpu else "5m")
    parser.add_argument("--share", type=float, default=1.0 if on_gpu else 0.02, help="share of the suite's documents")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--batch-size", type=int, default=64, help="of HFLM")
    parser.add_argument("--repeats", type=int, default=3, help="of our scorer; the first one also builds its batches")
    arguments = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    shape = SHAPES[arguments.model]
    requests = suite_requests(arguments.share, shape.vocabulary)
    model = make_model(shape, arguments.device, getattr(torch, arguments.dtype))
    print(f"{arguments.model} on {arguments.device}, {arguments.dtype}: {len(requests):,} requests")

    budget = TokenBudget(torch.device(arguments.device))
    prepare, scorer = timed(lambda: choose_scorer(model, requests, budget, head_rule(model)), arguments.device)
    runs = [timed(lambda: scorer.score(model), arguments.device) for _ in range(arguments.repeats)]
    ours, (found, greedy) = min(runs, key=lambda run: run[0])
    reference = hflm(model, requests, arguments.batch_size)
    theirs, (wanted, wanted_greedy) = timed(reference, arguments.device)

    if isinstance(scorer, PackedScorer):
        packing = scorer.packing
        rows = sum(batch.tokens.numel() for batch in scorer._batches or ())
        print(
            f"tokens: {packing.requested_tokens:,} asked, {packing.tokens:,} after sharing prefixes, "
            f"{packing.tokens / rows:.1%} of the positions are real"
        )
    print(f"choose and pack   {prepare:8.2f} s   once a worker")
    print(f"first scoring     {runs[0][0]:8.2f} s")
    print(f"{scorer.name:<17} {ours:8.2f} s   best of {arguments.repeats}")
    print(f"HFLM              {theirs:8.2f} s   batch {arguments.batch_size}")
    print(f"speed-up          {theirs / ours:8.2f} x")
    print(
        f"largest difference {np.abs(found - wanted).max():.2g} nats; is_greedy differs in "
        f"{int((greedy != wanted_greedy).sum())} of {len(greedy):,}"
    )


if __name__ == "__main__":
    main()

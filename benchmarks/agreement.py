"""How far apart one method's results are when only the machine's rounding changes: threads, order of windows, device.

    python -m benchmarks.agreement                        # all settings on reference-17m, with a GPU if there is one
    python -m benchmarks.agreement --model reference-2m --methods gptq,spqr

A weight that lies between two codes, or a score at the threshold, takes the other one when a sum differs in its last
bit. Each row is a method; the first column is the held-out perplexity on one thread of the processor, the others say
by how many percent it moves, and which share of the compressed weights differs: with two threads, with the calibration
windows in reverse order (the same sums, added the other way round), and on a CUDA device. Two columns of the processor
tell what a difference of the device is worth.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from calib.build import build
from calib.source import get_source
from calib.spec import CalibrationSpec
from methods.base import Method, method_name, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.walk.linears import linears_of
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel

SEQLEN = 256
NSAMPLES = 16
ENTRIES: list[Any] = [  # every method; the device tests hold them to the processor's results
    {"method": "rtn", "bits": 4, "group_size": 32},
    {"method": "nf4"},
    {"method": "hqq", "bits": 4, "group_size": 32},
    {"method": "gptq", "bits": 3, "group_size": 32},
    {"method": "gptq", "bits": 4, "group_size": 32},
    {"method": "gptq", "bits": 4, "group_size": 32, "true_sequential": True},
    {"method": "spqr", "bits": 3},
    {"method": "magnitude"},
    {"method": "wanda"},
    {"method": "wanda", "pattern": "2:4"},
    {"method": "sparsegpt"},
    {"method": "sparsegpt", "pattern": "2:4"},
    {"method": "awq", "bits": 3, "group_size": 32},
    [{"method": "smoothquant"}, {"method": "rtn", "bits": 4, "group_size": 32}],
    [{"method": "rotation"}, {"method": "gptq", "bits": 4, "group_size": 32}],
    [{"method": "sparsegpt", "pattern": "2:4"}, {"method": "gptq", "bits": 4, "group_size": 32}],
    {"method": "svd"},
    {"method": "asvd"},
    {"method": "fwsvd"},
    {"method": "joint_svd"},
    {"method": "svd_llm"},
]


@dataclass
class Run:
    """One compressed model: its held-out perplexity, and its weights on the processor."""

    perplexity: float
    weights: list[torch.Tensor]
    seconds: float

    def differing(self, other: Run) -> float:
        """Share of weights that are further than 1e-4 of their row's largest from the other run's."""
        far = total = 0
        for mine, theirs in zip(self.weights, other.weights, strict=True):
            limit = 1e-4 * mine.abs().amax(1, keepdim=True)
            far += int(((mine - theirs).abs() > limit).sum())
            total += mine.numel()
        return far / total


def tokens_of(model: DenseModel, source: Any, nsamples: int) -> torch.Tensor:
    """Windows [nsamples, 256] of a source, int64."""
    spec = CalibrationSpec(source=source, set=0, nsamples=nsamples, seqlen=SEQLEN)
    return torch.tensor(build(spec, model.tokenizer, model.ref.tokenizer_id).tokens).long()


def perplexity(model: Any, windows: torch.Tensor) -> float:
    """exp of the mean loss over `windows` [n, length], in float32, 16 windows at a time."""
    losses = []
    with torch.no_grad():
        for part in windows.split(16):
            logits = model(part.to(model.device), use_cache=False).logits[:, :-1].float().flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits, part[:, 1:].flatten().to(model.device)).item())
    return math.exp(sum(losses) / len(losses))


def compress_and_score(model: DenseModel, method: Method, windows: torch.Tensor, heldout: torch.Tensor) -> Run:
    """Restore `model`, compress it with `windows`, and score `heldout`."""
    model.restore()
    begin = time.perf_counter()
    compress_model(model.model, method, None if method.data_free else windows)
    linears = [linear for block in decoder_blocks(model.model) for linear in linears_of(block)]
    weights = [linear.weight.float().cpu().clone() for linear in linears]
    return Run(perplexity(model.model, heldout), weights, time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference-17m")
    parser.add_argument("--methods", help="only these, by name, such as gptq,spqr")
    parser.add_argument("--windows", type=int, default=64, help="held-out windows of 256 tokens")
    arguments = parser.parse_args()

    models = {"cpu": DenseModel(resolve_model(arguments.model, "--model"), "cpu", "float32")}
    if torch.cuda.is_available():
        models["cuda"] = DenseModel(resolve_model(arguments.model, "--model"), "cuda", "float32")
    tokens = tokens_of(models["cpu"], get_source("books", "source"), NSAMPLES)
    heldout_source = get_source({"source": "heldout", "domain": "books"}, "source")
    heldout = tokens_of(models["cpu"], heldout_source, arguments.windows)

    def on(device: str, threads: int, windows: torch.Tensor) -> Callable[[Method], Run]:
        def work(method: Method) -> Run:
            torch.set_num_threads(threads)
            return compress_and_score(models[device], method, windows, heldout)

        return work

    columns = {"2 threads": on("cpu", 2, tokens), "reversed": on("cpu", 1, tokens.flip(0))}
    if "cuda" in models:
        columns["cuda"] = on("cuda", 1, tokens)
    torch.set_num_threads(1)
    print(
        f"{arguments.model}, {arguments.windows} held-out windows of {SEQLEN} tokens; differences in %, and the share"
    )
    print("of weights that differ")
    print(f"{'method':<58} {'1 thread':>9}" + "".join(f" {name:>18}" for name in columns), flush=True)
    for entry in ENTRIES:
        method = parse_method(entry, "method")
        if arguments.methods and not set(arguments.methods.split(",")) & set(method_name(method).split("+")):
            continue
        reference = on("cpu", 1, tokens)(method)
        line = f"{method.label:<58} {reference.perplexity:>9.3f}"
        for work in columns.values():
            run = work(method)
            moved = 100 * (run.perplexity / reference.perplexity - 1)
            line += f" {moved:>+8.3f} {100 * reference.differing(run):>7.3f} %"
        print(line, flush=True)


if __name__ == "__main__":
    main()

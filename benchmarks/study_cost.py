"""What the published calibration study costs in GPU hours, and how a trial's time grows with its size.

    python -m benchmarks.study_cost                      # one large GPU, about four minutes
    python -m benchmarks.study_cost --models 7b --quick  # only the smallest of the three sizes, one run each

The study of arXiv 2311.09755 compresses nine models (LLaMA and Vicuna of 7B, 13B and 33B, OPT of 6.7B, 13B and 30B)
with four methods on five sources of ten sets: 1,800 trials, each evaluated on eleven tasks. Here random weights of the
three LLaMA shapes stand for the nine models. Blocks of one model cost the same, so a few of them are timed: one in the
middle of a walk gives compression, and the difference between a deep and a shallow model gives evaluation without what
is paid once per model. Whatever is extrapolated says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics as stats
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.compression import timed_walk
from benchmarks.evaluation import Shape, make_model, timed
from benchmarks.suite import random_questions
from methods.base import get_method
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule

SHAPES = {
    "7b": Shape(4096, 11008, 32, 32, 32, 32000),
    "13b": Shape(5120, 13824, 40, 40, 40, 32000),
    "33b": Shape(6656, 17920, 60, 52, 52, 32000),
}
GPTQ = "GPTQ 4-bit g128"
METHODS = {
    GPTQ: ("gptq", {"bits": 4, "group_size": 128}),
    "SpQR 4-bit g16": ("spqr", {}),
    "SparseGPT 2:4": ("sparsegpt", {"pattern": "2:4"}),
    "Wanda 2:4": ("wanda", {"pattern": "2:4"}),
}
TRIALS_OF_A_SHAPE = 3 * 5 * 10  # for each method: models of about this size, sources, sets
SHALLOW, DEEP = 2, 6
SHARE = 0.02  # of the suite's documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="7b,13b,33b")
    parser.add_argument(
        "--windows", default="32,64,128", help="sizes of a calibration set; the last one is the study's"
    )
    parser.add_argument("--quick", action="store_true", help="one timed run instead of the median of three")
    parser.add_argument("--json", help="also write all numbers to this file")
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else 3
    windows = [int(count) for count in arguments.windows.split(",")]
    rows = [measure(name, windows, repeats) for name in arguments.models.split(",")]
    show(rows, windows)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


def measure(name: str, windows: list[int], repeats: int) -> dict[str, Any]:
    """Seconds of one model size: a block by method, a block by number of windows, the whole suite."""
    shape = SHAPES[name]
    model = make_model(replace(shape, layers=3), "cuda", torch.bfloat16).requires_grad_(False)
    blocks = {label: block_seconds(model, method, windows[-1], repeats) for label, method in METHODS.items()}
    by_windows = {count: block_seconds(model, METHODS[GPTQ], count, repeats) for count in windows[:-1]}
    by_windows[windows[-1]] = blocks[GPTQ]
    parameters = sum(p.numel() for p in model.model.layers[0].parameters()) * shape.layers
    parameters += 2 * shape.vocabulary * shape.width
    del model
    evaluation = suite_seconds(shape, repeats)
    row = {"model": name, "parameters": parameters, "layers": shape.layers, "blocks": blocks, "windows": by_windows}
    return {**row, "evaluation": evaluation}


def block_seconds(model: Any, method: tuple[str, dict[str, Any]], windows: int, repeats: int) -> float:
    """Median time of the block in the middle, after a warm-up on a few windows."""
    tokens = torch.randint(0, 32000, (windows, 2048), generator=torch.Generator().manual_seed(0))
    built = get_method(method[0], **method[1])
    times = []
    for part in [tokens[:2]] + [tokens] * repeats:
        marks, _ = timed_walk(model, built, part)
        times.append(marks[2] - marks[1])
    return stats.median(times[1:])


def suite_seconds(shape: Shape, repeats: int) -> float:
    """The eleven tasks on the whole model, extrapolated from a share of the suite and from few blocks."""
    requests = random_questions(SHARE, shape.vocabulary).requests
    seconds = {}
    for layers in (SHALLOW, DEEP):
        gc.collect()
        torch.cuda.empty_cache()
        seconds[layers] = scoring_seconds(replace(shape, layers=layers), requests, repeats)
    block = (seconds[DEEP] - seconds[SHALLOW]) / (DEEP - SHALLOW)
    return (seconds[SHALLOW] + (shape.layers - SHALLOW) * block) / SHARE


def scoring_seconds(shape: Shape, requests: Requests, repeats: int) -> float:
    """Median time of scoring all requests; the first run prepares the batches."""
    model = make_model(shape, "cuda", torch.bfloat16)
    scorer = choose_scorer(model, requests, TokenBudget(torch.device("cuda")), head_rule(model))
    runs = [timed(lambda: scorer.score(model), "cuda")[0] for _ in range(repeats + 1)]
    return stats.median(runs[1:])


def show(rows: list[dict[str, Any]], windows: list[int]) -> None:
    """Tables: seconds of a trial by size and method, growth with windows, and the study's cost."""
    hours = 0.0
    print(f"seconds of a trial ({windows[-1]} windows of 2,048 tokens, eleven tasks), extrapolated to all blocks")
    print(f"{'model':8}{'parameters':>12}{'tasks':>10}" + "".join(f"{label:>18}" for label in METHODS))
    for row in rows:
        compress = [row["layers"] * row["blocks"][label] for label in METHODS]
        hours += sum(TRIALS_OF_A_SHAPE * (seconds + row["evaluation"]) for seconds in compress) / 3600
        cells = "".join(f"{seconds:>18.1f}" for seconds in compress)
        print(f"{row['model']:8}{row['parameters'] / 1e9:>11.1f}B{row['evaluation']:>10.1f}{cells}")
    print("\nseconds of GPTQ by calibration windows")
    for row in rows:
        cells = "".join(f"{count:>6}: {row['layers'] * row['windows'][count]:8.1f}" for count in windows)
        print(f"{row['model']:8}{cells}")
    trials = TRIALS_OF_A_SHAPE * len(METHODS) * len(rows)
    print(f"\n{trials:,} trials of these sizes: {hours:.0f} GPU hours, loading and held-out windows not counted")


if __name__ == "__main__":
    main()

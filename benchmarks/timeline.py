"""Where the seconds of one GPU go: a whole trial of the 7B shape by phase, and device time by kind of work.

Device time comes from torch's profiler over a slice (two blocks of the compression, a few hundred requests of the
suite). A kernel belongs to the innermost piece of this project's code that launched it (sums over inputs, factor,
column loops, ...), which is marked while the profiler runs; kernels of the model's own forward are told apart by name.
Idle time is the slice's wall time without the profiler, less what kernels take.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.llama import VOCABULARY, keep_weights, make_model, random_tokens
from methods.base import get_method
from methods.blockwise import compress_model

GPTQ = {"bits": 4, "group_size": 128}
MARK = "part: "
PRODUCTS, ATTENTION, ELEMENTWISE, COPIES = (
    "matrix products of the blocks",
    "attention",
    "norms, rotation, activation",
    "copies and fills",
)
PIECES = {  # what is marked: module, attribute (of a class, if dotted), name of the piece
    "sums over inputs": ("methods.inputs.statistic", "Statistic.update"),
    "factor": ("methods.inputs.hessian", "inverse_factor"),
    "column loops": ("methods.kernels.columns", "quantize_block"),
    "later columns' updates": ("methods.numerics.solvers", "push"),
    "telemetry": ("methods.walk.job", "measured"),
    "grids, stacking": ("methods.gptq", "GPTQ.compress_weights"),
    "vocabulary projection": ("sweep.evaluation.scorer.scoring", "Scorer._logits"),
    "log-softmax": ("sweep.evaluation.scorer.scoring", "_read"),
    "masks": ("sweep.evaluation.scorer.scoring", "PackedScorer._mask"),
}
KERNELS = (  # of the model's forward, by name, the first that fits
    (ATTENTION, r"flash|fmha|attention|flex|sdpa"),
    (PRODUCTS, r"gemm|nvjet|cutlass|xmma|cublas|splitk|mm_|matmul|triton_tem"),
    (COPIES, r"memcpy|memset|copy|fill|cat"),
)


def compression_parts(model: Any, tokens: torch.Tensor, restore: Callable[[], None], blocks: int) -> dict[str, Any]:
    """Device milliseconds of GPTQ by kind of work, on the first `blocks` blocks of `model`."""
    last = len(model.get_decoder().layers)
    method = get_method("gptq", **GPTQ, skip_blocks=list(range(blocks, last)))

    wall = 0.0
    for run in range(2):  # the first one compiles
        restore()
        wall = seconds_of(lambda: compress_model(model, method, tokens))
        print(f"  GPTQ, {blocks} blocks, run {run + 1}: {wall:.2f} s", flush=True)
    restore()
    found = device_time(lambda: compress_model(model, method, tokens))
    restore()
    return summary(f"GPTQ, {blocks} blocks", wall, found)


def whole_trial(blocks: int, nsamples: int, share: float, seconds_left: Callable[[], float]) -> dict[str, Any]:
    """Seconds by phase of one GPTQ trial (compress, evaluate, restore), memory, and device time of two slices."""
    from benchmarks.suite import random_questions
    from sweep.evaluation.scorer.choice import choose_scorer
    from sweep.evaluation.scorer.forward import TokenBudget, head_rule

    result: dict[str, Any] = {"blocks": blocks, "share_of_suite": share}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        yield
        torch.cuda.synchronize()
        result[f"{name}_s"] = time.perf_counter() - begin
        print(f"  {name}: {result[f'{name}_s']:.2f} s", flush=True)

    with phase("make_model"):
        model = make_model(blocks)
        restore = keep_weights(model)
    tokens, budget = random_tokens(nsamples, 2048), TokenBudget(torch.device("cuda"))
    weights = torch.cuda.memory_allocated()
    with phase("warm_up"):  # compiles column loops, attention and masks
        compress_model(model, get_method("gptq", **GPTQ, skip_blocks=list(range(1, blocks))), tokens[:8])
        few = choose_scorer(model, random_questions(0.01, VOCABULARY).requests, budget, head_rule(model))
        few.score(model)
        restore()
    with phase("prepare_suite"):
        requests = random_questions(share, VOCABULARY).requests
        scorer = choose_scorer(model, requests, budget, head_rule(model))
    torch.cuda.reset_peak_memory_stats()
    with phase("compress"):
        report = compress_model(model, get_method("gptq", **GPTQ), tokens)
    result["compress_peak_gib_above_weights"] = (torch.cuda.max_memory_allocated() - weights) / 2**30
    result["layer_error"] = report.layer_error
    if seconds_left() > 0:
        torch.cuda.reset_peak_memory_stats()
        with phase("evaluate"):
            scorer.score(model)
        result["evaluate_peak_gib_above_weights"] = (torch.cuda.max_memory_allocated() - weights) / 2**30
        result |= {"requests": len(requests), "scorer": scorer.name}
    else:
        result["evaluate"] = "left out: the deadline has passed"
    with phase("restore"):
        restore()
    slices = {
        "compression": lambda: compression_parts(model, tokens, restore, 2),
        "scoring": lambda: scoring_parts(model, few),
    }
    for name, work in slices.items():
        if seconds_left() <= 0:
            result[name] = {"failed": "left out: the deadline has passed"}
            continue
        try:
            result[name] = work()
        except Exception as error:  # a benchmark's later parts are worth having without this one
            result[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    return result


def scoring_parts(model: Any, scorer: Any) -> dict[str, Any]:
    """Device milliseconds of scoring by kind of work; `scorer` holds a slice of the suite and is warm."""
    wall = seconds_of(lambda: scorer.score(model))
    found = device_time(lambda: scorer.score(model))
    return summary(f"scoring, {len(scorer.requests):,} requests", wall, found)


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall seconds, with the device's queue empty before and after."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def summary(label: str, wall: float, milliseconds: Counter[str]) -> dict[str, Any]:
    """One bar of the picture; `wall` in seconds, without the profiler."""
    busy = sum(milliseconds.values()) / 1000
    parts = [{"part": name, "ms": ms} for name, ms in milliseconds.most_common()]
    idle = {"part": "idle", "ms": max(1000 * (wall - busy), 0.0)}
    return {"label": label, "wall_s": wall, "busy_share": min(busy / wall, 1.0), "parts": [*parts, idle]}


def device_time(work: Callable[[], Any]) -> Counter[str]:
    """Milliseconds of kernels by kind of work while `work` runs."""
    from torch.profiler import ProfilerActivity, profile

    with marked(), profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(file))
        return kernels_by_kind(json.loads(file.read_text())["traceEvents"])


def kernels_by_kind(events: list[dict[str, Any]]) -> Counter[str]:
    """Milliseconds of device events by the innermost marked piece that launched them, of others by their names."""
    launched = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    on_device = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    on_device.sort(key=lambda event: launched.get(event["args"].get("correlation"), event["ts"]))
    marks = [event for event in events if event.get("cat") == "user_annotation" and event["name"].startswith(MARK)]
    marks.sort(key=lambda event: -event["ts"])
    open_marks: list[dict[str, Any]] = []
    found: Counter[str] = Counter()
    for event in on_device:
        launch = launched.get(event["args"].get("correlation"), event["ts"])
        while marks and marks[-1]["ts"] <= launch:
            open_marks.append(marks.pop())
        open_marks = [mark for mark in open_marks if mark["ts"] + mark["dur"] >= launch]
        piece = open_marks[-1]["name"].removeprefix(MARK) if open_marks else kind_of(event["name"])
        found[piece] += event["dur"] / 1000
    return found


def kind_of(kernel: str) -> str:
    """What a kernel of the model's forward does, by its name."""
    low = kernel.lower()
    return next((kind for kind, pattern in KERNELS if re.search(pattern, low)), ELEMENTWISE)


@contextmanager
def marked() -> Iterator[None]:
    """While open, the profiler sees which piece of the project runs."""
    import importlib

    with ExitStack() as stack:
        for name, (module, path) in PIECES.items():
            holder: Any = importlib.import_module(module)
            *owners, attribute = path.split(".")
            for owner in owners:
                holder = getattr(holder, owner)
            plain = getattr(holder, attribute)
            setattr(holder, attribute, _marking(plain, MARK + name))
            stack.callback(setattr, holder, attribute, plain)
        yield


def _marking(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def run(*arguments: Any, **keywords: Any) -> Any:
        with torch.profiler.record_function(name):
            return function(*arguments, **keywords)

    return run

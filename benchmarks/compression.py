"""Seconds and memory of every method on one block of a 7B LLaMA, device kernels beside their plain torch twins.

    python -m benchmarks.compression                            # one large GPU: all parts, under nine minutes
    python -m benchmarks.compression --parts methods --methods gptq,spqr
    python -m benchmarks.compression --cpu --model reference-5m  # a bundled model on this machine's processor

The model has the width of LLaMA-7B (hidden 4096, 32 heads, inner 11008), random bfloat16 weights and a few blocks; the
calibration set is 128 windows of 2,048 random tokens (AWQ: 128 x 512). Blocks cost the same, so one block in the middle
of the walk is timed and 32 of them are extrapolated, which the table says. Every time is a median of three after a
warm-up unless `runs` says otherwise; the share of the ceiling relates the operations a method must do to what this
device's bfloat16 matrix product reached in the same process. Cases come in the order of their worth, and one whose turn
comes after the deadline is left out and says so. A part that fails says so and the others go on.

    python -m benchmarks.compression --parts trial --picture time.png   # one whole trial, and where its time goes
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics as stats
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.llama import BLOCKS_7B, INNER, WIDTH, keep_weights, make_model, random_tokens
from methods.base import Composition, Method, parse_method
from methods.blockwise import compress_model
from methods.inputs.hessian import Hessian
from methods.numerics import gram
from methods.numerics.backend import backend_of, column_backend

TWIN = "plain torch"


@dataclass(frozen=True)
class Case:
    """A row of the table: a method with its settings, its tokens, and what its statistics cost."""

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    after: str | None = None  # a method that is applied first
    nsamples: int = 128
    seqlen: int = 2048
    columns: bool = False  # has a column loop, so it runs with the twin as well

    def make(self, **changes: Any) -> Method:
        """The method, with `changes` to the settings that it has."""
        entry = {"method": self.method, **self.settings, **changes}
        return parse_method(entry if self.after is None else [self.after, entry], self.label)


CASES = [
    Case("GPTQ 4-bit g128", "gptq", {"bits": 4, "group_size": 128}, columns=True),
    Case("SparseGPT 50 %", "sparsegpt", columns=True),
    Case("SpQR 4-bit g16", "spqr", columns=True),
    Case("Wanda 50 %", "wanda"),
    Case("AWQ 4-bit g128", "awq", {"bits": 4, "group_size": 128}, seqlen=512),
    Case("magnitude 50 %", "magnitude"),
    Case("RTN 4-bit g128", "rtn", {"bits": 4, "group_size": 128}),
    Case("SparseGPT 2:4", "sparsegpt", {"pattern": "2:4"}, columns=True),
    Case("SmoothQuant + RTN", "rtn", {"bits": 4, "group_size": 128}, after="smoothquant", seqlen=512),
    Case("SVD 80 %", "svd"),
    Case("ASVD 80 %", "asvd"),
    Case("FWSVD 80 %", "fwsvd"),
    Case("joint SVD 80 %", "joint_svd"),
    Case("SVD-LLM 80 %", "svd_llm"),
]


@dataclass
class Timing:
    """One timed method. `block` is the median time of a block in the middle, `extra` the peak above the weights."""

    label: str
    backend: str
    block: float
    first: float
    runs: int
    spread: float
    extra_gib: float
    share: float | None
    model: float  # extrapolated to BLOCKS_7B blocks on the GPU; the whole model when it was run whole
    error: float


def main() -> None:
    arguments = parse_arguments()
    clock = Clock(arguments.deadline)
    if arguments.cpu:
        tables = {"methods": part(lambda: bundled_model(arguments, clock))}
    else:
        if not torch.cuda.is_available():
            sys.exit("no CUDA device: use --cpu for the bundled models on this processor")
        tables = {"device": describe_device()}
        ceiling = part(bf16_ceiling)
        tables["ceiling"] = ceiling
        wanted = arguments.parts.split(",")
        parts: dict[str, Callable[[], Any]] = {
            "methods": lambda: random_7b(arguments, clock, ceiling.get("bf16_tflops")),
            "loops": lambda: column_loops(arguments, clock),
            "factor": factorization,
            "selection": selection,
            "statistics": hessian_accuracy,
            "tune": lambda: launches(clock),
            "profile": lambda: profile(arguments),
            "trial": lambda: trial(arguments, clock),
        }
        unknown = [name for name in wanted if name not in parts]
        if unknown:
            sys.exit(f"--parts: unknown {', '.join(unknown)}; choose from {', '.join(parts)}")
        for name, work in parts.items():
            if name in wanted:
                tables[name] = part(work) if clock.left() > 0 else {"failed": "left out: the deadline has passed"}
                torch.cuda.empty_cache()
    show(tables, on_cpu=arguments.cpu)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(tables, indent=1))
    if arguments.picture:
        from benchmarks.picture import draw

        part(lambda: draw(tables, Path(arguments.picture)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a bundled model on this processor")
    parser.add_argument("--model", default="reference-5m", help="with --cpu: which bundled model")
    parser.add_argument("--methods", help="only these methods, by name, such as gptq,spqr")
    parser.add_argument("--parts", default="methods,loops,factor,selection,statistics,tune,profile,trial")
    parser.add_argument("--blocks", type=int, default=3, help="blocks of the random model, at least 3")
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-twin", action="store_true", help="leave the plain torch column loops out")
    parser.add_argument("--deadline", type=float, default=540.0, help="seconds in which everything should end")
    parser.add_argument("--trial-blocks", type=int, default=BLOCKS_7B, help="blocks of the model of the part `trial`")
    parser.add_argument("--share", type=float, default=1.0, help="share of the eleven-task suite in the part `trial`")
    parser.add_argument("--picture", help="draw where the time of the parts `profile` and `trial` goes: a PNG file")
    parser.add_argument("--json", help="also write all numbers to this file")
    arguments = parser.parse_args()
    if arguments.blocks < 3:
        parser.error(f"--blocks: expected at least 3 (the one in the middle is timed), got {arguments.blocks}")
    return arguments


class Clock:
    """Seconds left until the deadline."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


def part(work: Callable[[], Any]) -> Any:
    """What `work` returns; its failure is printed and returned, so that the other parts go on."""
    try:
        return work()
    except Exception as error:
        places = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-4:]]
        first = (str(error).splitlines() or [""])[0][:200]
        message = f"{type(error).__name__}: {first} ({' > '.join(places)})"
        print(f"  failed: {message}", flush=True)
        return {"failed": message}


# --- methods -------------------------------------------------------------------------------------------------------


def random_7b(arguments: argparse.Namespace, clock: Clock, ceiling: float | None) -> list[dict[str, Any]]:
    """Every method on a LLaMA of a few blocks with random weights; the plain torch loops after the kernels."""
    model = make_model(arguments.blocks)
    restore = keep_weights(model)
    cases = [(case, False) for case in chosen(arguments)]
    if not arguments.no_twin:
        cases += [(case, True) for case in chosen(arguments) if case.columns]
    rows = []
    for case, twin in cases:
        row = part(lambda c=case, w=twin: time_method(c, model, restore, w, arguments, clock, ceiling))
        rows.append({"label": case.label, **row})
        print_row(rows[-1])
        part(restore)
    return rows


def time_method(
    case: Case,
    model: Any,
    restore: Callable[[], None],
    twin: bool,
    arguments: argparse.Namespace,
    clock: Clock,
    ceiling: float | None,
) -> dict[str, Any]:
    """Median over runs of the time of a block in the middle; the twin runs once, as its run shares all warm code."""
    tokens = random_tokens(arguments.nsamples, case.seqlen)
    method = case.make()
    blocks, totals, extra, error, longest = [], [], 0.0, 0.0, 0.0
    with column_backend("torch" if twin else "auto"):
        backend = TWIN if twin else backend_of(next(model.parameters())) if case.columns else "torch"
        for repeat in range(1 if twin else arguments.repeats + 1):
            if clock.left() <= longest:
                break
            restore()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            marks, report = timed_walk(model, method, tokens)
            error, longest = report.layer_error, marks[-1] - marks[0]
            if repeat == 1:  # the first run compiles and fills caches; it counts when there is no other
                blocks.clear()
                totals.clear()
            blocks.append(middle_block(method, marks))
            totals.append(longest)
            extra = max(extra, (torch.cuda.max_memory_allocated() - before) / 2**30)
    restore()
    if not blocks:
        return {"failed": "left out: the deadline has passed"}
    block, total = stats.median(blocks), stats.median(totals)
    floor = block_operations(case, arguments.nsamples * case.seqlen)
    share = floor / block / (ceiling * 1e12) if floor and ceiling else None
    model_seconds = total + (BLOCKS_7B - arguments.blocks) * block
    spread = max(blocks) - min(blocks)
    return asdict(Timing(case.label, backend, block, marks[1] - marks[0], len(blocks), spread, extra, share,
                         model_seconds, error))  # fmt: skip


def middle_block(method: Method, marks: list[float]) -> float:
    """Seconds of the block number 1 in all steps of a method; `marks` as `timed_walk` gives them."""
    steps = len(method.steps) if isinstance(method, Composition) else 1
    calls = (len(marks) - 1) // steps  # a step reports every block, and its end
    return sum(marks[step * calls + 2] - marks[step * calls + 1] for step in range(steps))


def timed_walk(model: Any, method: Method, tokens: torch.Tensor | None) -> tuple[list[float], Any]:
    """([start, end of block 0, end of block 1, …], report)."""
    marks = [time.perf_counter()]

    def progress(done: int, blocks: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    report = compress_model(model, method, None if method.data_free else tokens, progress=progress)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    marks[-1] = time.perf_counter()  # the last call of progress repeats the last block's
    return marks, report


def block_operations(case: Case, tokens: int) -> float | None:
    """bfloat16 operations that a block must do: two passes (one without its last linear) and the upper half of H."""
    attention = 4 * WIDTH * WIDTH
    mlp = 3 * WIDTH * INNER
    scores = 2 * case.seqlen * WIDTH  # causal: half of 4 L d a token
    second = 2 * tokens * (attention + mlp) + tokens * scores
    first = 2 * tokens * (attention + mlp - WIDTH * INNER) + tokens * scores
    if case.method == "wanda":
        return float(first + second)
    if case.columns:
        return float(first + second + tokens * (3 * WIDTH**2 + INNER**2))
    return None


def chosen(arguments: argparse.Namespace) -> list[Case]:
    """The cases of `--methods`, all without it."""
    if arguments.methods is None:
        return CASES
    names = arguments.methods.split(",")
    unknown = set(names) - {case.method for case in CASES}
    if unknown:
        sys.exit(f"--methods: unknown {', '.join(sorted(unknown))}; choose from {sorted({c.method for c in CASES})}")
    return [case for case in CASES if case.method in names]


def bundled_model(arguments: argparse.Namespace, clock: Clock) -> list[dict[str, Any]]:
    """Every method on a bundled model, whole, on this processor: 16 windows of 256 tokens."""
    from calib.build import build
    from calib.source import get_source
    from calib.spec import CalibrationSpec
    from sweep.models import resolve_model
    from sweep.weights.dense import DenseModel

    reference = resolve_model(arguments.model, "--model")
    dense = DenseModel(reference, "cpu")
    spec = CalibrationSpec(source=get_source("books", "source"), set=0, nsamples=16, seqlen=256)
    tokens = torch.tensor(build(spec, dense.tokenizer, reference.tokenizer_id).tokens)
    rows = []
    for case in chosen(arguments):
        method = case.make(**({"group_size": 32} if "group_size" in case.settings else {}))
        seconds, middle, marks, extra = [], [], [0.0], 0.0
        for _ in range(arguments.repeats):
            if clock.left() <= (max(seconds) if seconds else 0.0):
                break
            dense.restore()
            before = forget_peak()
            marks, report = timed_walk(dense.model, method, tokens)
            seconds.append(marks[-1] - marks[0])
            middle.append(middle_block(method, marks))
            extra = max(extra, (host_memory("VmHWM") - before) / 2**30)
        if not seconds:
            rows.append({"label": method.label, "failed": "left out: the deadline has passed"})
            print_row(rows[-1])
            continue
        block, spread = stats.median(middle), max(middle) - min(middle)
        rows.append(asdict(Timing(method.label, "torch", block, marks[1] - marks[0], len(seconds), spread, extra, None,
                                  stats.median(seconds), report.layer_error)))  # fmt: skip
        print_row(rows[-1])
    return rows


def forget_peak() -> int:
    """Give unused memory back, start the process's peak anew (Linux), and return what it holds, in bytes."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return host_memory("VmRSS")


def host_memory(name: str) -> int:
    """Bytes of `VmRSS` (held now) or `VmHWM` (held at most) of this process; 0 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


# --- parts of a method ---------------------------------------------------------------------------------------------


def median_ms(work: Callable[[], Any], repeats: int = 3, *, warm: bool = True) -> float:
    """Median milliseconds by device events, after one warm-up."""
    if warm:
        work()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return stats.median(times)


def queued_us(work: Callable[[], Any], times: int = 20) -> float:
    """Microseconds of one `work` on the device when many wait in its queue, so that the host's time does not count."""
    work()
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(50_000_000)  # cycles, some 30 ms, in which the host gets ahead
    begin.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return 1000 * begin.elapsed_time(end) / times


def bf16_ceiling() -> dict[str, float]:
    """TFLOP/s of matrix products of 8192 in bfloat16 and float32 (no TF32), and GB/s of a large copy."""
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    low = median_ms(lambda: left @ right, 10)
    wide = [part.float() for part in (left, right)]
    high = median_ms(lambda: wide[0] @ wide[1], 3)
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    copy = median_ms(lambda: target.copy_(source), 5)
    operations = 2 * 8192**3
    return {
        "bf16_tflops": operations / low / 1e9,
        "fp32_tflops": operations / high / 1e9,
        "copy_gb_s": 2 * source.numel() * 4 / copy / 1e6,
    }


def make_layer(rows: int, cols: int) -> tuple[torch.Tensor, Hessian]:
    """A random weight and the Hessian of correlated inputs with a few large features."""
    generator = torch.Generator("cuda").manual_seed(cols)
    weight = torch.randn(rows, cols, generator=generator, device="cuda", dtype=torch.bfloat16) * 0.02
    return weight, make_hessian(cols, generator)


def make_hessian(cols: int, generator: torch.Generator) -> Hessian:
    statistic = Hessian(cols, "cuda")
    for inputs in make_inputs(cols, generator, 16384).split(8192):
        statistic.update(inputs, windows=4)
    return statistic


def make_inputs(cols: int, generator: torch.Generator, tokens: int) -> torch.Tensor:
    """[tokens, cols] bfloat16: a shared component, so that features correlate, and spread feature scales."""
    shared = torch.randn(tokens, 64, generator=generator, device="cuda", dtype=torch.bfloat16)
    mixing = torch.randn(64, cols, generator=generator, device="cuda", dtype=torch.bfloat16) * 0.1
    own = torch.randn(tokens, cols, generator=generator, device="cuda", dtype=torch.bfloat16)
    scales = torch.exp(torch.randn(cols, generator=generator, device="cuda")).to(torch.bfloat16)
    return (own + shared @ mixing) * scales


def column_loops(arguments: argparse.Namespace, clock: Clock) -> list[dict[str, Any]]:
    """Milliseconds of one linear from weight to compressed weight (factor made before), kernels and twin."""
    rows = []
    for shape in ((11008, 4096), (4096, 11008)):
        weight, statistic = make_layer(*shape)
        for case in (case for case in CASES if case.columns):
            method = case.make()
            solve = lambda m=method, w=weight, s=statistic: m.compress_weight(w, s)  # noqa: E731
            with column_backend("auto"), torch.no_grad():
                kernel, found = median_ms(solve), solve()
            row: dict[str, Any] = {"linear": f"{shape[0]} x {shape[1]}", "method": case.label, "kernel_ms": kernel}
            if not arguments.no_twin and clock.left() > 0:
                results: list[Any] = []
                with column_backend("torch"), torch.no_grad():
                    row["twin_ms"] = median_ms(lambda r=results, s=solve: r.append(s()), repeats=1, warm=False)
                row |= compare(found, results[0])
            rows.append(row)
            print("  ", {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        del weight, statistic
    return rows


def compare(found: Any, expected: Any) -> dict[str, float]:
    """How far the kernel's weight is from the twin's: shares of entries and rows, and the loss."""
    limit = 1e-5 * expected.weight.abs().amax(1, keepdim=True)
    differ = (found.weight - expected.weight).abs() > limit
    return {
        "entries_equal": 1 - differ.double().mean().item(),
        "rows_equal": 1 - differ.any(1).double().mean().item(),
        "loss_ratio": float(found.loss) / float(expected.loss),
    }


def launches(clock: Clock) -> list[dict[str, Any]]:
    """Microseconds of one launch over 128 columns and some rows, for several tiles of rows and numbers of warps."""
    from methods.kernels import columns
    from methods.kernels.spqr import spqr_block
    from methods.numerics.blocks import GridTable, PruneRule, blocks_of
    from methods.numerics.spqr import SpQRRule

    results, rule = [], SpQRRule(bits=4, group_size=16)
    for rows in (WIDTH, 3 * WIDTH, 2 * INNER):  # of a 7B block: o and down, q with k and v, gate with up
        weights, values = torch.randn(128, rows, device="cuda"), torch.empty(128, rows, device="cuda")
        ones, loss = torch.ones(1, rows, device="cuda"), torch.zeros(rows, device="cuda")
        grids = GridTable(ones, -8 * ones, 7 * ones, torch.zeros(128, dtype=torch.long, device="cuda"))
        upper = torch.triu(torch.randn(128, 128, device="cuda") * 0.01, 1) + torch.eye(128, device="cuda")
        block = next(blocks_of(weights, upper, values, loss, [(0, 128)]))
        mask, outliers = weights.abs() < 0.7, torch.zeros(128, rows, dtype=torch.bool, device="cuda")
        tau, fitted = torch.full((rows,), 0.5, device="cuda"), torch.empty(2, 128 // 16, rows, device="cuda")
        works: dict[str, tuple[str, Callable[[], Any]]] = {
            "quantize": ("quantize", lambda b=block, g=grids: columns.quantize_block(b, g, None)),
            "prune": ("prune", lambda b=block, m=mask: columns.prune_block(b, PruneRule(m))),
            "prune 2:4": ("prune", lambda b=block: columns.prune_block(b, PruneRule(kept_of=(2, 4)))),
            "spqr": ("spqr", lambda b=block, t=tau, o=outliers, f=fitted: spqr_block(rule, b, t, None, o, f)),
        }
        for name, (kind, work) in works.items():
            for tile in ((8, 1), (16, 1), (32, 1), (16, 2)) if kind != "spqr" else ((16, 1), (16, 2), (32, 2)):
                if clock.left() <= 0:
                    return results
                with launch_of(kind, *tile):
                    us = queued_us(work)
                results.append({"kernel": name, "of": rows, "rows": tile[0], "warps": tile[1], "us": us})
    return results


@contextmanager
def launch_of(kind: str, rows: int, warps: int) -> Iterator[None]:
    from methods.kernels.strips import LAUNCH, Launch

    before = LAUNCH[kind]
    LAUNCH[kind] = Launch(rows, warps)
    try:
        yield
    finally:
        LAUNCH[kind] = before


def factorization() -> list[dict[str, Any]]:
    """Milliseconds of Cholesky and triangular inverse, as used and in other ways, and the error against float64."""
    from methods.numerics.factor import FactorSettings, inverse_factor, invert_by_halves

    rows: list[dict[str, Any]] = []
    for cols in (WIDTH, INNER):
        hessian = make_hessian(cols, torch.Generator("cuda").manual_seed(cols)).hessian
        double = inverse_factor_float64(hessian, 0.01)
        single = inverse_factor(hessian, FactorSettings(0.01)).upper
        error = ((single.double() - double).norm() / double.norm()).item()
        work = lambda h=hessian: inverse_factor(h, FactorSettings(0.01))  # noqa: E731
        rows.append({"cols": cols, "how": "as used", "ms": median_ms(work), "relative_error": error})
        damped = hessian.flip(0, 1)
        damped.diagonal().add_(0.01 * damped.diagonal().mean())
        identity = torch.eye(cols, device="cuda")
        lower = torch.linalg.cholesky_ex(damped)[0]
        rows.append(
            {"cols": cols, "how": "Cholesky alone", "ms": median_ms(lambda d=damped: torch.linalg.cholesky_ex(d))}
        )
        solve = lambda m=lower, i=identity: torch.linalg.solve_triangular(m, i, upper=False)  # noqa: E731
        rows.append({"cols": cols, "how": "triangular solve alone", "ms": median_ms(solve)})
        halves = lambda m=lower: invert_by_halves(m.clone())  # noqa: E731
        rows.append({"cols": cols, "how": "triangular inverse by halves", "ms": median_ms(halves)})
    for cols, count in ((128, 8), (512, 3), (512, 64), (1024, 3), (2048, 3), (2048, 16), (WIDTH, 3)):
        rows += batched_factors(cols, count)
    return rows


def batched_factors(cols: int, count: int) -> list[dict[str, Any]]:
    """`count` matrices of a block's equal widths one after the other as used, and in one call of each kind."""
    from methods.numerics.factor import FactorSettings, inverse_factor, inverse_factors

    hessian = make_hessian(cols, torch.Generator("cuda").manual_seed(cols)).hessian
    batch, settings = [hessian] * count, FactorSettings(0.01)
    apart = lambda: [inverse_factor(matrix, settings) for matrix in batch]  # noqa: E731
    together = lambda: inverse_factors(batch, settings)  # noqa: E731
    return [
        {"cols": cols, "how": f"{count}, one after the other", **part(lambda: {"ms": median_ms(apart)})},
        {"cols": cols, "how": f"{count} in one call", **part(lambda: {"ms": median_ms(together)})},
    ]


def inverse_factor_float64(hessian: torch.Tensor, percdamp: float) -> torch.Tensor:
    """U [cols, cols] in float64, by one Cholesky and one triangular inverse."""
    matrix = hessian.double()
    matrix.diagonal().add_(percdamp * matrix.diagonal().mean())
    lower = torch.linalg.cholesky(matrix.flip(0, 1))
    identity = torch.eye(matrix.shape[0], dtype=torch.float64, device=matrix.device)
    return torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)


def selection() -> list[dict[str, Any]]:
    """Milliseconds to find the median of scores: of one column block, of a whole matrix, and of every row."""
    from methods.numerics.selection import kth_smallest, smallest

    rows = []
    for name, shape in (("128 x 11008 as one", (128 * INNER,)), ("11008 x 4096 as one", (INNER * WIDTH,)),
                        ("11008 x 4096 by row", (INNER, WIDTH)), ("4096 x 11008 by row", (WIDTH, INNER))):  # fmt: skip
        scores = torch.rand(shape, device="cuda")
        half = scores.shape[-1] // 2
        works: dict[str, Callable[[], Any]] = {
            "kthvalue": lambda s=scores, k=half: torch.kthvalue(s, k, dim=-1),
            "sort": lambda s=scores: torch.sort(s, dim=-1),
            "threshold": lambda s=scores, k=half: kth_smallest(s, k),
            "mask": lambda s=scores, k=half: smallest(s, k),
        }
        for how, work in works.items():
            rows.append({"scores": name, "how": how, **part(lambda w=work: {"ms": median_ms(w)})})
        for how in ("threshold", "mask"):
            with column_backend("torch"):
                found = part(lambda w=works[how]: {"ms": median_ms(w)})
            rows.append({"scores": name, "how": f"{how}, plain torch", **found})
    return rows


def hessian_accuracy() -> list[dict[str, Any]]:
    """Error of X Xᵀ over 262,144 tokens against float64, and time, by tokens summed in one product."""
    rows = []
    for cols in (WIDTH, INNER):
        generator = torch.Generator("cuda").manual_seed(1)
        batches = [make_inputs(cols, generator, 32768) for _ in range(8 if cols == WIDTH else 2)]
        exact = torch.zeros(128, cols, dtype=torch.float64, device="cuda")
        for batch in batches:
            exact += batch[:, :128].double().T @ batch.double()
        rows.append(hessian_row(cols, batches, exact, "as used"))
        for tokens in (512, 1024, 2048, 4096):
            rows.append(part(lambda t=tokens, c=cols, b=batches, e=exact: gram_row(c, b, e, t)))
        before = gram.TOKENS_PER_PRODUCT
        for tokens in (2048, 8192, 32768):
            gram.TOKENS_PER_PRODUCT = tokens
            try:
                with column_backend("torch"):
                    rows.append(hessian_row(cols, batches, exact, f"torch, added in place, {tokens} tokens"))
            finally:
                gram.TOKENS_PER_PRODUCT = before
    return rows


def hessian_row(cols: int, batches: list[torch.Tensor], exact: torch.Tensor, label: str) -> dict[str, Any]:
    def collect() -> torch.Tensor:
        statistic = Hessian(cols, "cuda")
        for batch in batches:
            statistic.update(batch, windows=16)
        return statistic.hessian[:128] * (statistic.windows / 2)

    return describe_sum(cols, batches, exact, label, collect)


def gram_row(cols: int, batches: list[torch.Tensor], exact: torch.Tensor, tokens: int) -> dict[str, Any]:
    """The kernel with sums of `tokens` on the matrix units."""
    from methods.kernels.gram import add_gram

    def collect() -> torch.Tensor:
        total = torch.zeros(cols, cols, device="cuda")
        for batch in batches:
            add_gram(total, batch, tokens)
        return total[:128]

    return describe_sum(cols, batches, exact, f"kernel, {tokens} tokens", collect)


def describe_sum(
    cols: int, batches: list[torch.Tensor], exact: torch.Tensor, label: str, collect: Callable[[], torch.Tensor]
) -> dict[str, Any]:
    found = collect().double()
    diagonal = torch.arange(128, device="cuda")
    relative = (found[diagonal, diagonal] / exact[diagonal, diagonal] - 1).abs().max().item()
    milliseconds = median_ms(collect, 2, warm=False) / len(batches)
    return {
        "cols": cols,
        "sum": label,
        "relative_error": ((found - exact).norm() / exact.norm()).item(),
        "worst_diagonal": relative,
        "ms_per_32768_tokens": milliseconds,
    }


def profile(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where the time of GPTQ goes on two blocks, of which the first also goes on to the next."""
    from benchmarks.timeline import compression_parts

    model = make_model(2)
    return compression_parts(model, random_tokens(arguments.nsamples, 2048), keep_weights(model), blocks=2)


def trial(arguments: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """One whole trial of the 7B shape: GPTQ, the eleven-task suite, and the weights given back."""
    from benchmarks.timeline import whole_trial

    return whole_trial(arguments.trial_blocks, arguments.nsamples, arguments.share, clock.left)


# --- output --------------------------------------------------------------------------------------------------------


def describe_device() -> dict[str, str]:
    versions = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    return {**versions, "columns": backend_of(torch.zeros(1, device="cuda"))}


def print_row(row: dict[str, Any]) -> None:
    """Progress while the benchmark runs."""
    if "failed" in row:
        print(f"  {row['label']}: {row['failed']}", flush=True)
    else:
        print(f"  {row['label']} ({row['backend']}): {row['block']:.3f} s a block, {row['runs']} runs", flush=True)


def show(tables: dict[str, Any], *, on_cpu: bool) -> None:
    """Print everything; the table of methods last."""
    methods = tables.get("methods", [])
    for name, table in tables.items():
        if name != "methods":
            print(f"\n{name}")
            print_table(table)
    whole = "model s" if on_cpu else f"{BLOCKS_7B} blocks s*"
    print(f"\n{'method':<18} {'column loops':<14} {'block s':>8} {'spread':>7} {'runs':>4} {'+GiB':>6} {'of bf16':>8}"
          f" {whole:>12} {'error':>9}")  # fmt: skip
    if isinstance(methods, dict):
        print(methods.get("failed"))
        return
    for row in methods:
        if "failed" in row:
            print(f"{row['label']:<18} {row['failed']}")
            continue
        share = "-" if row["share"] is None else f"{row['share']:.1%}"
        print(f"{row['label']:<18} {row['backend']:<14} {row['block']:>8.3f} {row['spread']:>7.3f} {row['runs']:>4}"
              f" {row['extra_gib']:>6.2f} {share:>8} {row['model']:>12.2f} {row['error']:>9.5f}")  # fmt: skip
    if not on_cpu:
        print("* extrapolated: the run of a few blocks, and the middle block's time for all others")


def print_table(table: Any) -> None:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) and not 0.99 < value < 1.01 else str(value)

    for row in table if isinstance(table, list) else [table]:
        for key, value in row.items():
            if isinstance(value, (list, dict)):
                print()
                print_table(value)
            else:
                print(f"  {key} {text(value)}", end=";")
        print()


if __name__ == "__main__":
    main()

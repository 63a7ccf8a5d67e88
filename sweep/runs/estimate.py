"""How long trials will take: from trials that are committed already, otherwise from a few measured ones.

The seconds of a trial grow with the model's parameters and with the tokens of calibration and evaluation; what a method
costs for each was measured once, on a GPU and on a core (docs/performance.md). That is good for an order (which trial
is longer) and for a plan (minutes or days), and no promise: other machines are slower or faster by a factor of two. The
hard case is a hub model that is not on this machine, whose size is known from its name at best.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from methods.base import Composition, Method, method_name
from sweep.evaluation.settings import EvaluationSettings
from sweep.plan import Trial
from sweep.runs.live import gpu_time
from sweep.runs.progress import duration


@dataclass(frozen=True)
class Cost:
    """Of a method: GPU seconds of a 7B model for 262,144 calibration tokens and apart from these (one H100 or H200),
    and seconds of one core for reference-5m and 4,096 tokens."""

    gpu: float
    gpu_fixed: float
    core: float


COLUMNS = Cost(13.3, 4.7, 1.9)
COSTS = {  # docs/performance.md
    "rtn": Cost(0.0, 0.4, 0.08),
    "nf4": Cost(0.0, 0.4, 0.08),  # no text, and a few passes over the weights: as for rtn
    "hqq": Cost(0.0, 0.4, 0.08),
    "rotation": Cost(0.0, 1.0, 0.2),  # of a GPU not measured: some 400 bytes are moved for a weight
    "magnitude": Cost(0.0, 0.5, 0.21),
    "wanda": Cost(10.0, 0.8, 1.2),
    "gptq": COLUMNS,
    "sparsegpt": COLUMNS,
    "spqr": Cost(13.3, 4.7, 3.0),
    "awq": Cost(213.0, 0.0, 15.5),
    "smoothquant": Cost(10.0, 0.1, 1.0),
    "svd": Cost(0.0, 27.0, 0.45),
    "asvd": Cost(8.0, 25.0, 1.0),
    "fwsvd": Cost(12.0, 25.0, 3.7),
    "svd_llm": Cost(12.0, 27.0, 1.5),
}
GPU_PARAMETERS, GPU_TOKENS = 6.7e9, 262_144  # what `Cost.gpu` was measured with
CORE_PARAMETERS, CORE_TOKENS = 5e6, 4096  # likewise `Cost.core`
GPU_REQUEST = 68 / 78_759  # seconds of a request to the 7B model, in a suite of eleven tasks
CORE_TOKEN = 5e-5  # seconds of an evaluated token with reference-5m
GPU_FLOOR = 2.0  # seconds of a trial that no size explains: launches of kernels, metrics, writing
CORE_FLOOR = 1.2  # so that the default study's 152 trials take their 430 core seconds (docs/log.md)
EXAMPLES, REQUESTS, REQUEST_TOKENS = 2000, 3.6, 40  # of a task without a limit; of an example; of a request
ON_A_CORE = 2e9  # parameters of a model that nobody runs on a processor
IN_NAME = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", re.IGNORECASE)  # OPT-6.7B, SmolLM2-135M


@dataclass(frozen=True)
class Machines:
    """What trials will run on: so many workers, of the kind `cuda` or `cpu`."""

    workers: int
    device: str


def estimate(trials: Sequence[Trial], before: pl.DataFrame, machines: Machines) -> str:
    """One line: the time for these trials on these machines, and what it is taken from."""
    count = min(machines.workers, len(trials))
    measured = _measured(before)
    if measured:
        mean = sum(measured.values()) / len(measured)
        seconds = sum(measured.get((trial.model.name, trial.label), mean) for trial in trials)
        return f"estimate: {duration(seconds / count)} with {_workers(count)}, from the trials that are there already"
    if unknown := sorted({trial.model.name for trial in trials if known_parameters(trial) is None}):
        return f"estimate: unknown, because nothing says how large {unknown[0]} is before it is downloaded"
    guess = expected_seconds(before)
    on_gpu = machines.device == "cuda" or max(known_parameters(trial) or 0.0 for trial in trials) >= ON_A_CORE
    seconds = sum(guess(trial, on_gpu=on_gpu) for trial in trials)
    note = "starting up and loading models not included"
    if not on_gpu:
        return f"estimate: about {duration(seconds / count)} on {_cores(count)} here ({note})"
    hours = f"{gpu_time(seconds)} of an H100"
    if machines.device != "cuda":
        return f"estimate: about {hours} ({note}; there is no GPU here)"
    return f"estimate: about {duration(seconds / count)} with {_workers(count)} on GPUs, {hours} ({note})"


def expected_seconds(before: pl.DataFrame) -> Callable[..., float]:
    """A function that gives the seconds of a trial on one worker; `before` are rows of `trials/`.

    It is called with a trial, and optionally `on_gpu`. A model of unknown size counts as one of 7B.
    """
    measured, known = _measured(before), dict[tuple[object, ...], float]()

    def seconds(trial: Trial, on_gpu: bool | None = None) -> float:
        if (found := measured.get((trial.model.name, trial.label))) is not None:
            return found
        spec = trial.spec
        key = (trial.model.name, trial.label, id(trial.evaluation), on_gpu, spec and (spec.nsamples, spec.seqlen))
        if key not in known:
            known[key] = expected(trial, on_gpu=on_gpu).total
        return known[key]

    return seconds


@dataclass(frozen=True)
class Seconds:
    """Of a trial on one GPU, or on one core: what no size explains, the compression, and the evaluation."""

    floor: float
    compress: float
    evaluate: float

    @property
    def total(self) -> float:
        return self.floor + self.compress + self.evaluate


def expected(trial: Trial, *, on_gpu: bool | None = None, unknown: float = GPU_PARAMETERS) -> Seconds:
    """The seconds of a trial, from what was measured once (`COSTS`).

    on_gpu: left out, as large models are run. unknown: parameters of a model whose size nothing tells.
    """
    parameters = known_parameters(trial) or unknown
    on_gpu = parameters >= ON_A_CORE if on_gpu is None else on_gpu
    tokens = (trial.spec.nsamples or 0) * trial.spec.seqlen if trial.spec else 0
    costs = [COSTS.get(method_name(step), COLUMNS) for step in _steps(trial.method)]
    examples = len(trial.evaluation.task_names) * (trial.evaluation.limit or EXAMPLES)
    requests, windows = examples * REQUESTS, _window_tokens(trial.evaluation)
    part = _part_of_blocks(trial)
    if on_gpu:
        compress = sum(cost.gpu * tokens / GPU_TOKENS + cost.gpu_fixed for cost in costs)
        asked = requests + windows / REQUEST_TOKENS
        size = part * parameters / GPU_PARAMETERS
        return Seconds(GPU_FLOOR, size * compress, size * asked * GPU_REQUEST)
    compress = sum(cost.core * max(tokens / CORE_TOKENS, 0.1) for cost in costs)
    evaluate = (requests * REQUEST_TOKENS + windows) * CORE_TOKEN
    size = part * parameters / CORE_PARAMETERS
    return Seconds(CORE_FLOOR, size * compress, size * evaluate)


def _part_of_blocks(trial: Trial) -> float:
    """Share of its model's blocks that a trial goes through; all of them where their number is not known."""
    first, blocks = trial.evaluation.first_blocks, trial.model.blocks
    return 1.0 if first is None or blocks is None else first / blocks


def _steps(method: Method | None) -> Sequence[Method]:
    if method is None:
        return ()
    return method.steps if isinstance(method, Composition) else (method,)


def _window_tokens(evaluation: EvaluationSettings) -> int:
    return len(evaluation.heldout) * (evaluation.heldout_windows or 64) * evaluation.heldout_seqlen


def known_parameters(trial: Trial) -> float | None:
    """Of the trial's model, or what its name says: `OPT-6.7B`."""
    if trial.model.parameters is not None:
        return float(trial.model.parameters)
    said = IN_NAME.findall(trial.model.name) or IN_NAME.findall(trial.model.path)
    return float(said[-1][0]) * (1e9 if said[-1][1].lower() == "b" else 1e6) if said else None


def _measured(before: pl.DataFrame) -> dict[tuple[str, str], float]:
    """Mean seconds of a committed trial by (model, label)."""
    timed = before.filter((pl.col("status") == "ok") & pl.col("seconds_total").is_not_null())
    means = timed.group_by("model", "method_label").agg(pl.col("seconds_total").mean())
    return {(model, label): seconds for model, label, seconds in means.iter_rows()}


def _workers(count: int) -> str:
    return f"{count} workers" if count > 1 else "one worker"


def _cores(count: int) -> str:
    return f"{count} cores" if count > 1 else "one core"

"""What rules of selection are worth against random choice at equal cost: the perplexity after compression.

    python -m benchmarks.selection                                    # reference-2m, 8 windows a set out of 80
    python -m benchmarks.selection --rules random,kmeans --sets 12 --source books
    python -m benchmarks.selection --experts 300      # its MLPs made eight experts, trained for so many steps

`--experts` makes a mixture of experts of the model first (`benchmarks/upcycle.py`), and compares `expert_balance` as
well; the spread of the loads over the experts, in sets that are chosen by each rule, is a column.

Each rule chooses the same number of windows out of the same pools as `random`, so set k of every rule is paired with
set k of random choice. Columns: seconds to choose a set (what a model measures included), the geometric mean of the
held-out perplexity over eight texts and its standard deviation over sets, the mean paired difference from random in
percent with its standard error, and the same on the one text that the rules with a target are given. `random x4` has
four times as many windows: what the same time may buy instead.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.agreement import perplexity
from benchmarks.upcycle import upcycled
from calib.build import build, build_sets
from calib.select import get_selector
from calib.source import get_source
from calib.spec import CalibrationSpec
from methods.base import Method, parse_method
from methods.blockwise import compress_model
from sweep.features.measure import ModelMeasure
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel

SEQLEN = 128
TEXTS = ("books", "code", "dialogue_qa", "encyclopedia", "legal", "news_blogs", "tech_proposals", "web_docs")
RULES = (
    "random",
    "random x4",
    "lexical",
    "herding",
    "kmeans",
    "activation_herding",
    "centroid",
    "outlier_coverage",
    "least_perplexity",
    "middle_perplexity",
)
WITH_TARGET = ("herding", "activation_herding", "centroid")
METHODS: list[Any] = [{"method": "gptq", "bits": 3, "group_size": 32}, {"method": "sparsegpt", "sparsity": 0.5}]


@dataclass(frozen=True)
class Outcome:
    """Of one set: the logarithm of the perplexity of each text, and what it took to choose the set."""

    losses: dict[str, float]
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.losses.values())


def rule_entry(rule: str, pool: int, target: str, threshold: float) -> dict[str, Any]:
    """The entry `select` of a rule."""
    more: dict[str, Any] = {"target": target} if rule in WITH_TARGET else {}
    if rule == "outlier_coverage":
        more = {"threshold": threshold}
    return {"by": rule.removesuffix(" x4"), "pool": pool, **more}


def chosen_sets(model: DenseModel, rule: str, arguments: argparse.Namespace) -> tuple[list[np.ndarray], float]:
    """(the sets that the rule chooses, seconds to choose one: without a selection building takes the rest)."""
    large = rule.endswith("x4")
    count = arguments.nsamples * (4 if large else 1)
    pool = arguments.pool // (4 if large else 1)  # of the same size, and drawn in the same way
    spec = CalibrationSpec(source=get_source(arguments.source), set=0, nsamples=count, seqlen=SEQLEN)
    plain = [replace(spec, set=number) for number in range(arguments.sets)]
    select = get_selector(rule_entry(rule, pool, arguments.target, arguments.threshold))
    began = time.perf_counter()
    build_sets(plain, model.tokenizer)
    drawn = time.perf_counter()
    built = build_sets(
        [replace(each, select=select) for each in plain], model.tokenizer, measure=ModelMeasure(model.model)
    )
    seconds = time.perf_counter() - drawn - (drawn - began)
    return [each.tokens for each in built], max(0.0, seconds) / len(built)


def outcome(model: DenseModel, method: Method, tokens: np.ndarray, heldout: dict[str, Any], seconds: float) -> Outcome:
    """Compress the dense model with the set, and score every text."""
    model.restore()
    compress_model(model.model, method, tokens)
    losses = {name: math.log(perplexity(model.model, windows)) for name, windows in heldout.items()}
    return Outcome(losses, seconds)


def imbalance(model: DenseModel, sets: Sequence[np.ndarray]) -> float:
    """The SD of the experts' loads over their mean, in percent, the mean over blocks and sets."""
    model.restore()
    loads = [ModelMeasure(model.model)("expert_loads", tokens).sum(axis=0) for tokens in sets]  # (blocks, experts)
    return 100 * float(np.mean([each.std(axis=1) / each.mean(axis=1) for each in loads]))


def paired(ours: list[float], theirs: list[float]) -> str:
    """The mean difference of the logarithms in percent, with its standard error."""
    apart = [100 * (one - other) for one, other in zip(ours, theirs, strict=True)]
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    return f"{statistics.fmean(apart):+7.2f} ± {error:.2f}"


def heldout_windows(model: DenseModel, count: int) -> dict[str, torch.Tensor]:
    """`count` windows of each text, int64."""
    specs = {
        text: CalibrationSpec(source=source, set=0, nsamples=count, seqlen=SEQLEN)
        for text, source in ((text, get_source({"source": "heldout", "domain": text})) for text in TEXTS)
    }
    return {text: torch.tensor(build(spec, model.tokenizer).tokens).long() for text, spec in specs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference-2m")
    parser.add_argument("--source", default="web_docs")
    parser.add_argument("--target", default="books", help="text that rules with a target are given")
    parser.add_argument("--rules", help="only these, such as random,kmeans")
    parser.add_argument("--sets", type=int, default=6)
    parser.add_argument("--nsamples", type=int, default=8)
    parser.add_argument("--pool", type=int, default=12, help="times the windows of a set; a multiple of 4")
    parser.add_argument("--threshold", type=float, default=3.0, help="of outlier_coverage; small models have few")
    parser.add_argument("--windows", type=int, default=24, help="held-out windows of each text")
    parser.add_argument("--experts", type=int, help="make a mixture of experts of the model, trained for so many steps")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(arguments, Path(folder))


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the tables; `folder` takes the mixture of experts, where there is one."""
    place = arguments.model
    if arguments.experts:
        place = str(upcycled(arguments.model, folder / f"{arguments.model}-experts", TEXTS, arguments.experts))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = DenseModel(resolve_model(place, "--model"), device, "float32")
    heldout = heldout_windows(model, arguments.windows)
    every = (*RULES, "expert_balance") if arguments.experts else RULES
    rules = arguments.rules.split(",") if arguments.rules else every
    sets = {rule: chosen_sets(model, rule, arguments) for rule in dict.fromkeys(["random", *rules])}  # while dense
    dense = statistics.fmean(math.log(perplexity(model.model, windows)) for windows in heldout.values())
    uneven = {rule: imbalance(model, built) for rule, (built, _) in sets.items()} if arguments.experts else {}
    for entry in METHODS:
        method = parse_method(entry, "method")
        print(
            f"\n{method.label}, {Path(place).name} on {device} (dense {math.exp(dense):.2f}), {arguments.sets} sets of "
            f"{arguments.nsamples} x {SEQLEN} tokens of {arguments.source}"
        )
        experts = f" {'uneven %':>9s}" if uneven else ""
        print(
            f"{'rule':20s} {'seconds':>8s} {'ppl':>8s} {'SD %':>6s} {'vs random %':>16s} {arguments.target:>16s}"
            f"{experts}"
        )
        chance: list[Outcome] = []
        for rule, (built, seconds) in sets.items():
            outcomes = [outcome(model, method, tokens, heldout, seconds) for tokens in built]
            chance = chance or outcomes  # `random` comes first
            last = f" {uneven[rule]:9.1f}" if uneven else ""
            print(row(rule, outcomes, chance, arguments.target) + last, flush=True)


def row(rule: str, outcomes: Sequence[Outcome], chance: Sequence[Outcome], target: str) -> str:
    """A line of the table."""
    means = [each.mean for each in outcomes]
    spread = 100 * statistics.stdev(means) if len(means) > 1 else math.nan
    overall = paired(means, [each.mean for each in chance])
    on_target = paired([each.losses[target] for each in outcomes], [each.losses[target] for each in chance])
    seconds = statistics.fmean(each.seconds for each in outcomes)
    return (
        f"{rule:20s} {seconds:8.2f} {math.exp(statistics.fmean(means)):8.2f} {spread:6.2f} {overall:>16s} "
        f"{on_target:>16s}"
    )


if __name__ == "__main__":
    main()

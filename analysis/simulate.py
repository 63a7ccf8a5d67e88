"""Results whose variance components are known: what the analysis is checked on, at any size.

The outcome of example e under calibration set k of source s is drawn from an additive model,

    P(correct) = μ + source_s + set_sk + example_e + (source × example)_se,

so every component that `analysis.variance` estimates has a true value. Held-out text follows the same model in nats per
token, with a bonus where the calibration source and the text are of the same domain. `simulate_outcomes` gives one
matrix; `simulate_study` writes a whole results folder through the Parquet contract, column by column, so that a study
of 36 million examples takes seconds and not hours.

    python -m analysis.simulate results/simulated
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from sweep.results import SCHEMA_VERSION, TABLES, Results

SOURCES = ("books", "code", "encyclopedia", "legal", "news_blogs", "web_docs")


@dataclass(frozen=True)
class Components:
    """Standard deviations of the additive model, on the scale of the outcome."""

    mean: float = 0.6
    source: float = 0.02
    set: float = 0.01
    example: float = 0.2
    source_example: float = 0.03
    residual: float = 0.2  # of continuous outcomes; a yes-or-no outcome has its own, mean × (1 - mean) - the others


@dataclass(frozen=True)
class SimulatedMethod:
    """A method and how much damage it does and how much it feels its calibration data."""

    name: str
    label: str
    bits: float | None = None
    sparsity: float | None = None
    pattern: str | None = None
    data_free: bool = False
    damage: float = 0.03  # probability lost on tasks; perplexity grows by the factor exp(4 × damage)
    sensitivity: float = 1.0  # multiplies the effects of source, set and source × example
    settings: Mapping[str, Any] = field(default_factory=dict)


METHODS = (
    SimulatedMethod("rtn", "RTN 3-bit g32", bits=3, data_free=True, damage=0.07),
    SimulatedMethod("gptq", "GPTQ 3-bit g32", bits=3, damage=0.04, sensitivity=0.6),
    SimulatedMethod("gptq", "GPTQ 4-bit g32", bits=4, damage=0.01, sensitivity=0.25),
    SimulatedMethod("magnitude", "Magnitude 50%", sparsity=0.5, data_free=True, damage=0.12),
    SimulatedMethod("wanda", "Wanda 50%", sparsity=0.5, damage=0.06, sensitivity=0.8),
    SimulatedMethod("sparsegpt", "SparseGPT 2:4", sparsity=0.5, pattern="2:4", damage=0.05, sensitivity=1.3),
)


@dataclass(frozen=True)
class SimulatedSet:
    """A calibration set, as far as a simulated trial depends on it."""

    source: str
    number: int
    nsamples: int
    separator: str = "eos"
    seed: int = 0

    def draw(self) -> tuple[object, ...]:
        """What sets of one source differ in."""
        usual = (self.separator, self.seed) == ("eos", 0)
        return (self.number, self.nsamples) if usual else (self.number, self.nsamples, self.separator, self.seed)


@dataclass(frozen=True)
class Design:
    """What a simulated study holds."""

    name: str = "simulated"
    models: Mapping[str, int] = field(default_factory=lambda: {"small": 2_000_000, "large": 17_000_000})
    methods: Sequence[SimulatedMethod] = METHODS
    sources: Sequence[str] = SOURCES
    sets: int = 5
    sizes: Sequence[int] = (16,)
    seqlen: int = 256
    separators: Sequence[str] = ("eos",)
    calibration_seeds: Sequence[int] = (0,)
    tasks: Mapping[str, int] = field(default_factory=lambda: {"lambada": 300, "piqa": 250, "blimp": 400})
    heldout: Sequence[str] = SOURCES
    windows: int = 32
    blocks: int = 4
    components: Components = field(default_factory=Components)
    worth: bool = False  # answers also have a log-likelihood, a probability and a Brier score, as the sweep writes them
    domain_bonus: float = 0.06  # nats per token gained when the calibration source is the text's domain
    seed: int = 0


def simulate_outcomes(
    rng: np.random.Generator,
    sources: int,
    sets: int,
    examples: int,
    components: Components,
    binary: bool = False,
) -> np.ndarray:
    """One study's outcomes, float64 [sources, sets, examples]; zeros and ones when `binary`."""
    c = components
    centre = (
        c.mean
        + rng.normal(0, c.source, (sources, 1, 1))
        + rng.normal(0, c.set, (sources, sets, 1))
        + rng.uniform(-1, 1, (1, 1, examples)) * c.example * np.sqrt(3)
        + rng.normal(0, c.source_example, (sources, 1, examples))
    )
    if binary:
        return (rng.random((sources, sets, examples)) < centre).astype(float)
    return centre + rng.normal(0, c.residual, centre.shape)


def simulate_study(root: str, design: Design | None = None) -> int:
    """Write a results folder and return its number of trials. The same design gives the same numbers."""
    design = design or Design()
    results = Results(root)
    writer = _Writer(results, design)
    for model in design.models:
        writer.model(model)
    evaluation = f"evaluation: {{heldout_seqlen: {design.seqlen}}}\n"
    results.write_text("study.yaml", f"study: {design.name}\nseed: {design.seed}\n{evaluation}")
    return writer.written


class _Writer:
    """Draws the effects that trials share and writes one trial after the other."""

    def __init__(self, results: Results, design: Design) -> None:
        self.results = results
        self.design = design
        self.written = 0
        self.started = datetime(2025, 1, 1, tzinfo=timezone.utc)
        self.dense: dict[str, dict[str, np.ndarray]] = {}  # what the answers of the model's dense trial are worth
        self.example = {t: _uniform(self._rng("example", t), n, design.components) for t, n in design.tasks.items()}
        self.window = {t: self._rng("window", t).normal(0, 0.15, design.windows) for t in design.heldout}

    def _rng(self, *names: object) -> np.random.Generator:
        text = json.dumps([self.design.seed, *map(str, names)])
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))

    def model(self, model: str) -> None:
        dense = SimulatedMethod("dense", "dense", data_free=True, damage=0.0)
        for method in (dense, *self.design.methods):
            if method.data_free:
                self.trial(model, method, None)
                continue
            d = self.design
            for factors in product(d.sizes, d.separators, d.calibration_seeds, d.sources, range(d.sets)):
                nsamples, separator, seed, source, number = factors
                self.trial(model, method, SimulatedSet(source, number, nsamples, separator, seed))

    def trial(self, model: str, method: SimulatedMethod, data: SimulatedSet | None) -> None:
        """One trial: its outcomes, the metrics that follow from them, its layers, its row."""
        drawn = (data.source, *data.draw()) if data else (None, None, None)
        factors = "|".join(map(str, (model, method.label, *drawn)))
        trial_id = hashlib.sha256(factors.encode()).hexdigest()[:16]
        rng = self._rng("trial", trial_id)
        answers = {task: self.outcomes(rng, model, method, data, task) for task in self.design.tasks}
        correct = {task: right for task, (right, _) in answers.items()}
        worth = {task: _worth(centre) for task, (_, centre) in answers.items()} if self.design.worth else {}
        if method.name == "dense":
            self.dense = worth
        text = {domain: self.nll(rng, model, method, data, domain) for domain in self.design.heldout}
        put = self.results.put_table
        put("samples", trial_id, _samples(trial_id, rng, correct, text, worth))
        put("metrics", trial_id, _metrics(trial_id, correct, text, worth, self.dense, dense=method.name == "dense"))
        layers = _layers(trial_id, rng, method, self.design.blocks)
        put("layers", trial_id, layers)
        row = self.row(trial_id, model, method, data)
        if method.name != "dense":
            row["layer_error"] = float(np.mean(layers["relative_error"].to_numpy()))
        self.results.write_table("trials", trial_id, [row])
        self.written += 1

    def strength(self, model: str, method: SimulatedMethod, size: int | None) -> float:
        """How strongly this model and method feel their calibration data: less with more windows and parameters."""
        smallest = min(self.design.models.values())
        shrink = (self.design.models[model] / smallest) ** -0.15
        return method.sensitivity * shrink * (1.0 if size is None else (size / max(self.design.sizes)) ** -0.4)

    def outcomes(
        self,
        rng: np.random.Generator,
        model: str,
        method: SimulatedMethod,
        data: SimulatedSet | None,
        task: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(right or wrong, bool; its probability, before it is cut to 0 and 1), both [examples].

        Examples answered right by a small margin feel the calibration most.
        """
        c, strength = self.design.components, self.strength(model, method, data.nsamples if data else None)
        skill = 0.03 * np.log(self.design.models[model] / min(self.design.models.values()))
        centre = c.mean + skill - method.damage + self.example[task]
        if data:
            shared = ("source", model, method.label, data.source, task)
            centre = centre + strength * self._rng(*shared).normal(0, c.source)
            centre = centre + strength * self._rng(*shared, *data.draw()).normal(0, c.set)
            centre = centre + strength * self._rng(*shared, "examples").normal(0, c.source_example, centre.shape)
        luck = self._rng("luck", model, task).random(centre.shape)  # shared by a model's trials: answers mostly agree
        moved = rng.random(centre.shape) < 0.1 * strength * (method.name != "dense")
        return np.where(moved, rng.random(centre.shape), luck) < centre, centre

    def nll(
        self,
        rng: np.random.Generator,
        model: str,
        method: SimulatedMethod,
        data: SimulatedSet | None,
        domain: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(nats per token, divergence from dense), float64 [windows] each."""
        c, strength = self.design.components, self.strength(model, method, data.nsamples if data else None)
        base = 3.2 - 0.12 * np.log(self.design.models[model] / 1e6) + self._rng("text", domain).normal(0, 0.5)
        cost = 4 * method.damage
        if data:
            shared = ("text", model, method.label, data.source, domain)
            cost += strength * abs(self._rng(*shared).normal(0, c.source * 2)) + 0.03 * strength
            cost += strength * self._rng(*shared, *data.draw()).normal(0, c.set)
            cost -= strength * self.design.domain_bonus * (data.source == domain)
        cost = max(cost, 0.0)
        noise = rng.normal(0, 0.02 * strength, self.design.windows) * (method.name != "dense")
        divergence = (
            np.zeros(self.design.windows)
            if method.name == "dense"
            else 0.3 * cost * np.exp(rng.normal(0, 0.2, self.design.windows))
        )
        return base + self.window[domain] + cost + noise, divergence

    def row(
        self,
        trial_id: str,
        model: str,
        method: SimulatedMethod,
        data: SimulatedSet | None,
    ) -> dict[str, Any]:
        """The trial's row, as the sweep would write it."""
        self.started += timedelta(seconds=2)
        return {
            "trial_id": trial_id,
            "schema_version": SCHEMA_VERSION,
            "study": self.design.name,
            "status": "ok",
            "attempts": 1,
            "model": model,
            "model_id": model,
            "parameters": self.design.models[model],
            "method": method.name,
            "method_label": method.label,
            "settings": json.dumps(dict(method.settings) or {"bits": method.bits, "sparsity": method.sparsity}),
            "bits": method.bits,
            "sparsity": method.sparsity,
            "pattern": method.pattern,
            "data_free": method.data_free,
            **(self.calibration(data) if data else {}),
            "seed": self.design.seed,
            "fallbacks": 0,
            "scorer": "plain",
            "dtype": "float32",
            "device": "simulated",
            "versions": json.dumps({"analysis": "simulated"}),
            "started": self.started,
        }

    def calibration(self, data: SimulatedSet) -> dict[str, Any]:
        """The factors of a calibration set."""
        text = "|".join(map(str, (data.source, *data.draw())))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {
            "source": data.source,
            "set": data.number,
            "nsamples": data.nsamples,
            "planned_nsamples": data.nsamples,
            "seqlen": self.design.seqlen,
            "sampling": "windows",
            "separator": data.separator,
            "add_bos": False,
            "calibration_seed": data.seed,
            "calibration_id": digest[:16],
            "calibration_hash": digest,
        }


def _uniform(rng: np.random.Generator, n: int, components: Components) -> np.ndarray:
    return rng.uniform(-1, 1, n) * components.example * np.sqrt(3)


def _table(name: str, columns: Mapping[str, Any], rows: int) -> pa.Table:
    """Columns of one table; those not given are null."""
    schema = TABLES[name]
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def _samples(
    trial_id: str,
    rng: np.random.Generator,
    correct: Mapping[str, np.ndarray],
    text: Mapping[str, tuple[np.ndarray, np.ndarray]],
    worth: Mapping[str, Mapping[str, np.ndarray]],
) -> pa.Table:
    answers = sum(len(values) for values in correct.values())
    windows = sum(len(nll) for nll, _ in text.values())
    right = np.concatenate([*correct.values(), np.zeros(0, bool)]).astype(bool)
    margin = np.where(right, 1, -1) * rng.exponential(1.0, answers)
    lengths = [len(v) for v in correct.values()] + [len(nll) for nll, _ in text.values()]
    names = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), pa.array([*correct, *text], pa.string())
    )
    no_answers, no_windows = pa.nulls(answers, pa.float32()), pa.nulls(windows, pa.float32())
    nll = np.concatenate([n for n, _ in text.values()] or [np.zeros(0)])
    js = np.concatenate([d for _, d in text.values()] or [np.zeros(0)])
    columns = {
        "trial_id": [trial_id] * (answers + windows),
        "task": names.cast(pa.string()),
        "doc_id": np.concatenate([np.arange(n) for n in lengths]),
        "score": pa.concat_arrays([pa.array(right.astype(np.float64)), pa.nulls(windows, pa.float64())]),
        "correct": pa.concat_arrays([pa.array(right), pa.nulls(windows, pa.bool_())]),
        "margin": pa.concat_arrays([pa.array(margin, pa.float32()), no_windows]),
        "nll": pa.concat_arrays([no_answers, pa.array(nll, pa.float32())]),
        "js": pa.concat_arrays([no_answers, pa.array(js, pa.float32())]),
    }
    for name in next(iter(worth.values()), {}):
        values = pa.array(np.concatenate([worth[task][name] for task in correct]), pa.float32())
        columns[name] = pa.concat_arrays([values, no_windows])
    return _table("samples", columns, answers + windows)


def _worth(centre: np.ndarray) -> dict[str, np.ndarray]:
    """What an answer between two choices is worth, column -> float64 [examples], given the right one's probability."""
    p = np.clip(centre, 0.01, 0.99)
    return {
        "loglikelihood": np.log(p),
        "probability": p,
        "confidence": np.maximum(p, 1 - p),
        "brier": 2 * (1 - p) ** 2,
    }


def _metrics(
    trial_id: str,
    correct: Mapping[str, np.ndarray],
    text: Mapping[str, tuple[np.ndarray, np.ndarray]],
    worth: Mapping[str, Mapping[str, np.ndarray]],
    dense_worth: Mapping[str, Mapping[str, np.ndarray]],
    *,
    dense: bool,
) -> pa.Table:
    rows: list[tuple[str, str, str, float, float | None, int]] = []
    for task, values in correct.items():
        rows.append(("task", task, "acc", float(values.mean()), _error(values), len(values)))
    for task, columns_of in worth.items():
        for name in ("loglikelihood", "probability", "brier"):
            mine, change = columns_of[name], columns_of[name] - dense_worth[task][name]
            for label, measured in ((name, mine), (f"{name}_change", change)):
                rows.append(("answers", task, label, float(measured.mean()), _error(measured), len(measured)))
    for domain, (nll, js) in text.items():
        rows.append(("perplexity", domain, "perplexity", float(np.exp(nll.mean())), None, len(nll)))
        if not dense:
            rows.append(("divergence", domain, "js_divergence", float(js.mean()), _error(js), len(js)))
    kind, task_names, metric, value, stderr, n = zip(*rows, strict=True)
    columns = {"kind": kind, "task": task_names, "metric": metric, "value": value, "stderr": stderr, "n": n}
    columns["accuracy"] = tuple("acc" if row[0] in ("task", "answers") else None for row in rows)
    return _table("metrics", {"trial_id": [trial_id] * len(rows), **columns}, len(rows))


def _error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _layers(trial_id: str, rng: np.random.Generator, method: SimulatedMethod, blocks: int) -> pa.Table:
    if method.name == "dense":
        return _table("layers", {}, 0)
    linears = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    count = blocks * len(linears)
    growth = np.repeat(np.linspace(0.7, 1.4, blocks), len(linears))
    error = method.damage * growth * np.tile([0.8, 1.3, 1.0, 1.2], blocks) * np.exp(rng.normal(0, 0.05, count))
    columns = {
        "trial_id": [trial_id] * count,
        "step": [0] * count,
        "block": np.repeat(np.arange(blocks), len(linears)),
        "linear": list(linears) * blocks,
        "relative_error": error,
    }
    return _table("layers", columns, count)


def main(
    output: Annotated[Path, typer.Argument(help="Folder to write; must not hold results yet.")],
    sets: Annotated[int, typer.Option(help="Calibration sets per source.")] = 5,
    seed: Annotated[int, typer.Option(help="Another seed, another study.")] = 0,
) -> None:
    """Write a results folder with known variance components, to try the analysis on."""
    if Results(str(output)).files("trials"):
        raise typer.BadParameter(f"{output} holds results already; choose another folder")
    trials = simulate_study(str(output), Design(sets=sets, seed=seed, sizes=(4, 16), worth=True))
    typer.echo(f"{output}: {trials} simulated trials; try `python -m analysis.report {output}`")


if __name__ == "__main__":
    typer.run(main)

"""How long does the report of the largest published study take?

    python -m benchmarks.analysis make FOLDER [--examples 20000] [--sets 10]
    python -m benchmarks.analysis time FOLDER

`make` writes a simulated study of 1,800 calibrated trials (9 models, 4 methods, 5 sources, 10 sets) with 20,000
examples over eleven tasks each, with what every answer is worth: 36 million rows in samples/. `time` measures the
load, the variance components of one task and the full report with its figures, each in its own process, with peak
memory. No test asserts any of it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from analysis.simulate import Design, SimulatedMethod, simulate_study

MODELS = {
    "llama-7b": 6_700_000_000,
    "llama-13b": 13_000_000_000,
    "llama-33b": 32_500_000_000,
    "vicuna-7b": 6_700_000_001,
    "vicuna-13b": 13_000_000_001,
    "vicuna-33b": 32_500_000_001,
    "opt-6.7b": 6_700_000_002,
    "opt-13b": 13_000_000_002,
    "opt-30b": 30_000_000_000,
}
METHODS = (
    SimulatedMethod("gptq", "GPTQ 4-bit g128", bits=4, damage=0.01, sensitivity=0.4),
    SimulatedMethod("spqr", "SpQR 4-bit", bits=4, damage=0.005, sensitivity=0.2),
    SimulatedMethod("sparsegpt", "SparseGPT 2:4", sparsity=0.5, pattern="2:4", damage=0.08, sensitivity=1.2),
    SimulatedMethod("wanda", "Wanda 2:4", sparsity=0.5, pattern="2:4", damage=0.09, sensitivity=0.8),
)
SOURCES = ("c4", "cnn_dailymail", "redpajama", "refinedweb", "wikipedia")
TASKS = (
    "arc_easy",
    "arc_challenge",
    "boolq",
    "hellaswag",
    "lambada",
    "openbookqa",
    "piqa",
    "rte",
    "storycloze",
    "winogrande",
    "blimp",
)
PARTS = {
    "load": "from analysis.frames import load; load({root!r})",
    "components of one task": (
        "import numpy as np, polars as pl; from analysis.frames import load; "
        "from analysis.estimates import components, outcomes; "
        "study = load({root!r}); method, model = pl.col('method') == 'wanda', pl.col('model') == 'llama-13b'; "
        "part = study.trials.filter(method & model); "
        "start = __import__('time').time(); "
        "matrix = outcomes.read_outcomes(study, part, ['score'])['score']['hellaswag']; "
        "components.components([matrix], part['source'].to_list(), np.random.default_rng(0)); "
        "print(f'{{__import__(\"time\").time() - start:.2f}} s of it for the components')"
    ),
    "full report": "from analysis.report import write_report; write_report({root!r}, {output!r})",
}

app = typer.Typer(add_completion=False)


@app.command()
def make(
    folder: Path,
    examples: Annotated[int, typer.Option(help="examples per trial over all tasks")] = 20_000,
    sets: Annotated[int, typer.Option(help="calibration sets per source")] = 10,
    models: Annotated[int, typer.Option(help="how many of the nine models")] = 9,
) -> None:
    """Write the simulated study."""
    share = {task: examples // len(TASKS) + (index < examples % len(TASKS)) for index, task in enumerate(TASKS)}
    chosen = dict(list(MODELS.items())[:models])
    design = Design(
        "paper_a_simulated",
        chosen,
        METHODS,
        SOURCES,
        sets,
        sizes=(128,),
        seqlen=2048,
        tasks=share,
        heldout=("wikitext2",),
        windows=40,
        blocks=32,
    )
    start = time.time()
    trials = simulate_study(str(folder), design)
    add_worth(folder)
    typer.echo(f"{folder}: {trials} trials, {trials * examples:,} answers in samples/, {time.time() - start:.0f} s")


def add_worth(folder: Path) -> None:
    """Fill in what answers are worth, as an evaluation does: in samples/ per example, in metrics/ per task.

    A right answer has log odds of 1 on average and a wrong one of -1, with a normal spread of 1.
    """
    trials = pl.concat([pl.read_parquet(path) for path in sorted((folder / "trials").glob("*.parquet"))])
    dense: dict[str, pl.DataFrame] = {}
    order = trials.sort(pl.col("method") != "dense").select("trial_id", "model", "method")
    for number, (trial_id, model, method) in enumerate(order.iter_rows()):
        path = folder / "samples" / f"{trial_id}.parquet"
        samples = pl.read_parquet(path)
        noise = pl.Series(np.random.default_rng(number).standard_normal(samples.height))
        odds = 2 * pl.col("score") - 1 + noise
        worth = {"margin": odds, "probability": 1 / (1 + (-odds).exp())}
        worth["loglikelihood"] = worth["probability"].log()
        worth["brier"] = 2 * (1 - worth["probability"]) ** 2
        filled = samples.with_columns(
            pl.when(pl.col("score").is_not_null()).then(value).cast(samples.schema[name]).alias(name)
            for name, value in worth.items()
        )
        filled.write_parquet(path)
        means = filled.drop_nulls("score").group_by("task").agg(*(pl.col(name).mean() for name in worth))
        means = means.unpivot(index="task", variable_name="metric")
        if method == "dense":
            dense[model] = means
        changes = means.join(dense[model], on=["task", "metric"], suffix="_dense").select(
            "task", pl.col("metric") + "_change", pl.col("value") - pl.col("value_dense")
        )
        _append_answers(folder / "metrics" / f"{trial_id}.parquet", pl.concat([means, changes]))


def _append_answers(path: Path, values: pl.DataFrame) -> None:
    metrics = pl.read_parquet(path)
    counts = metrics.filter(pl.col("kind") == "task").select("task", "n").unique("task")
    rows = values.join(counts, on="task").with_columns(
        pl.lit(metrics.item(0, "trial_id")).alias("trial_id"), pl.lit("answers").alias("kind")
    )
    missing = [pl.lit(None, kind).alias(name) for name, kind in metrics.schema.items() if name not in rows.columns]
    rows = rows.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in metrics.schema.items())
    pl.concat([metrics, rows]).write_parquet(path)


@app.command(name="time")
def measure(
    folder: Path,
    output: Annotated[Path | None, typer.Option(help="the report; default: report.html in the folder")] = None,
) -> None:
    """Wall time and peak memory of each part."""
    for name, code in PARTS.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.time()
        source = code.format(root=str(folder), output=str(output or folder / "report.html"))
        tail = "; import resource; print(*(resource.getrusage(who).ru_maxrss for who in (0, -1)))"
        done = subprocess.run([sys.executable, "-c", source + tail], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        *said, peaks = done.stdout.split("\n")[:-1]
        own, worker = (int(peak) / 2**20 for peak in peaks.split())
        workers = f" and {worker:.2f} GiB in each process that draws" if worker else ""
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        wall = time.time() - start
        typer.echo(f"{name}: {wall:.1f} s, {used:.1f} s of CPU, {own:.2f} GiB{workers} {' '.join(said)}")


if __name__ == "__main__":
    app()

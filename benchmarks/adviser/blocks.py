"""What the first blocks say before a trial: `python -m benchmarks.adviser.blocks STUDY.yaml --output FILE`.

For every calibration set of a study the error of its weights on each held-out text's windows, after the first blocks
alone (`methods/target_error.py`), beside the time of that and of compressing the whole model. One row per (model,
method, source, set, nsamples, target) with the measure `block_error` (the logarithm of the mean over tokens), in the
columns of `extract.py`, so that both files together say what such a screen is worth.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
import typer

from calib.build import build_sets
from methods.blockwise import compress_model
from methods.target_error import target_error
from sweep import plan
from sweep.config import load_study
from sweep.evaluation.questions.heldout import build_windows
from sweep.models import context_length, load_tokenizer
from sweep.weights.streaming import load_dense

MEASURE = "block_error"
TIMED = 3  # whole compressions that are timed


def rows(study: str, nsamples: int, blocks: int, windows: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Set 0 of every source, then set 1, and so on, until so many seconds have passed."""
    loaded = load_study(study)
    trials = [t for t in plan.expand(loaded) if t.spec is not None and t.spec.nsamples == nsamples]
    trials.sort(key=lambda t: (t.model.name, t.spec.set, t.spec.source.label))  # type: ignore[union-attr]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    began = time.perf_counter()
    for name in sorted({t.model.name for t in trials}):
        own = [t for t in trials if t.model.name == name]
        model, tokenizer = own[0].model, load_tokenizer(own[0].model)
        dense = load_dense(model, device)
        texts = build_windows(own[0].evaluation, tokenizer, context_length(model))
        targets = {text.label: text.tokens[:windows] for text in texts}
        specs = list({t.calibration_id: t.spec for t in own if t.spec is not None}.values())
        sets = {built.id: built for built in build_sets(specs, tokenizer, model.tokenizer_id)}
        _compress(dense, own, sets)
        for trial in own:
            if time.perf_counter() - began > seconds:
                return
            tokens = sets[trial.calibration_id].tokens
            started = _now()
            found = target_error(dense.model, trial.method, tokens.copy(), targets, blocks=blocks)  # type: ignore[arg-type]
            took = _now() - started
            for target, error in found.items():
                value = float(np.log(error.by_token[-1]))
                yield _row(trial, target, MEASURE, value, took)


def _compress(dense: Any, trials: list[plan.Trial], sets: dict[Any, Any]) -> None:
    """Say what compressing the whole model takes with each method; the first one of each is not timed."""
    for label in dict.fromkeys(trial.label for trial in trials):
        times = []
        for trial in [t for t in trials if t.label == label][: TIMED + 1]:
            dense.restore()
            started = _now()
            compress_model(dense.model, trial.method, sets[trial.calibration_id].tokens.copy())  # type: ignore[arg-type]
            times.append(_now() - started)
        typer.echo(f"{label}: {np.mean(times[1:]):.2f} s for the whole model (the first time {times[0]:.2f} s)")
        dense.restore()


def _row(trial: plan.Trial, target: str, measure: str, value: float, seconds: float) -> dict[str, Any]:
    spec = trial.spec
    assert spec is not None
    return {
        "model": trial.model.name,
        "method": trial.method_name,
        "source": spec.source.label,
        "set": spec.set,
        "nsamples": spec.nsamples,
        "target": target,
        "measure": measure,
        "value": value,
        "seconds": seconds,
    }


def _now() -> float:
    """Seconds, once the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(
    study: Annotated[str, typer.Argument(help="YAML of a study whose sources are text")],
    output: Annotated[Path, typer.Option(help="Parquet file to write")],
    nsamples: Annotated[int, typer.Option(help="windows of a set")] = 32,
    blocks: Annotated[int, typer.Option(help="that are compressed")] = 2,
    windows: Annotated[int, typer.Option(help="of each held-out text")] = 8,
    seconds: Annotated[float, typer.Option(help="after which it ends")] = 3600.0,
) -> None:
    """Write the errors of the first blocks."""
    frame = pl.DataFrame(list(rows(study, nsamples, blocks, windows, seconds)))
    output.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(output, compression="zstd")
    means = frame.group_by("method").agg(pl.col("seconds").mean()).sort("method")
    for method, mean in means.iter_rows():
        typer.echo(f"{method}: {mean:.2f} s for {blocks} blocks and {windows} windows of each text")
    typer.echo(f"{output}: {len(frame):,} rows")


if __name__ == "__main__":
    typer.run(main)

"""The values behind the findings, as one small file a study: `python -m benchmarks.findings.extract RESULTS --output FILE`.

A results folder keeps every example and every token; the pages need the mean of each task and text in each trial. The
file says of which trials these are, so that a number on a page leads back to a trial id, its calibration set and its
seed. `--descriptors FILE` writes what the sets are like, where the study describes them; `--flips FILE` how many answers
of each task turned, by how sure the dense model was of them; `--questions FILE` what became of every question.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from analysis.estimates.forgetting import THIRDS, thirds
from analysis.estimates.outcomes import Outcomes, outcomes_by_model
from analysis.frames import Study, load

MEASURES = ("perplexity", "js_divergence", "accuracy", "loglikelihood_change", "layer_error", "ece")
OWN = (  # metrics of single tasks that are no measures of the analysis
    "reciprocal_rank",
    "bits_per_byte",
    "flips_right_to_wrong",
    "flips_wrong_to_right",
)
COLUMNS = ("trial_id", "model", "parameters", "method_label", "source", "set", "nsamples", "seqlen", "measure", "task")


def extract(study: Study) -> pl.DataFrame:
    """One row per trial, measure and task (`mean`: over tasks or texts), float32 values, with what the trial took.

    `select`: the rule that chose the set's windows out of a pool, null where they were drawn. Where a part of the tokens
    counts alone, the source says which.
    """
    own = study.metrics.filter(pl.col("kind") == "task", pl.col("metric").is_in(OWN)).rename({"metric": "measure"})
    own = own.join(study.trials, on="trial_id")
    rows = pl.concat(
        frame.select(*COLUMNS, pl.col("value").cast(pl.Float32), pl.col("n").cast(pl.Int32))
        for frame in (study.values.filter(pl.col("measure").is_in(MEASURES)), own)
    )
    seconds = study.trials.select(
        "trial_id",
        pl.col("seconds_compress").cast(pl.Float32).alias("compress"),
        (pl.col("seconds_tasks") + pl.col("seconds_windows")).cast(pl.Float32).alias("evaluate"),
        "select",
        "part",
    )
    joined = rows.join(seconds, on="trial_id", maintain_order="left").with_columns(part_in_source())
    return joined.drop("part").sort("trial_id", "measure", "task")


def part_in_source() -> pl.Expr:
    """`traces, response alone` where `part` names a part of the tokens."""
    named = pl.concat_str("source", pl.lit(", "), "part", pl.lit(" alone"))
    return pl.when(pl.col("part").is_null()).then("source").otherwise(named).alias("source")


def describe(study: Study) -> pl.DataFrame:
    """One row per set, descriptor and held-out text that it is compared with (empty: none)."""
    sets = study.trials.drop_nulls("source").select("calibration_id", "source", "set", "nsamples", "select").unique()
    rows = study.results.scan("descriptors").collect(engine="in-memory")
    columns = ("source", "set", "nsamples", "select", "descriptor", "target", "model", "value", "seconds")
    return rows.join(sets, on="calibration_id").select(columns).sort("descriptor", "target", "source", "set")


def flips(study: Study) -> pl.DataFrame:
    """One row per compressed trial, task and third of its examples by the size of the dense model's margin.

    Of `examples`, `lost` were right and are wrong, `gained` the other way about; `margin`: the median size there, nats.
    """
    frames = []
    for outcomes in outcomes_by_model(study, ("score", "margin")):
        dense = _dense_row(study, outcomes)
        for task, margins in sorted(outcomes.matrices["margin"].items()):
            scores = outcomes.matrices["score"][task]
            if not np.isin(scores, (0, 1)).all():
                raise ValueError(f"{task}: examples of {outcomes.model} are missing, or neither right nor wrong")
            counts = _turned(scores, dense, np.abs(margins[dense]))
            ids = pl.Series("trial_id", np.repeat(outcomes.trials["trial_id"].to_numpy(), len(THIRDS)))
            frames.append(
                counts.with_columns(ids, pl.lit(task).alias("task")).filter(
                    pl.col("trial_id") != ids[dense * len(THIRDS)]
                )
            )
    return (
        pl.concat(frames)
        .select("trial_id", "task", "third", "margin", "examples", "lost", "gained")
        .sort("trial_id", "task", "third")
    )


def questions(study: Study) -> pl.DataFrame:
    """One row per model, calibrated method, source, measure, task and question.

    `value`: the mean over the source's `sets`, right answers in % or the log-likelihood of the right answer minus that of
    the dense model in nats; `between_sets`: the variance of one set's.
    """
    frames = []
    for outcomes in outcomes_by_model(study, ("score", "loglikelihood")):
        dense = _dense_row(study, outcomes)
        calibrated = outcomes.trials.with_row_index("row").drop_nulls("source")
        for (label, source), part in calibrated.group_by("method_label", "source", maintain_order=True):
            rows = part["row"].to_numpy()
            context = {"model": outcomes.model, "method_label": str(label), "source": str(source)}
            for task, scores in outcomes.matrices["score"].items():
                frames.append(_over_sets({**context, "measure": "accuracy", "task": task}, 100.0 * scores[rows]))
            for task, nats in outcomes.matrices["loglikelihood"].items():
                change = {**context, "measure": "loglikelihood_change", "task": task}
                frames.append(_over_sets(change, nats[rows] - nats[dense]))
    return pl.concat(frames).sort("model", "method_label", "source", "measure", "task", "question")


def _over_sets(context: dict[str, str], values: np.ndarray) -> pl.DataFrame:
    """A row a question of values [sets, questions]."""
    exact = values.astype(np.float64)
    frame = pl.DataFrame(
        {
            "question": np.arange(exact.shape[1], dtype=np.int16),
            "sets": np.full(exact.shape[1], len(exact), np.int16),
            "value": exact.mean(axis=0).astype(np.float32),
            "between_sets": exact.var(axis=0, ddof=1).astype(np.float32),
        }
    )
    return frame.select(*(pl.lit(value).alias(name) for name, value in context.items()), pl.all())


def _dense_row(study: Study, outcomes: Outcomes) -> int:
    """The row of the dense model's outcomes. Raises ValueError where it has no trial."""
    methods = outcomes.trials["method"].to_list()
    if "dense" not in methods:
        raise ValueError(f"{study.name}: the dense {outcomes.model} has no trial to compare answers with")
    return methods.index("dense")


def _turned(scores: np.ndarray, dense: int, sizes: np.ndarray) -> pl.DataFrame:
    """A row a trial and third, in their order, of scores [trials, examples] against those of the row `dense`."""
    third = thirds(sizes)
    before = scores[dense]
    return pl.DataFrame(
        [
            {
                "third": name,
                "margin": float(np.median(sizes[third == number])),
                "examples": int((third == number).sum()),
                "lost": int(((before > after) & (third == number)).sum()),
                "gained": int(((after > before) & (third == number)).sum()),
            }
            for after in scores
            for number, name in enumerate(THIRDS)
        ]
    )


def main(
    results: Annotated[str, typer.Argument()],
    output: Annotated[Path, typer.Option()],
    descriptors: Annotated[Path | None, typer.Option()] = None,
    turned: Annotated[Path | None, typer.Option("--flips")] = None,
    asked: Annotated[Path | None, typer.Option("--questions")] = None,
) -> None:
    study = load(results)
    frames = {output: extract(study)}
    if descriptors is not None:
        frames[descriptors] = describe(study)
    if turned is not None:
        frames[turned] = flips(study)
    if asked is not None:
        frames[asked] = questions(study)
    for path, frame in frames.items():
        frame.write_parquet(path, compression="zstd", compression_level=19)
        print(f"{frame.height:,} rows, {path.stat().st_size:,} bytes -> {path}")


if __name__ == "__main__":
    typer.run(main)

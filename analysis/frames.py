"""A results folder as frames that can be trusted: checked, tidy, and open about what is missing.

A results folder grows for days under many hands: half of a study, a copied file, a trial that ran twice, a NaN,
somebody else's Parquet. `load` reads what can be read and turns everything that it had to leave out or to assume into a
`Limitation`, which the report shows on its first screen. Nothing is dropped in silence.

The hard case is a folder whose trials are not a full grid: every table counts its own rows (n), and `load` says how
many cells of the grid have no result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.checks import Limitation, design_notes, listed, unlike_notes
from analysis.domains import Domains, domains_in
from analysis.measures import CONTEXT, LARGEST, build_values
from analysis.trials import (
    POLICIES,
    elsewhere_notes,
    known_versions,
    main_condition,
    of_whole_models,
    one_trial_per_cell,
    unstated_notes,
    with_conditions,
    with_distinct_labels,
    with_numbered_draws,
    with_one_name_each,
    without_copies,
)
from calib.settings import SettingsError
from calib.yamltext import read_yaml
from sweep.results import KEYS, TABLES, Results, ResultsError


class CheckedResults(Results):
    """Results whose foreign or broken Parquet files are set aside; `set_aside` lists (path, reason)."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.set_aside: list[tuple[str, str]] = []
        self._files: dict[str, list[str]] = {}
        self._accepted: dict[str, pa.Schema] = {}  # a good file's schema: the other files have the same, as a rule

    def files(self, name: str) -> list[str]:
        if name not in self._files:
            good = []
            for path in super().files(name):
                reason = self._foreign(name, path)
                if reason is None:
                    good.append(path)
                else:
                    self.set_aside.append((f"{name}/{path.rpartition('/')[2]}", reason))
            self._files[name] = good
        return self._files[name]

    def _foreign(self, name: str, path: str) -> str | None:
        """None when the file has the table's key and types, else why it cannot belong to the table."""
        try:
            schema = pq.read_schema(path, filesystem=self.filesystem)
        except (pa.ArrowInvalid, OSError) as error:
            return f"not a whole Parquet file ({str(error).splitlines()[0][:80]})"
        if name in self._accepted and schema.equals(self._accepted[name]):
            return None
        missing = [key for key in KEYS[name] if key not in schema.names]
        if missing:
            return f"no column {', '.join(missing)}"
        for wanted in TABLES[name]:
            found = schema.field(wanted.name).type if wanted.name in schema.names else pa.null()
            if found not in (wanted.type, pa.null()) and _polars_type(found) != _polars_type(wanted.type):
                return f"column {wanted.name} is {found}, expected {wanted.type}"
        self._accepted[name] = schema
        return None

    def unnamed(self, name: str, trials: pl.DataFrame) -> pl.DataFrame:
        """The trial ids in the table's files that carry the name of no trial."""
        known = set(trials["trial_id"])
        paths = [path for path in self.files(name) if path.rpartition("/")[2].removesuffix(".parquet") not in known]
        return self.scan_paths(name, paths).select("trial_id").unique().collect(engine="in-memory")


@dataclass(frozen=True, eq=False)
class Study:
    """What `load` found. Frames are sorted; `values` is what the tables and figures are made of.

    trials:  one row per successful trial, columns of the contract plus `condition` (`16×256 windows`); `set` numbers
             the draws of a source, those of several calibration seeds one after the other.
    failed:  one row per failed trial.
    metrics: the tidy rows of the successful trials, NaN, infinite and boundless values as null.
    values:  one row per (trial, measure, task), see `analysis.measures`; task `mean` is the mean over tasks or texts.
    heldout_seqlen: tokens of the windows behind perplexities, as the study file says; None where it does not.
    domains: what sources and held-out texts are of, as the study file says.
    """

    results: CheckedResults
    name: str
    trials: pl.DataFrame
    failed: pl.DataFrame
    metrics: pl.DataFrame
    values: pl.DataFrame
    repeats: pl.DataFrame
    heldout_seqlen: int | None = None
    domains: Domains = field(default_factory=Domains)
    limitations: tuple[Limitation, ...] = field(default=())

    @cached_property
    def condition(self) -> str | None:
        """The size, length, sampling and policy that tables use when a study varies them; see `main_condition`."""
        return main_condition(self.trials)

    def in_main(self) -> pl.Expr:
        """True for rows of the main condition, of the dense models and of the data-free methods."""
        return pl.col("condition").is_null() | (pl.col("condition") == pl.lit(self.condition, pl.String))

    @cached_property
    def main(self) -> pl.DataFrame:
        """`values` of the main condition, of the dense models and of the data-free methods."""
        return self.values.filter(self.in_main())

    @cached_property
    def calibrated(self) -> pl.DataFrame:
        """`values` of the main condition: the trials that saw calibration data."""
        return self.main.filter(pl.col("condition").is_not_null())


def load(root: str) -> Study:
    """Read a results folder or URI. Raises ResultsError when it holds no successful trial."""
    results = CheckedResults(str(root))
    everything = results.scan("trials").collect(engine="in-memory")
    if everything.is_empty():
        aside = f" ({len(results.set_aside)} files that are no results were set aside)" if results.set_aside else ""
        raise ResultsError(f"{root}: no trials{aside}; run `python -m sweep.launch --results {root}` first")
    attempted, version_notes = known_versions(everything, str(root))
    attempted, part_notes = of_whole_models(attempted, str(root))
    attempted, copy_notes = without_copies(attempted)
    attempted, name_notes = with_one_name_each(attempted, _specs(results, attempted))
    failed = attempted.filter(pl.col("status") != "ok").sort("model", "method_label", "source", "set", "trial_id")
    trials = attempted.filter(pl.col("status") == "ok")
    if trials.is_empty():
        first = failed.item(0, "error")
        raise ResultsError(f"{root}: all {failed.height} trials failed; the first one says: {first}")
    trials, factor_notes = _with_stated_factors(results, trials)
    trials, draw_notes = with_numbered_draws(with_conditions(trials))
    trials, repeats, cell_notes = one_trial_per_cell(with_distinct_labels(trials))
    metrics, metric_notes = _metrics(results, trials)
    metrics, value_notes = _finite(metrics, trials)
    values, mean_notes = build_values(trials, metrics)
    names = trials["study"].unique().drop_nulls().sort().to_list()
    study_file, study_file_notes = _study_file(results)
    limitations = (
        *version_notes,
        *part_notes,
        *copy_notes,
        *name_notes,
        *_failure_notes(failed),
        *factor_notes,
        *draw_notes,
        *cell_notes,
        *metric_notes,
        *value_notes,
        *_samples_notes(results, trials, metrics),
        *unlike_notes(trials, metrics),
        *mean_notes,
        *design_notes(trials),
        *elsewhere_notes(trials),
        *_folder_notes(results, names),
        *study_file_notes,
    )
    return Study(
        results=results,
        name=names[0] if names else "study",
        trials=trials.sort("parameters", "model", "method_label", "source", "set", "trial_id"),
        failed=failed,
        metrics=metrics,
        values=values,
        repeats=repeats,
        heldout_seqlen=_heldout_seqlen(study_file),
        domains=domains_in(study_file),
        limitations=limitations,
    )


def _failure_notes(failed: pl.DataFrame) -> list[Limitation]:
    text = f"{failed.height} trial{'s failed and are' if failed.height > 1 else ' failed and is'} in no number below."
    return [Limitation("failed trials", text)] if failed.height else []


def _folder_notes(results: CheckedResults, studies: list[str]) -> list[Limitation]:
    """Trials of several studies, and files that belong to no table."""
    notes = []
    if len(studies) > 1:
        notes.append(Limitation("several studies", f"The folder holds trials of {', '.join(studies)}."))
    for table in TABLES:
        results.files(table)
    return notes + [Limitation("foreign file", f"{path} was set aside: {why}.") for path, why in results.set_aside]


def _with_stated_factors(results: CheckedResults, trials: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Limitation, ...]]:
    """Factors that rows of an older version lack, from the specs of their calibration sets where these are kept."""
    keys = {**{name: name for name in POLICIES}, "calibration_seed": "seed", "planned_nsamples": "nsamples"}
    silent = trials.filter(pl.col("source").is_not_null() & pl.col("separator").is_null())
    if silent.is_empty():
        return trials, ()
    kept = [
        {"calibration_id": key, **{column: spec.get(name) for column, name in keys.items()}}
        for key, spec in ((key, json.loads(text)) for key, text in _specs(results, silent).iter_rows())
    ]
    stated = pl.DataFrame(kept, trials.select("calibration_id", *keys).schema)
    joined = trials.join(stated, on="calibration_id", how="left", suffix="_kept", maintain_order="left")
    filled = [pl.coalesce(column, f"{column}_kept").alias(column) for column in keys]
    trials = joined.with_columns(filled).drop([f"{column}_kept" for column in keys])
    return trials, unstated_notes(trials)


def _specs(results: CheckedResults, trials: pl.DataFrame) -> pl.DataFrame:
    """(calibration_id, spec) of the trials' calibration sets, as far as they are kept."""
    sets = results.scan("calibration").select("calibration_id", "spec").unique("calibration_id")
    wanted = trials.lazy().select("calibration_id").drop_nulls()
    return sets.join(wanted, on="calibration_id", how="semi").collect(engine="in-memory")


def _metrics(results: CheckedResults, trials: pl.DataFrame) -> tuple[pl.DataFrame, list[Limitation]]:
    """The metrics of the trials, one row per key."""
    key = list(KEYS["metrics"])
    ids = trials.select("trial_id")
    rows = results.scan("metrics").collect(engine="in-memory").join(ids, on="trial_id", how="semi")
    distinct = rows.unique(key, keep="first", maintain_order=True).sort(key)
    notes = []
    if distinct.height < rows.height:
        text = f"{rows.height - distinct.height} rows of metrics/ occur twice; one of each is used."
        notes.append(Limitation("copied metrics", text))
    bare = ids.join(distinct, on="trial_id", how="anti").height
    if bare:
        notes.append(Limitation("no metrics", f"{bare} successful trials have no row in metrics/."))
    return distinct, notes


def _finite(metrics: pl.DataFrame, trials: pl.DataFrame) -> tuple[pl.DataFrame, list[Limitation]]:
    """NaN, infinite and boundless values as null, and said so with the reasons that the trials recorded."""
    notes = []
    usable = pl.col("value").is_finite() & (pl.col("value").abs() <= LARGEST)
    wrong = metrics.filter(pl.col("value").is_not_null() & ~usable)
    empty = metrics.filter(pl.col("value").is_null())
    for rows, what in ((wrong, f"NaN, infinite or beyond {LARGEST:.0e}"), (empty, "empty")):
        if rows.is_empty():
            continue
        names = rows.join(trials.select(CONTEXT), on="trial_id", how="left")
        first = names.sort("model", "method_label", "task").row(0, named=True)
        where = " · ".join(
            str(first[k]) for k in ("model", "method_label", "source", "set", "task", "metric") if first[k] is not None
        )
        why = f": {first['reason']}" if first["reason"] else ""
        text = f"{rows.height} values in metrics/ are {what} (first: {where}{why}); means that need them are empty."
        notes.append(Limitation("unusable values", text))
    value = pl.when(usable).then("value").otherwise(None).alias("value")
    error = pl.when(pl.col("stderr").is_finite()).then("stderr").otherwise(None).alias("stderr")
    return metrics.with_columns(value, error), notes


def _samples_notes(results: CheckedResults, trials: pl.DataFrame, metrics: pl.DataFrame) -> list[Limitation]:
    """Trials that were evaluated and have nothing in samples/."""
    kinds = pl.col("kind").is_in(["task", "perplexity"])
    evaluated = trials.join(metrics.filter(kinds).select("trial_id").unique(), on="trial_id", how="semi")
    bare = evaluated.filter(~pl.col("trial_id").is_in(list(results.keys("samples"))))
    if bare.height:  # their rows may stand in a file of several trials
        kept = bare.select("trial_id").join(results.unnamed("samples", trials), on="trial_id", how="anti")
        bare = bare.join(kept, on="trial_id", how="semi").sort("model", "method_label", "source", "set", "trial_id")
    if bare.is_empty():
        return []
    names = [
        " · ".join(str(value) for value in row if value is not None)
        for row in bare.select("model", "method_label", "source", "set").iter_rows()
    ]
    text = (
        f"{bare.height} of {evaluated.height} trials have nothing in samples/ ({listed(names)}); they are left out of "
        "variance components, flips, McNemar's test and what is said about new test examples."
    )
    return [Limitation("no single examples", text)]


def _study_file(results: CheckedResults) -> tuple[Any, tuple[Limitation, ...]]:
    """The resolved study file, of which `sweep.launch` keeps one for a folder; None where there is none."""
    try:
        return read_yaml(results.read_text("study.yaml") or ""), ()
    except (SettingsError, UnicodeDecodeError) as error:
        text = f"study.yaml cannot be read ({str(error).splitlines()[0]}), so the length of windows is not known."
        return None, (Limitation("study file", text),)


def _heldout_seqlen(study: Any) -> int | None:
    """Tokens of a held-out window."""
    evaluation = study.get("evaluation") if isinstance(study, dict) else None
    seqlen = evaluation.get("heldout_seqlen") if isinstance(evaluation, dict) else None
    return seqlen if isinstance(seqlen, int) else None


def _polars_type(kind: pa.DataType) -> pl.DataType:
    """What Polars makes of an Arrow type: plain, large and view strings are one to it."""
    return pl.Series(pa.array([], kind)).dtype

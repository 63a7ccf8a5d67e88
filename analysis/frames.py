"""A results folder as frames that can be trusted: checked, tidy, and open about what is missing.

A results folder grows for days under many hands: half of a study, a copied file, a trial that ran twice, a NaN,
somebody else's Parquet. `load` reads what can be read and turns everything that it had to leave out or to assume into a
`Limitation`, which the report shows on its first screen. Nothing is dropped in silence.

The hard case is a folder whose trials are not a full grid: every table counts its own rows (n), and `load` says how
many cells of the grid have no result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.measures import CONTEXT, LARGEST, build_values
from sweep.results import KEYS, SCHEMA_VERSION, TABLES, Results, ResultsError

# Factors of a calibration set that stand in a condition when a study varies them, and words for their levels.
POLICIES = {
    "separator": {"none": "no separator", "\n\n": "separator empty line"},
    "add_bos": {"true": "with BOS", "false": "without BOS"},
}


@dataclass(frozen=True)
class Limitation:
    """One thing that the numbers do not cover. `subject` is a word or two, `text` a sentence."""

    subject: str
    text: str


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

    def scan_trials(self, name: str, trial_ids: list[str]) -> pl.LazyFrame:
        """The rows of some trials; from their own files alone, in the order given, where each has its own file."""
        by_key = {path.rpartition("/")[2].removesuffix(".parquet"): path for path in self.files(name)}
        if set(trial_ids) <= set(by_key):
            return self._scan_paths(name, [by_key[trial_id] for trial_id in trial_ids])
        return self.scan(name).filter(pl.col("trial_id").is_in(trial_ids))

    def unnamed(self, name: str, trials: pl.DataFrame) -> pl.DataFrame:
        """The trial ids in the table's files that carry the name of no trial."""
        known = set(trials["trial_id"])
        paths = [path for path in self.files(name) if path.rpartition("/")[2].removesuffix(".parquet") not in known]
        return self._scan_paths(name, paths).select("trial_id").unique().collect(engine="in-memory")


@dataclass(frozen=True, eq=False)
class Study:
    """What `load` found. Frames are sorted; `values` is what the tables and figures are made of.

    trials:  one row per successful trial, columns of the contract plus `condition` (`16×256 windows`); `set` numbers
             the draws of a source, those of several calibration seeds one after the other.
    failed:  one row per failed trial.
    metrics: the tidy rows of the successful trials, NaN, infinite and boundless values as null.
    values:  one row per (trial, measure, task), see `analysis.measures`; task `mean` is the mean over tasks or texts.
    heldout_seqlen: tokens of the windows behind perplexities, as the study file says; None where it does not.
    """

    results: CheckedResults
    name: str
    trials: pl.DataFrame
    failed: pl.DataFrame
    metrics: pl.DataFrame
    values: pl.DataFrame
    repeats: pl.DataFrame
    heldout_seqlen: int | None = None
    limitations: tuple[Limitation, ...] = field(default=())

    @cached_property
    def condition(self) -> str | None:
        """The size, length, sampling and policy that most trials share: what tables use when a study varies them."""
        counts = self.trials.drop_nulls("condition").group_by("condition").agg(pl.len(), pl.col("nsamples").max())
        order = counts.sort("len", "nsamples", "condition", descending=[True, True, False])
        return None if counts.is_empty() else order.item(0, "condition")

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
    notes: list[Limitation] = []
    trials = _known_versions(everything, notes, str(root))
    trials = _without_copies(trials, notes)
    failed = trials.filter(pl.col("status") != "ok").sort("model", "method_label", "source", "set", "trial_id")
    trials = trials.filter(pl.col("status") == "ok")
    if trials.is_empty():
        first = failed.item(0, "error")
        raise ResultsError(f"{root}: all {failed.height} trials failed; the first one says: {first}")
    if failed.height:
        notes.append(Limitation("failed trials", f"{failed.height} trials failed and are in no number below."))
    trials = _with_stated_factors(results, trials, notes)
    trials = _distinct_labels(_with_numbered_draws(_with_conditions(trials), notes))
    trials, repeats = _one_trial_per_cell(trials, notes)
    metrics = _finite(_metrics(results, trials, notes), trials, notes)
    _samples_notes(results, trials, metrics, notes)
    _unlike_notes(trials, metrics, notes)
    values, value_notes = build_values(trials, metrics)
    notes += [Limitation(subject, text) for subject, text in value_notes]
    _design_notes(trials, notes)
    names = trials["study"].unique().drop_nulls().sort().to_list()
    if len(names) > 1:
        notes.append(Limitation("several studies", f"The folder holds trials of {', '.join(names)}."))
    for table in TABLES:
        results.files(table)
    notes += [Limitation("foreign file", f"{path} was set aside: {reason}.") for path, reason in results.set_aside]
    return Study(
        results=results,
        name=names[0] if names else "study",
        trials=trials.sort("parameters", "model", "method_label", "source", "set", "trial_id"),
        failed=failed,
        metrics=metrics,
        values=values,
        repeats=repeats,
        heldout_seqlen=_heldout_seqlen(results, notes),
        limitations=tuple(notes),
    )


def _heldout_seqlen(results: CheckedResults, notes: list[Limitation]) -> int | None:
    """Tokens of a held-out window from the resolved study file; `sweep.launch` keeps one for a folder."""
    try:
        study = yaml.safe_load(results.read_text("study.yaml") or "")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = f"study.yaml cannot be read ({str(error).splitlines()[0]}), so the length of windows is not known."
        notes.append(Limitation("study file", text))
        return None
    evaluation = study.get("evaluation") if isinstance(study, dict) else None
    seqlen = evaluation.get("heldout_seqlen") if isinstance(evaluation, dict) else None
    return seqlen if isinstance(seqlen, int) else None


def _with_stated_factors(results: CheckedResults, trials: pl.DataFrame, notes: list[Limitation]) -> pl.DataFrame:
    """Factors that rows of an older version lack, from the specs of their calibration sets where these are kept."""
    keys = {**{name: name for name in POLICIES}, "calibration_seed": "seed", "planned_nsamples": "nsamples"}
    silent = trials.filter(pl.col("source").is_not_null() & pl.col("separator").is_null())
    if silent.is_empty():
        return trials
    sets = results.scan("calibration").select("calibration_id", "spec").unique("calibration_id")
    wanted = sets.join(silent.lazy().select("calibration_id"), on="calibration_id", how="semi")
    kept = [
        {"calibration_id": key, **{column: spec.get(name) for column, name in keys.items()}}
        for key, spec in ((key, json.loads(text)) for key, text in wanted.collect(engine="in-memory").iter_rows())
    ]
    stated = pl.DataFrame(kept, trials.select("calibration_id", *keys).schema)
    joined = trials.join(stated, on="calibration_id", how="left", suffix="_kept", maintain_order="left")
    filled = [pl.coalesce(column, f"{column}_kept").alias(column) for column in keys]
    trials = joined.with_columns(filled).drop([f"{column}_kept" for column in keys])
    _unstated_notes(trials, notes)
    return trials


def _with_conditions(trials: pl.DataFrame) -> pl.DataFrame:
    """`condition`: `128×2048 windows`, null for a trial without calibration data.

    What joins documents and whether a window begins with BOS stand in it where the study varies them.
    """
    size = pl.col("nsamples").cast(pl.String)
    every = pl.col("planned_nsamples").is_null() & pl.col("separator").is_not_null()  # every window that a source has
    parts = [
        pl.format("{}×{}", pl.when(every).then(pl.lit("all")).otherwise(size), "seqlen"),
        pl.lit(" "),
        pl.col("sampling").fill_null("windows"),
    ]
    for column, named in POLICIES.items():
        levels = trials.filter(pl.col("source").is_not_null())[column].drop_nulls().unique()
        if len(levels) > 1:
            level = pl.col(column).cast(pl.String)
            words = level.replace_strict(named, default=pl.lit(f"{column} ") + level).fill_null(f"unknown {column}")
            parts += [pl.lit(", "), words]
    condition = pl.when(pl.col("source").is_not_null()).then(pl.concat_str(parts)).otherwise(None)
    return trials.with_columns(condition.alias("condition"))


def _unstated_notes(trials: pl.DataFrame, notes: list[Limitation]) -> None:
    """Rows of an older version, which lack a factor that others state."""
    calibrated = trials.filter(pl.col("source").is_not_null())
    for column in (*POLICIES, "calibration_seed"):
        levels = calibrated[column].drop_nulls().unique().sort().to_list()
        silent = calibrated[column].null_count()
        if silent and levels:
            taken = (
                f"are taken to have {levels[0]!r}, as all others"
                if len(levels) == 1
                else f"stand apart from those with {', '.join(map(repr, levels))}"
            )
            notes.append(Limitation("older trials", f"{silent} trials do not state their {column} and {taken}."))


def _with_numbered_draws(trials: pl.DataFrame, notes: list[Limitation]) -> pl.DataFrame:
    """Sets of several calibration seeds are different draws of a source: they are numbered on, seed after seed."""
    calibrated = trials.filter(pl.col("source").is_not_null())
    if calibrated["calibration_seed"].drop_nulls().n_unique() < 2:
        return trials
    seeds = calibrated["calibration_seed"].unique().sort(nulls_last=True).to_list()
    step = calibrated.select(pl.col("set").max()).item() + 1
    first = {seed: rank * step for rank, seed in enumerate(seeds)}
    told = ", ".join(f"{first[s]} to {first[s] + step - 1} are seed {'unknown' if s is None else s}" for s in seeds)
    text = f"Sets of {len(seeds)} calibration seeds are draws of their own, which may share text: sets {told}."
    notes.append(Limitation("several calibration seeds", text))
    start = pl.col("calibration_seed").replace_strict(first, return_dtype=pl.Int32)
    return trials.with_columns((pl.col("set") + start).alias("set"))


def _known_versions(trials: pl.DataFrame, notes: list[Limitation], root: str) -> pl.DataFrame:
    """Trials whose schema this code can read; older ones stay, with columns they lack as null."""
    version = pl.col("schema_version").fill_null(0)
    newer = trials.filter(version > SCHEMA_VERSION)
    if newer.height == trials.height:
        raise ResultsError(
            f"{root}: written by a newer version (schema {max(newer['schema_version'])}, known {SCHEMA_VERSION}); "
            "update this package"
        )
    if newer.height:
        text = f"{newer.height} trials have a newer schema than {SCHEMA_VERSION} and are left out; update this package."
        notes.append(Limitation("mixed schema versions", text))
    older = trials.filter(version < SCHEMA_VERSION)
    if older.height:
        text = f"{older.height} trials have an older schema than {SCHEMA_VERSION}; columns they lack are empty."
        notes.append(Limitation("mixed schema versions", text))
    return trials.filter(version <= SCHEMA_VERSION)


def _without_copies(trials: pl.DataFrame, notes: list[Limitation]) -> pl.DataFrame:
    """One row per trial id: the latest, a successful one first."""
    ranked = trials.sort(
        pl.col("status") == "ok", pl.col("started"), descending=True, nulls_last=True, maintain_order=True
    )
    distinct = ranked.unique("trial_id", keep="first", maintain_order=True)
    copies = trials.height - distinct.height
    if copies:
        text = f"{copies} rows of trials/ repeat the id of another; the latest row of each id is used."
        notes.append(Limitation("copied trials", text))
    return distinct


def _distinct_labels(trials: pl.DataFrame) -> pl.DataFrame:
    """Where one label stands for several settings, the settings that differ are added to it."""
    trials = trials.with_columns(pl.col("method_label").fill_null(pl.col("method")))
    for (label,), group in trials.group_by("method_label", maintain_order=True):
        texts = group["settings"].unique().drop_nulls().sort().to_list()
        if len(texts) < 2:
            continue
        parsed = {text: json.loads(text) for text in texts}
        flat = {text: value if isinstance(value, dict) else {"parts": value} for text, value in parsed.items()}
        keys = sorted({key for value in flat.values() for key in value})
        differ = [key for key in keys if len({json.dumps(v.get(key)) for v in flat.values()}) > 1]
        names = {t: f"{label} ({', '.join(f'{k}={v.get(k)}' for k in differ)})" for t, v in flat.items()}
        renamed = pl.col("settings").replace_strict(names, default=None)
        here = pl.col("method_label") == label
        trials = trials.with_columns(pl.when(here).then(renamed).otherwise("method_label").alias("method_label"))
    return trials


def _one_trial_per_cell(trials: pl.DataFrame, notes: list[Limitation]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(the latest trial of each cell, all trials of the cells that have several)."""
    cell = ["model", "method_label", "source", "set", "condition"]
    several = pl.len().over(cell) > 1
    alike = pl.col("calibration_hash").n_unique().over(cell) == 1
    repeats = trials.filter(several & alike)
    ranked = trials.sort("started", "trial_id", descending=True, nulls_last=True)
    kept = ranked.unique(cell, keep="first", maintain_order=True)
    if repeats.height:
        cells = repeats.n_unique(cell)
        text = (
            f"{cells} cells hold {repeats.height} trials (same model, method, source, set and condition); "
            "the latest of each is used, and the others measure repeat noise."
        )
        notes.append(Limitation("duplicate trials", text))
    unlike = trials.filter(several & ~alike)
    if unlike.height:
        text = (
            f"{unlike.n_unique(cell)} cells hold {unlike.height} trials whose calibration sets differ in something "
            "that is not recorded; the latest of each is used, the others are in no number below."
        )
        notes.append(Limitation("unlike trials of a cell", text))
    return kept, repeats


def _metrics(results: CheckedResults, trials: pl.DataFrame, notes: list[Limitation]) -> pl.DataFrame:
    """The metrics of the trials, one row per key."""
    key = list(KEYS["metrics"])
    ids = trials.select("trial_id")
    rows = results.scan("metrics").collect(engine="in-memory").join(ids, on="trial_id", how="semi")
    distinct = rows.unique(key, keep="first", maintain_order=True).sort(key)
    if distinct.height < rows.height:
        text = f"{rows.height - distinct.height} rows of metrics/ occur twice; one of each is used."
        notes.append(Limitation("copied metrics", text))
    bare = ids.join(distinct, on="trial_id", how="anti").height
    if bare:
        notes.append(Limitation("no metrics", f"{bare} successful trials have no row in metrics/."))
    return distinct


def _samples_notes(
    results: CheckedResults, trials: pl.DataFrame, metrics: pl.DataFrame, notes: list[Limitation]
) -> None:
    """Trials that were evaluated and have nothing in samples/."""
    kinds = pl.col("kind").is_in(["task", "perplexity"])
    evaluated = trials.join(metrics.filter(kinds).select("trial_id").unique(), on="trial_id", how="semi")
    bare = evaluated.filter(~pl.col("trial_id").is_in(list(results.keys("samples"))))
    if bare.height:  # their rows may stand in a file of several trials
        kept = bare.select("trial_id").join(results.unnamed("samples", trials), on="trial_id", how="anti")
        bare = bare.join(kept, on="trial_id", how="semi").sort("model", "method_label", "source", "set", "trial_id")
    if bare.is_empty():
        return
    names = [
        " · ".join(str(value) for value in row if value is not None)
        for row in bare.select("model", "method_label", "source", "set").iter_rows()
    ]
    text = (
        f"{bare.height} of {evaluated.height} trials have nothing in samples/ ({listed(names)}); they are left out of "
        "variance components, flips, McNemar's test and what is said about new test examples."
    )
    notes.append(Limitation("no single examples", text))


def _unlike_notes(trials: pl.DataFrame, metrics: pl.DataFrame, notes: list[Limitation]) -> None:
    """Things that share a name and are not the same: tasks of other examples, models of other files."""
    kinds = metrics.filter(pl.col("kind").is_in(["task", "perplexity"])).drop_nulls(["n", "value"])
    named = kinds.join(trials.select("trial_id", "model"), on="trial_id")
    alike = ["model", "task", "metric"]  # tokenizers cut texts differently, and some metrics leave examples out
    sizes = named.group_by(alike).agg(pl.col("n").unique().sort()).filter(pl.col("n").list.len() > 1)
    first = sizes.sort(alike).unique(["model", "task"], keep="first", maintain_order=True)
    for model, task, counts in first.select("model", "task", "n").iter_rows():
        text = (
            f"{task} was evaluated with {model} on {' or '.join(map(str, counts))} examples; "
            "values of such trials are not alike."
        )
        notes.append(Limitation("several test sizes", text))
    models = trials.drop_nulls("model_id").group_by("model").agg(pl.col("model_id").unique().sort())
    for model, ids in models.filter(pl.col("model_id").list.len() > 1).sort("model").iter_rows():
        text = f"{model} stands for {len(ids)} models ({listed(ids)}); give them names of their own."
        notes.append(Limitation("several models of one name", text))


def listed(names: Sequence[str], most: int = 4) -> str:
    """`a, b, c, d and 3 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _finite(metrics: pl.DataFrame, trials: pl.DataFrame, notes: list[Limitation]) -> pl.DataFrame:
    """NaN, infinite and boundless values as null, and said so with the reasons that the trials recorded."""
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
    return metrics.with_columns(value, error)


def _design_notes(trials: pl.DataFrame, notes: list[Limitation]) -> None:
    """What the design itself cannot tell: no dense model, one set, holes in the grid, a change of machine."""
    dense = trials.filter(pl.col("method") == "dense")["model"].unique().to_list()
    for model in sorted(set(trials["model"].to_list()) - set(dense)):
        text = f"{model} has no dense trial, so nothing can be said relative to the uncompressed model."
        notes.append(Limitation("no dense trial", text))
    calibrated = trials.filter(pl.col("source").is_not_null())
    if calibrated.is_empty():
        notes.append(Limitation("no calibration", "No trial used calibration data, so there is no effect to estimate."))
        return
    per_cell = calibrated.group_by("model", "method_label", "source", "condition").len()
    lonely = per_cell.filter(pl.col("len") == 1).height
    if lonely == per_cell.height:
        text = (
            "Every source has one set only: the luck of the draw cannot be told from the effect of the source. "
            "Means are shown without spread; run at least three sets."
        )
        notes.append(Limitation("one set", text))
    elif lonely:
        notes.append(Limitation("one set", f"{lonely} of {per_cell.height} cells have one set and hence no spread."))
    if calibrated["source"].n_unique() == 1:
        notes.append(Limitation("one source", "There is one source, so sources cannot be compared."))
    for (condition,), part in calibrated.group_by("condition", maintain_order=True):
        factors = ["model", "method_label", "source", "set"]
        full = 1
        for factor in factors:
            full *= part[factor].n_unique()
        if part.height < full:
            holes = full - part.height
            text = f"{holes} of {full} cells of the grid ({condition}) have no result; n is stated everywhere."
            notes.append(Limitation("unfinished", text))
    for column, what in (("device", "devices"), ("commit", "commits"), ("dtype", "dtypes")):
        kinds = trials[column].drop_nulls().unique().sort().to_list()
        if len(kinds) > 1:
            named = ", ".join(map(str, kinds[:4]))
            text = f"Trials ran with several {what} ({named}); small differences may come from that."
            notes.append(Limitation(f"several {what}", text))
    fallbacks = trials.filter(pl.col("fallbacks") > 0)
    if fallbacks.height:
        text = f"{fallbacks.height} trials used a recorded numerical fallback ({fallbacks['fallbacks'].sum()} linears)."
        notes.append(Limitation("numerical fallbacks", text))


def _polars_type(kind: pa.DataType) -> pl.DataType:
    """What Polars makes of an Arrow type: plain, large and view strings are one to it."""
    return pl.Series(pa.array([], kind)).dtype

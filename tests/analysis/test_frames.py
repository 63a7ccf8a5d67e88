"""Bad and unfinished results: a clear message, or a limitation that the report shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.cells import size_table, source_table
from analysis.evidence import Evidence
from analysis.frames import Study, load
from analysis.measures import MEAN
from analysis.report import build
from analysis.simulate import Design, SimulatedMethod, simulate_study
from analysis.trials import with_conditions
from analysis.variance import repeat_table
from sweep.results import SCHEMA_VERSION, Results, ResultsError


@pytest.fixture
def folder(simulated: Path, tmp_path: Path) -> Path:
    """A copy of the simulated results that a test may spoil."""
    return Path(shutil.copytree(simulated, tmp_path / "results"))


def change(
    folder: Path, table: str, where: Callable[[pl.DataFrame], bool], edit: Callable[[pl.DataFrame], pl.DataFrame]
) -> int:
    """Rewrite the files of a table whose frame satisfies `where`; gives how many there were."""
    count = 0
    for path in sorted((folder / table).glob("*.parquet")):
        frame = pl.read_parquet(path)
        if where(frame):
            edit(frame).write_parquet(path)
            count += 1
    return count


def subjects(study: Study) -> set[str]:
    return {note.subject for note in study.limitations}


def text_of(study: Study, subject: str) -> str:
    return " ".join(note.text for note in study.limitations if note.subject == subject)


def test_complete_results_have_no_limitation(simulated: Path) -> None:
    study = load(str(simulated))
    assert study.limitations == ()
    assert study.trials.height == 2 * (1 + 2 + 4 * 3 * 3 * 2)
    assert study.condition == "16×256 windows"


def test_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no trials; run `python -m sweep.launch"):
        load(str(tmp_path))


def test_only_failed_trials_raise_with_the_first_error(folder: Path) -> None:
    failed = (pl.lit("failed").alias("status"), pl.lit("out of memory").alias("error"))
    change(folder, "trials", lambda f: True, lambda f: f.with_columns(*failed))
    with pytest.raises(ResultsError, match=r"all .* trials failed; the first one says: out of memory"):
        load(str(folder))


def test_failed_trials_are_counted_and_left_out(folder: Path) -> None:
    def chosen(frame: pl.DataFrame) -> bool:
        return frame.item(0, "source") == "code" and frame.item(0, "set") == 1

    failed = (pl.lit("failed").alias("status"), pl.lit("block 1: not positive definite").alias("error"))
    count = change(folder, "trials", chosen, lambda f: f.with_columns(*failed))
    study = load(str(folder))
    assert study.failed.height == count > 0
    assert f"{count} trials failed" in text_of(study, "failed trials")
    assert not set(study.failed["trial_id"]) & set(study.values["trial_id"])
    assert "unfinished" in subjects(study)


def test_half_finished_study_counts_its_missing_cells(folder: Path) -> None:
    removed = 0
    for path in sorted((folder / "trials").glob("*.parquet")):
        row = pl.read_parquet(path).row(0, named=True)
        if row["method"] == "wanda" and row["set"] == 2 and row["nsamples"] == 16:
            path.unlink()
            removed += 1
    study = load(str(folder))
    assert f"{removed} of 72 cells of the grid" in text_of(study, "unfinished")


def test_one_set_says_what_cannot_be_said(folder: Path) -> None:
    for path in sorted((folder / "trials").glob("*.parquet")):
        if (pl.read_parquet(path).item(0, "set") or 0) > 0:
            path.unlink()
    assert "cannot be told from the effect of the source" in text_of(load(str(folder)), "one set")


def test_missing_dense_trial_is_said_and_leaves_nothing_relative(folder: Path) -> None:
    for path in sorted((folder / "trials").glob("*.parquet")):
        row = pl.read_parquet(path).row(0, named=True)
        if row["method"] == "dense" and row["model"] == "small":
            path.unlink()
    study = load(str(folder))
    assert text_of(study, "no dense trial").startswith("small has no dense trial")
    relative = study.values.filter(pl.col("measure") == "perplexity_increase")
    assert set(relative["model"]) == {"large"}


def test_newer_schema_is_left_out_and_older_is_kept_and_both_are_said(folder: Path) -> None:
    newer = pl.lit(SCHEMA_VERSION + 1, pl.Int32).alias("schema_version")
    older = pl.lit(SCHEMA_VERSION - 1, pl.Int32).alias("schema_version")
    left_out = change(folder, "trials", lambda f: f.item(0, "source") == "code", lambda f: f.with_columns(newer))
    kept = change(folder, "trials", lambda f: f.item(0, "source") == "legal", lambda f: f.with_columns(older))
    study = load(str(folder))
    text = text_of(study, "mixed schema versions")
    assert f"{left_out} trials have a newer schema" in text
    known = study.trials.height
    assert f"{kept} of {known} trials were written by an older version" in text
    assert "calibration error are of the others" in text
    assert set(study.trials["source"].drop_nulls()) == {"books", "legal"}


def test_a_folder_of_an_older_version_alone_is_not_called_mixed(folder: Path) -> None:
    older = pl.lit(SCHEMA_VERSION - 1, pl.Int32).alias("schema_version")
    change(folder, "trials", lambda f: True, lambda f: f.with_columns(older))
    study = load(str(folder))
    assert text_of(study, "older version").startswith("All trials were written by an older version")
    assert "mixed schema versions" not in {note.subject for note in study.limitations}


def test_results_of_a_newer_version_alone_are_refused(folder: Path) -> None:
    newer = pl.lit(SCHEMA_VERSION + 1, pl.Int32).alias("schema_version")
    change(folder, "trials", lambda f: True, lambda f: f.with_columns(newer))
    with pytest.raises(ResultsError, match=r"newer version .* update this package"):
        load(str(folder))


def test_copied_files_count_once(folder: Path) -> None:
    before = load(str(folder))
    first = min((folder / "trials").glob("*.parquet"))
    for table in ("trials", "metrics"):
        shutil.copy(folder / table / first.name, folder / table / "copy.parquet")
    study = load(str(folder))
    assert {"copied trials", "copied metrics"} <= subjects(study)
    assert study.values.equals(before.values)


def test_two_trials_of_one_cell_use_the_latest_and_are_said(folder: Path) -> None:
    study = load(str(folder))
    original = study.trials.filter(pl.col("method") == "wanda").row(0, named=True)
    for table in ("trials", "metrics", "samples", "layers"):
        frame = pl.read_parquet(folder / table / f"{original['trial_id']}.parquet")
        if table == "trials":
            frame = frame.with_columns(pl.col("started") + pl.duration(days=1))
        frame.with_columns(pl.lit("again").alias("trial_id")).write_parquet(folder / table / "again.parquet")
    again = load(str(folder))
    assert "duplicate trials" in subjects(again)
    assert "again" in set(again.trials["trial_id"])
    assert original["trial_id"] not in set(again.trials["trial_id"])
    assert again.repeats.height == 2


SMALL = Design(
    models={"one": 10**6},
    methods=(SimulatedMethod("wanda", "Wanda 50%", sparsity=0.5),),
    sources=("books", "code"),
    heldout=("books",),
    sets=3,
    tasks={"lambada": 40},
    windows=6,
    blocks=1,
)


def test_trials_that_differ_in_the_separator_are_conditions_and_not_repeats(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), replace(SMALL, separators=("eos", "none")))
    study = load(str(tmp_path))
    assert study.trials.height == 1 + 2 * 2 * 3
    assert study.limitations == ()
    assert study.repeats.is_empty()
    assert repeat_table(study).is_empty()
    assert set(study.trials["condition"].drop_nulls()) == {
        "16×256 windows, separator eos",
        "16×256 windows, no separator",
    }
    assert study.condition == "16×256 windows, separator eos"  # as many trials of both: the usual one
    assert study.calibrated["trial_id"].n_unique() == 2 * 3
    assert size_table(study)["n"].to_list() == [3, 3, 3, 3]
    (section,) = (section for section in build(Evidence(study), str(tmp_path)) if section.id == "sizes")
    assert "16×256 windows, separator eos (6 trials)" in section.text[0]


def test_trials_with_and_without_bos_are_conditions(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), SMALL)
    with_bos = pl.lit(True).alias("add_bos")
    change(tmp_path, "trials", lambda f: f.item(0, "source") == "code", lambda f: f.with_columns(with_bos))
    conditions = load(str(tmp_path)).trials.drop_nulls("source").select("source", "condition").unique()
    assert dict(conditions.iter_rows()) == {"books": "16×256 windows, without BOS", "code": "16×256 windows, with BOS"}


def test_sets_of_several_calibration_seeds_are_different_draws(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), replace(SMALL, calibration_seeds=(0, 7)))
    study = load(str(tmp_path))
    assert study.repeats.is_empty()
    assert subjects(study) == {"several calibration seeds"}
    assert "sets 0 to 2 are seed 0, 3 to 5 are seed 7" in text_of(study, "several calibration seeds")
    drawn = study.trials.drop_nulls("source").select("source", "set", "calibration_seed").sort("source", "set")
    assert drawn["set"].to_list() == [*range(6), *range(6)]
    assert drawn["calibration_seed"].to_list() == [0, 0, 0, 7, 7, 7] * 2
    assert source_table(study).drop_nulls("source")["n"].to_list() == [6, 6]


def test_trials_of_an_older_version_are_taken_as_all_others_and_said(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), SMALL)
    columns = ["separator", "add_bos", "calibration_seed", "planned_nsamples"]
    older = change(tmp_path, "trials", lambda f: f.item(0, "source") == "code", lambda f: f.drop(columns))
    study = load(str(tmp_path))
    assert set(study.trials["condition"].drop_nulls()) == {"16×256 windows"}
    assert f"{older} trials do not state their separator and are taken to have 'eos'" in text_of(study, "older trials")
    change(tmp_path, "trials", lambda f: True, lambda f: f.drop(columns, strict=False))
    assert load(str(tmp_path)).limitations == ()


def test_factors_that_older_trials_lack_come_from_their_calibration_sets(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), replace(SMALL, separators=("eos", "none"), calibration_seeds=(0, 7)))
    columns = ["separator", "add_bos", "calibration_seed"]
    told = load(str(tmp_path)).trials.select("trial_id", "set", "condition", *columns)
    for row in load(str(tmp_path)).trials.drop_nulls("source").iter_rows(named=True):
        spec = {
            "separator": row["separator"],
            "add_bos": row["add_bos"],
            "seed": row["calibration_seed"],
            "nsamples": 16,
        }
        key = row["calibration_id"]
        Results(tmp_path).write_table(
            "calibration", key, [{"calibration_id": key, "window": 0, "spec": json.dumps(spec)}]
        )
    change(tmp_path, "trials", lambda f: True, lambda f: f.drop(columns, "planned_nsamples"))
    study = load(str(tmp_path))
    assert study.trials.select(told.columns).equals(told)
    assert subjects(study) == {"several calibration seeds"}


def test_older_trials_of_unlike_calibration_sets_are_no_repeats(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), replace(SMALL, separators=("eos", "none")))
    columns = ["separator", "add_bos", "calibration_seed", "planned_nsamples"]
    change(tmp_path, "trials", lambda f: True, lambda f: f.drop(columns))
    study = load(str(tmp_path))
    assert study.repeats.is_empty()
    assert "6 cells hold 12 trials whose calibration sets differ" in text_of(study, "unlike trials of a cell")


def test_older_trials_stand_apart_where_several_separators_are_known(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), replace(SMALL, separators=("eos", "none"), calibration_seeds=(0, 7)))
    columns = ["separator", "add_bos", "calibration_seed", "planned_nsamples"]
    change(tmp_path, "trials", lambda f: f.item(0, "set") == 2, lambda f: f.drop(columns))
    study = load(str(tmp_path))
    conditions = study.trials.drop_nulls("source").group_by("condition").len().sort("condition")
    assert conditions["condition"].to_list() == [
        "16×256 windows, no separator",
        "16×256 windows, separator eos",
        "16×256 windows, unknown separator",
    ]
    assert "stand apart from those with 'eos', 'none'" in text_of(study, "older trials")
    assert "6 to 8 are seed unknown" in text_of(study, "several calibration seeds")


def test_every_window_of_a_source_is_one_condition_however_many_it_has(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), SMALL)
    change(
        tmp_path,
        "trials",
        lambda f: f.item(0, "source") is not None,
        lambda f: f.with_columns(
            pl.lit(None, pl.Int32).alias("planned_nsamples"),
            pl.lit(130 if f.item(0, "source") == "code" else 90, pl.Int32).alias("nsamples"),
        ),
    )
    study = load(str(tmp_path))
    assert study.condition == "all×256 windows"
    assert study.calibrated["trial_id"].n_unique() == 6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_unusable_metrics_empty_the_mean_and_are_said(folder: Path, bad: float | None) -> None:
    chosen = load(str(folder)).trials.filter(pl.col("method") == "wanda").item(0, "trial_id")
    worse = pl.when(pl.col("task") == "piqa").then(pl.lit(bad, pl.Float64)).otherwise("value").alias("value")
    change(folder, "metrics", lambda f: f.item(0, "trial_id") == chosen, lambda f: f.with_columns(worse))
    study = load(str(folder))
    assert {"unusable values", "incomplete means"} <= subjects(study)
    mean = study.values.filter(trial_id=chosen, measure="accuracy", task=MEAN)
    assert mean["value"].to_list() == [None]


def test_foreign_and_broken_files_are_set_aside_and_named(folder: Path) -> None:
    before = load(str(folder))
    pl.DataFrame({"customer": [1, 2]}).write_parquet(folder / "trials" / "customers.parquet")
    pl.DataFrame({"trial_id": ["x"], "task": ["t"], "metric": [3]}).write_parquet(folder / "metrics" / "odd.parquet")
    (folder / "samples" / "torn.parquet").write_bytes(b"PAR1 and then the disk was full")
    study = load(str(folder))
    text = text_of(study, "foreign file")
    assert "trials/customers.parquet was set aside: no column trial_id" in text
    assert "metrics/odd.parquet was set aside: column metric is int64" in text
    assert "samples/torn.parquet was set aside: not a whole Parquet file" in text
    assert study.values.equals(before.values)


def test_a_study_file_that_is_no_yaml_is_said(folder: Path) -> None:
    assert load(str(folder)).heldout_seqlen == 256
    (folder / "study.yaml").write_text("evaluation: [heldout_seqlen: 96")
    study = load(str(folder))
    assert study.heldout_seqlen is None
    assert "length of windows is not known" in text_of(study, "study file")


def test_one_label_for_two_settings_is_told_apart(folder: Path) -> None:
    def first_sets(frame: pl.DataFrame) -> bool:
        return frame.item(0, "method") == "wanda" and frame.item(0, "set") == 0

    other = pl.lit('{"bits": null, "sparsity": 0.5, "percdamp": 0.1}').alias("settings")
    change(folder, "trials", first_sets, lambda f: f.with_columns(other))
    labels = set(load(str(folder)).trials.filter(pl.col("method") == "wanda")["method_label"])
    assert labels == {"Wanda 50% (percdamp=0.1)", "Wanda 50% (percdamp=None)"}


def test_fallbacks_and_mixed_devices_are_said(folder: Path) -> None:
    changed = (pl.lit(2, pl.Int64).alias("fallbacks"), pl.lit("another GPU").alias("device"))
    count = change(folder, "trials", lambda f: f.item(0, "source") == "code", lambda f: f.with_columns(*changed))
    study = load(str(folder))
    assert text_of(study, "numerical fallbacks").startswith(f"{count} trials used")
    assert "another GPU" in text_of(study, "several devices")


def test_names_that_stand_for_different_things_are_said(folder: Path) -> None:
    fewer = pl.when(pl.col("task") == "piqa").then(30).otherwise("n").cast(pl.Int64).alias("n")
    other = (pl.col("model") + "@other").alias("model_id")
    chosen = load(str(folder)).trials.filter(model="small", method="wanda")["trial_id"].to_list()
    change(folder, "metrics", lambda f: f.item(0, "trial_id") in chosen, lambda f: f.with_columns(fewer))
    change(folder, "trials", lambda f: f.item(0, "trial_id") in chosen, lambda f: f.with_columns(other))
    study = load(str(folder))
    assert subjects(study) == {"several test sizes", "several models of one name"}
    assert text_of(study, "several test sizes").startswith("piqa was evaluated with small on 30 or 60 examples")
    assert "small stands for 2 models (small, small@other)" in text_of(study, "several models of one name")


def test_metrics_of_a_task_may_have_examples_of_their_own(folder: Path) -> None:
    """An example may have no answer to compare, or a metric of its own may leave it out: the same in every trial."""
    other = (pl.lit("acc_norm").alias("metric"), (pl.col("n") // 2).alias("n"))
    both = change(folder, "metrics", lambda f: True, lambda f: pl.concat([f, f.with_columns(*other)]))
    assert both > 0
    assert "several test sizes" not in subjects(load(str(folder)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"separator": "none"}, "16×256 windows, separator eos"),
        ({"sampling": "document_start"}, "16×256 windows"),
        ({"add_bos": True}, "16×256 windows, without BOS"),
        ({"distinct": 4}, "16×256 windows, all different"),
        ({"exclude_overlap": 8}, "16×256 windows, overlap kept"),
        ({"seqlen": 1024}, "16×1024 windows"),
        ({"nsamples": 128, "separator": "none"}, "128×256 windows, no separator"),
    ],
)
def test_of_conditions_with_as_many_trials_the_usual_one_is_the_main_one(
    simulated: Path, changes: dict[str, object], expected: str
) -> None:
    study = load(str(simulated))
    plain = study.trials.filter(nsamples=16).drop("condition")
    casts = [pl.lit(value).cast(plain.schema[name]).alias(name) for name, value in changes.items()]
    both = with_conditions(pl.concat([plain, plain.with_columns(casts)]))
    assert replace(study, trials=both).condition == expected

"""What of a results folder is damaged: files that were lost, cut off or overwritten since their trials committed.

A committed row says that its trial is finished, so a lost file of another table would stay lost for ever. A launch
therefore compares what the rows say with one listing of each table; trials with damaged files are named, lose their
row, and are made again. The hard case is a damaged row itself, which no reader of the whole table survives: it is found
by opening the files one by one, and only then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from calib.settings import SettingsError, shown
from sweep.descriptor import chosen
from sweep.plan import Trial
from sweep.runs.description import described
from sweep.storage.packs import number_of
from sweep.storage.schemas import DETAILS, KEYS
from sweep.storage.store import ResultsError, stem
from sweep.storage.tables import Results

SHOWN = 5  # damaged files that are named
LOOKED = 200  # sets, about, whose descriptors are looked at before those of all


@dataclass(frozen=True)
class Damage:
    """One file that is not what was written. `reason` completes "trials/1f.parquet ..."."""

    file: str  # relative to the results folder
    reason: str
    trial_id: str | None  # None for a packed file of many trials


def read_trials(store: Results, planned: Collection[str]) -> tuple[pl.DataFrame, list[Damage]]:
    """The sound rows of `trials/`, and what is damaged: packed files, and of the trials `planned` their rows, or files
    of those `ok`.

    Trials with a damaged file have no row here. Raises SettingsError for a file in `trials/` that cannot be read and
    belongs to no planned trial, since it would not be made again; OSError when the folder cannot be read at all.
    """
    packed = list(_damaged_packs(store))
    rows, damages = _sound_rows(store, packed)
    for damage in damages:
        if damage.trial_id is not None and damage.trial_id not in planned:
            raise SettingsError(
                f"--results {store.root}: {damage.file} {damage.reason}, and belongs to no trial of this study; delete "
                "it, or choose another folder"
            )
    without = _paths(store, packed)
    lost = _damaged_details(store, rows.filter(pl.col("trial_id").is_in(list(planned))), without)
    damages = packed + damages + lost
    return rows.filter(~pl.col("trial_id").is_in([d.trial_id for d in damages if d.trial_id])), damages


def take_back(store: Results, damages: Iterable[Damage]) -> None:
    """Remove the rows of damaged trials, so that they count as missing; packed files that are damaged are set aside."""
    trials, packed = set(), []
    for damage in damages:
        if damage.trial_id is None:
            packed.append(damage)
        else:
            trials.add(damage.trial_id)
    named = {damage.file for damage in packed}
    numbers = {number_of(file) for file in named} - {0}
    for table in ("trials", *DETAILS):
        for path in store.packed_files(table):
            # what the other tables packed at the same time is of the same trials
            if number_of(path) in numbers or path.removeprefix(f"{store.path}/") in named:
                store.put_aside(path)
    if trials:
        store.remove_trials(trials)


def told(store: Results, damages: Sequence[Damage]) -> list[str]:
    """A line for each damaged file, and one for those beyond the first few."""
    lines = []
    for damage in damages[:SHOWN]:
        again = "its trials are" if damage.trial_id is None else "the trial is"
        lines.append(f"{store.root}/{damage.file} {damage.reason}; {again} made again")
    more = len(damages) - len(lines)
    return lines + [f"{more} more files there are damaged; their trials are made again"] * bool(more)


def lost_sets(store: Results, rows: pl.DataFrame, trials: Sequence[Trial] = ()) -> set[str]:
    """Ids of calibration sets that finished trials were made with and that lack their file, or what describes them:
    trials do not wait for this, and may ask for more of it than when they were run."""
    used = rows.filter((pl.col("status") == "ok") & pl.col("calibration_id").is_not_null())
    ids = set(used.get_column("calibration_id").to_list())
    _delete_damaged(store, ids)
    lost = ids - (store.keys("calibration") & store.keys("overlap"))
    few = set(sorted(ids)[:: max(1, len(ids) // LOOKED)])  # a study asks for the same of all its sets
    asking = _asking(store, few, trials)
    return lost | (_asking(store, ids, trials) if asking and few != ids else asking)


def _delete_damaged(store: Results, ids: Collection[str]) -> None:
    """Delete files of these sets that end too early or hold something else, of a folder on a disk: elsewhere each would
    be a question of its own, and an object is there whole or not at all."""
    if store.is_local:
        for table in ("calibration", "overlap"):
            own = [path for path in store.own_files(table) if stem(path) in ids]
            store.delete_files([path for path in own if not _ends_well(store, table, path)])


def _ends_well(store: Results, table: str, path: str) -> bool:
    """Whether the end of a file, which is written last, tells of rows of the table; a disk that fails tells nothing."""
    try:
        end = pq.read_metadata(path, filesystem=store.filesystem)
    except (OSError, pa.ArrowException) as error:
        return getattr(error, "errno", None) is not None
    return end.num_rows > 0 and set(KEYS[table]) <= set(end.schema.names)


def _asking(store: Results, ids: Collection[str], trials: Sequence[Trial]) -> set[str]:
    """Sets, of these, that lack a descriptor that a trial's study asks for."""
    using = [trial for trial in trials if trial.calibration_id in ids]
    there = _sound_descriptors(store, ids) if using else {}
    return {trial.calibration_id or "" for trial in using if _undescribed(trial, there)}


def _sound_descriptors(store: Results, ids: Collection[str]) -> dict[tuple[str, str], set[str]]:
    """Descriptors of these sets. Damaged files of the table go, since what they held is made again."""
    try:
        return described(store, ids)
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException):
        store.delete_files(
            [path for path in store.own_files("descriptors") if why_unreadable(store, "descriptors", path)]
        )
    return described(store, ids)


def _undescribed(trial: Trial, there: Mapping[tuple[str, str], set[str]]) -> bool:
    """Whether a descriptor that the study asks for is missing of the trial's set."""
    free, asking = chosen(trial.evaluation.descriptors)
    had, had_asking = (there.get((trial.calibration_id or "", model), set()) for model in ("", trial.model.name))
    return not (had.issuperset(free) and had_asking.issuperset(asking))


def _paths(store: Results, damages: Iterable[Damage]) -> set[str]:
    return {f"{store.path}/{damage.file}" for damage in damages}


def _damaged_packs(store: Results) -> Iterator[Damage]:
    for table in ("trials", *DETAILS):
        for path in store.packed_files(table):
            if reason := store.pack_fault(table, path):
                yield Damage(path.removeprefix(f"{store.path}/"), reason, None)


def _sound_rows(store: Results, packed: list[Damage]) -> tuple[pl.DataFrame, list[Damage]]:
    """The rows of all whole files of `trials/`, and the damage beyond `packed`."""
    without = _paths(store, packed)
    unread: str | None = None
    try:
        rows = store.read("trials", without)
        sound = set(rows.get_column("trial_id")) == set(store.sizes("trials", without))
        if sound and not any(_unsound(row) for row in _stated(rows)):
            return rows, []
    except ResultsError as error:  # a key twice: foreign files
        unread = str(error)
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        unread = str(error).splitlines()[0]
    damages = list(_damaged_rows(store, without))
    if unread and not damages:
        raise OSError(unread)
    return store.read("trials", without | _paths(store, damages)), damages


def _damaged_rows(store: Results, without: Collection[str]) -> Iterator[Damage]:
    for path in store.own_files("trials"):
        reason, trial_id = why_unreadable(store, "trials", path), stem(path)
        if reason is None:
            rows = store.read_file("trials", path)
            reason = "holds the row of another trial" if rows.get_column("trial_id").to_list() != [trial_id] else None
            reason = reason or _unsound(_stated(rows)[0])
        if reason:
            yield Damage(f"trials/{trial_id}.parquet", reason, trial_id)
    for path in store.packed_files("trials"):
        if path not in without and (reason := _why_unsound(store, path)):
            yield Damage(path.removeprefix(f"{store.path}/"), reason, None)


def _why_unsound(store: Results, path: str) -> str | None:
    """What is wrong with the rows of a packed file, None when nothing is."""
    if reason := why_unreadable(store, "trials", path):
        return reason
    rows = store.read_file("trials", path)
    if set(rows.get_column("trial_id")) != store.index(path).keys():
        return "holds other trials than it lists"
    return next((reason for row in _stated(rows) if (reason := _unsound(row))), None)


def _stated(rows: pl.DataFrame) -> list[tuple[str | None, ...]]:
    return rows.select("study", "status", "files").rows()


def _unsound(stated: tuple[str | None, ...]) -> str | None:
    """What keeps a row from saying whose it is, how it ended and what else was written; None when nothing does."""
    study, status, files = stated
    if study is None or status not in ("ok", "failed"):
        return "names no study" if study is None else f"has the status {shown(status)}"
    try:
        sizes = json.loads(files) if files else {}
    except (ValueError, RecursionError):
        sizes = None
    if not isinstance(sizes, dict) or not all(type(size) is int for size in sizes.values()):
        return f"has a broken list of files ({shown(files)})"
    return None


def why_unreadable(store: Results, table: str, path: str) -> str | None:
    """What keeps a file from being read as one of `table`, None when nothing does."""
    try:
        schema = pq.read_schema(path, filesystem=store.filesystem)
        if missing := [key for key in KEYS[table] if key not in schema.names]:
            return f"has no column {missing[0]}"
        if store.read_file(table, path).is_empty():
            return "is empty"
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        return f"cannot be read ({str(error).splitlines()[0][:120]})"
    return None


def _damaged_details(store: Results, rows: pl.DataFrame, without: Collection[str]) -> list[Damage]:
    there = {table: store.sizes(table, without) for table in DETAILS}
    damages = []
    for trial_id, files in rows.filter(pl.col("status") == "ok").select("trial_id", "files").iter_rows():
        wanted = json.loads(files) if files else dict.fromkeys(DETAILS)  # rows of earlier versions: any size will do
        for table, size in wanted.items():
            found = there.get(table, {}).get(trial_id)
            if found is None:
                damages.append(Damage(f"{table}/{trial_id}.parquet", "is lost", trial_id))
            elif size is not None and found != size:
                reason = f"has {found:,} bytes instead of {size:,}"
                damages.append(Damage(f"{table}/{trial_id}.parquet", reason, trial_id))
    return damages

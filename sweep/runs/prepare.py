"""What trials share, made once: calibration sets and tokenized requests.

Plain functions that run in a loop or as Ray tasks. Both give back numpy and plain Python, which every worker can read.
Trials wait for these two alone: tables that describe the sets are made beside them. The hard case is data that changed
under its name since an earlier run (a source, a task's data set, a branch of a hub model): what is made now must be
what the trials in the results folder were made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from calib.build import CalibrationSet, build_sets
from calib.settings import SettingsError, identity
from calib.spec import CalibrationSpec, marks_in, set_hash
from sweep.descriptor import chosen
from sweep.evaluation.questions.largest import LargestId, largest_ids
from sweep.evaluation.suite import EvaluationData, build_evaluation, refuse_generation
from sweep.features.measure import ModelMeasure
from sweep.generation.writer import ModelWriter
from sweep.models import ModelRef, at_commit, context_length, hub_commit, load_tokenizer
from sweep.plan import Pool, Trial
from sweep.results import Results
from sweep.runs.asked_model import dense_of, own_text, release
from sweep.runs.contamination import asked_texts, evaluated, overlap_rows
from sweep.runs.description import Asking, asked_rows, described, descriptor_rows, write_descriptors
from sweep.runs.folder import check_commit, check_requests
from sweep.runs.repair import why_unreadable
from sweep.runs.vocabulary import largest_in_sets
from sweep.storage.patience import WRITE_PATIENCE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_calibration_sets(
    pool: Pool, results: str, device: str = "cpu", data: EvaluationData | None = None
) -> list[CalibrationSet]:
    """`build_pool`, and what `describe_pool` says of its sets beside the evaluation `data`."""
    sets = build_pool(pool, results, device, data)
    if data is not None:
        describe_pool(pool, results, device, data, *sets)
    return sets


def build_pool(
    pool: Pool, results: str, device: str = "cpu", data: EvaluationData | None = None
) -> list[CalibrationSet]:
    """Build the sets of a pool, in its order, and write them to `calibration/`.

    `data` is the evaluation, whose texts some sources leave out. A model writes text and is asked for windows once, on
    `device`: where all sets are stored already, they are read. Raises SettingsError when the source holds too little
    text, or other text than when the stored sets were built, and when the tokenizer is one of another commit.
    """
    store = Results(results, WRITE_PATIENCE)
    commit = hub_commit(pool.model)
    check_commit(store, pool.model, commit)
    model = at_commit(pool.model, commit)
    there = store.keys("calibration").issuperset(pool.ids)
    sets = _stored_sets(store, pool) if pool.asks_model and there else None
    if sets is None:
        tokenizer = load_tokenizer(model)
        writer = ModelWriter(model, device) if pool.writes else None
        asked = asked_texts(data, tokenizer) if data is not None and pool.excludes else None
        measure = ModelMeasure(dense_of(model, device).model) if pool.measures else None
        tokenizer_id, model_id = pool.model.tokenizer_id, pool.model_id
        sets = build_sets(list(pool.specs), tokenizer, tokenizer_id, measure, writer, asked, model_id)
        _store_sets(store, sets)
    return sets


def describe_pool(pool: Pool, results: str, device: str, data: EvaluationData, *sets: CalibrationSet) -> None:
    """Write what describes the sets of a pool and what they share with the evaluation, each once for a set.

    The file in `overlap/` comes last: a set that has one is described.
    """
    store = Results(results, WRITE_PATIENCE)
    tokenizer = load_tokenizer(at_commit(pool.model, hub_commit(pool.model)))
    _describe(store, sets, data, len(tokenizer))
    for describer in pool.describers:
        _ask(store, pool, describer, sets, data, device)
    release(small=False)
    _compare(store, sets, data, tokenizer)


def _store_sets(store: Results, sets: Sequence[CalibrationSet]) -> None:
    known = store.keys("calibration")
    for calibration in sets:
        if calibration.id in known:
            _check_stored(store, calibration)
        else:
            store.write_table("calibration", calibration.id, calibration.rows())


def _describe(store: Results, sets: Sequence[CalibrationSet], data: EvaluationData, vocabulary: int) -> None:
    """Write what describes the sets, as far as it is missing."""
    there = described(store, {calibration.id for calibration in sets})
    names, _ = chosen(data.settings.descriptors)
    targets = {text.label: text.tokens for text in data.heldout}
    for calibration in sets:
        if missing := [name for name in names if name not in there[calibration.id, ""]]:
            rows = list(descriptor_rows(calibration, missing, vocabulary, targets))
            write_descriptors(store, calibration.id, calibration, "", missing, rows)


def _compare(
    store: Results, sets: Sequence[CalibrationSet], data: EvaluationData, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write what the sets share with the evaluation, for those without such a file."""
    compared = store.keys("overlap")
    if new := [calibration for calibration in sets if calibration.id not in compared]:
        known = evaluated(data, tokenizer)
        for calibration in new:
            store.write_table("overlap", calibration.id, overlap_rows(calibration, known))


def _ask(
    store: Results, pool: Pool, describer: ModelRef, sets: Sequence[CalibrationSet], data: EvaluationData, device: str
) -> None:
    """Write what the sets are to a model, as far as it is missing; the model is loaded where something is."""
    _, names = chosen(data.settings.descriptors)
    there = described(store, {calibration.id for calibration in sets})
    new = [
        (calibration, missing)
        for calibration in sets
        if (missing := [name for name in names if name not in there[calibration.id, describer.name]])
    ]
    if not new:
        return
    targets = {text.label: text.tokens for text in data.heldout}
    model = at_commit(describer, hub_commit(describer))
    own = own_text(model, device, data.settings.heldout_seqlen) if "own_distance" in names else None
    for calibration, missing in new:
        given = Asking(describer.name, dense_of(model, device), missing, targets, pool.methods, own)
        rows = list(asked_rows(calibration, given))
        key = f"{calibration.id}-{identity(describer.fingerprint, 8)}"
        write_descriptors(store, key, calibration, describer.name, missing, rows)


def make_requests(trial: Trial, results: str, seqlens: Sequence[int] = ()) -> EvaluationData:
    """Tokenized task requests and held-out windows for the trial's model.

    `seqlens` are the lengths of the calibration windows that this model will see. Raises SettingsError when a window is
    longer than the model's context (of hub models known only now), a data set cannot be reached, or the trials in the
    results folder were made from other requests or another commit of the model.
    """
    store = Results(results, WRITE_PATIENCE)
    model, commit, length = _reader(trial, store, seqlens)
    tokenizer = load_tokenizer(model)
    data = build_evaluation(trial.evaluation, tokenizer, length)
    made_from = identity([trial.evaluation_id, model.tokenizer_id, length])
    largest = largest_ids(data.tasks, data.heldout, tokenizer)
    data = replace(data, requests_id=made_from, model_commit=commit, largest_ids=largest)
    if model.placement == "streamed":
        refuse_generation(data, model.name)
    check_requests(store, data)
    return data


def check_reader(trial: Trial, results: str, seqlens: Sequence[int]) -> None:
    """What `make_requests` finds wrong with the model, where its requests are there already. Raises SettingsError."""
    _reader(trial, Results(results, WRITE_PATIENCE), seqlens)


def _reader(trial: Trial, store: Results, seqlens: Sequence[int]) -> tuple[ModelRef, str | None, int]:
    """The trial's model at its commit, the commit, and the context, which no window may exceed."""
    commit = hub_commit(trial.model)
    check_commit(store, trial.model, commit)
    model = at_commit(trial.model, commit)
    length = context_length(model)
    for seqlen in seqlens:
        if seqlen > length:
            raise SettingsError(
                f"calibration.seqlen: {seqlen} is longer than the context of {model.name} ({length} tokens); "
                f"choose at most {length}"
            )
    return model, commit, length


def sets_and_receipt(
    pool: Pool, results: str, device: str = "cpu", data: EvaluationData | None = None
) -> tuple[Any, ...]:
    """The largest ids, so that a driver can wait without fetching tokens, and then the sets one by one."""
    sets = build_pool(pool, results, device, data)
    release(small=False)
    return (largest_in_sets(sets), *sets)


def make_on_device(pool: Pool, results: str, device: str, data: EvaluationData | None = None) -> None:
    """Have a model write or choose the sets of a pool, which are in the results folder then."""
    build_pool(pool, results, device, data)
    release(small=False)


def made_sets_and_receipt(_made: None, pool: Pool, results: str, data: EvaluationData | None = None) -> tuple[Any, ...]:
    """`sets_and_receipt` of a pool that `make_on_device` has made: they are read, on any machine, also when lost."""
    return sets_and_receipt(pool, results, "cpu", data)


def requests_and_receipt(trial: Trial, results: str, seqlens: Sequence[int]) -> tuple[Sequence[LargestId], Any]:
    """The largest ids, and the requests."""
    data = make_requests(trial, results, seqlens)
    return data.largest_ids, data


def _stored_sets(store: Results, pool: Pool) -> list[CalibrationSet] | None:
    """The sets of a pool as they are stored; None when a file of one cannot be read, or holds other tokens."""
    paths = [f"{store.path}/calibration/{set_id}.parquet" for set_id in pool.ids]
    if any(why_unreadable(store, "calibration", path) for path in paths):
        return None
    sets = [_as_set(store.read_file("calibration", path), spec) for path, spec in zip(paths, pool.specs, strict=True)]
    return None if None in sets else [found for found in sets if found is not None]


def _as_set(stored: pl.DataFrame, spec: CalibrationSpec) -> CalibrationSet | None:
    rows = stored.sort("window").to_dicts()
    tokens = np.asarray([row["tokens"] for row in rows], dtype=np.int32)
    tokens.setflags(write=False)
    responses = marks_in(rows)
    if not rows or set_hash(spec, tokens, responses) != rows[0]["hash"]:
        return None
    return CalibrationSet(
        spec=spec,
        id=rows[0]["calibration_id"],
        tokens=tokens,
        documents_in=tuple(tuple(row["documents"]) for row in rows),
        starts=tuple(tuple(row["starts"]) for row in rows),
        lengths=tuple(tuple(row["lengths"]) for row in rows),
        texts=tuple(row["text"] for row in rows),
        revision=rows[0]["revision"],
        tokenizer_id=rows[0]["tokenizer"],
        excluded_documents=rows[0]["excluded_documents"],
        seconds_select=rows[0]["seconds_select"],
        responses=responses,
    )


def _check_stored(store: Results, calibration: CalibrationSet) -> None:
    """Refuse a set that was built from other text before; a damaged file of it is written again."""
    path = f"{store.path}/calibration/{calibration.id}.parquet"
    if why_unreadable(store, "calibration", path):
        store.write_table("calibration", calibration.id, calibration.rows())
        return
    stored = store.read_file("calibration", path).get_column("hash").unique().to_list()
    if stored != [calibration.hash]:
        raise SettingsError(
            f"{store.root}: calibration set {calibration.id} ({calibration.spec.source.label} "
            f"set {calibration.spec.set}) was built from other text than the source gives now; "
            "give back the earlier data, or choose another --results folder"
        )

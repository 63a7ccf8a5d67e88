"""The arms of a question: candidate texts, their uniform mixture and named mixtures; and a look at them for nothing.

Before anything is compressed the texts are read: two candidates may be the same text, one may hold too little for its
sets, or hold what the target asks, which would flatter it. The hard case is the last one, since a licence header that
both hold is no leak: a document of the target counts when at least `COPIED` of its runs of words stand in a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calib.build import build_sets, preflight
from calib.descriptor import describe
from calib.overlap import index_texts, overlap
from calib.settings import MAX_LABEL, SettingsError, identity, parse, shown, suggestion
from calib.source import Document, Source, get_source
from calib.spec import CalibrationSet, CalibrationSpec
from sweep.adviser.question import Question
from sweep.shipping.entries import source_entry

UNIFORM = "uniform mixture"
COPIED = 0.2  # of the runs of words of a target's document
NAMED = 3  # documents that a message names


@dataclass(frozen=True)
class Arm:
    """What may be advised: a source of calibration text. `shares`: of a mixture, by the names of its parts."""

    name: str
    source: Source
    shares: Mapping[str, float] | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """As a study file names it."""
        return self.source.to_dict()


@dataclass(frozen=True)
class Look:
    """What was seen of an arm before anything was compressed. `copied`: documents of the targets that stand in it."""

    arm: str
    documents: int | None
    tokens: int | None
    hash: str
    descriptors: Mapping[str, float | None]
    copied: int = 0


def make_arms(question: Question) -> list[Arm]:
    """The candidates, then mixtures. Raises SettingsError for what is no choice."""
    candidates = [Arm(source.label, source) for source in _sources(question.candidates)]
    if len(candidates) < 2:
        given = f"one candidate ({candidates[0].name}) is no choice" if candidates else "no candidate"
        raise SettingsError(f"--candidates: {given}; give two texts or more (python -m sweep.compress uses one)")
    mixtures = [mixture(shares, candidates) for shares in question.mixtures]
    plain = [arm for arm in candidates if arm.source.source_name != "mixture"]
    if question.uniform and len(plain) > 1:
        mixtures.insert(0, replace(mixture({arm.name: 1 / len(plain) for arm in plain}, plain, UNIFORM), name=UNIFORM))
    arms = [*candidates, *mixtures]
    names = [arm.name for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingsError(f"--mixture: {shown(twice[0])} is there twice; leave the repeated one out")
    return arms


def mixture(shares: Mapping[str, float], candidates: Sequence[Arm], label: str = "") -> Arm:
    """A mixture of candidates, and of other sources by their names, as an arm."""
    known = {arm.name: arm.source for arm in candidates}
    parts = []
    for name, share in shares.items():
        try:
            source = known[name] if name in known else get_source(source_entry(name), "--mixture")
        except SettingsError as error:
            hint = suggestion(name, list(known))
            raise SettingsError(f"--mixture: {shown(name)} is no candidate{hint}, and no source: {error}") from None
        parts.append({**source.to_dict(), "share": share})
    entry = {"source": "mixture", "parts": parts, **({"label": label} if label else {})}
    source = get_source(entry, "--mixture")
    return Arm(source.label, source, dict(shares))


def _sources(candidates: Sequence[Any]) -> list[Source]:
    """The candidates' sources; files of one name are called by their paths."""
    found = []
    for number, given in enumerate(candidates):
        place = f"--candidates[{number}]"
        try:
            source = get_source(source_entry(given), place)
        except SettingsError as error:
            raise SettingsError(f"--candidates: {error}" if place not in str(error) else str(error)) from None
        found.append((given, source))
    _refuse_same_entries(found)
    labels = [source.label for _, source in found]
    return [
        get_source({**source.to_dict(), "label": given[-MAX_LABEL:]})
        if labels.count(source.label) > 1 and isinstance(given, str)
        else source
        for given, source in found
    ]


def _refuse_same_entries(found: Sequence[tuple[Any, Source]]) -> None:
    """Refuse candidates that read the same data in the same way: the same source, or files of the same content."""
    seen: dict[str, Any] = {}
    for given, source in found:
        key = identity({**source.identity(), "revision": source.revision()})
        if key in seen:
            both = f"{shown(seen[key])} and {shown(given)} are the same text" if seen[key] != given else shown(given)
            told = "" if seen[key] != given else " is there twice"
            raise SettingsError(f"--candidates: {both}{told}; leave one out")
        seen[key] = given


def check_text(arms: Sequence[Arm], sets: int, nsamples: int, seqlen: int) -> None:
    """Raises SettingsError for texts that cannot be read, or cannot possibly fill the sets. Needs no tokenizer."""
    for arm in arms:
        values = {"source": arm.source, "set": sets - 1, "nsamples": nsamples, "seqlen": seqlen}
        preflight([parse(CalibrationSpec, values, "--candidates")], "--candidates")


def look_at(
    arms: Sequence[Arm],
    specs: Mapping[str, Sequence[CalibrationSpec]],
    tokenizer: Any,
    targets: Mapping[str, Source],
    *,
    allow_overlap: bool,
) -> list[Look]:
    """Read the arms' texts: what describes them, and whether they can be compared.

    specs: the sets of each arm in the full study. Text that a model writes is not there yet and is left out. Raises
    SettingsError for too little text, the same text twice, and a target that stands in a candidate.
    """
    looks: list[Look] = []
    index = _TargetIndex(targets)
    for arm in arms:
        if arm.source.writes or arm.shares is not None:  # a mixture takes less of each part than its set does
            continue
        first = build_sets([specs[arm.name][0], specs[arm.name][-1]], tokenizer)[0]
        _refuse_same_text(first, arm, looks)
        copied = index.copied_into(arm)
        if copied and not allow_overlap:
            raise SettingsError(index.told(arm))
        looks.append(_look(arm, first, len(tokenizer), copied))
    return looks


def _look(arm: Arm, calibration: CalibrationSet, vocabulary: int, copied: int) -> Look:
    found = describe(calibration, vocabulary)
    return Look(arm.name, calibration.pool_documents, calibration.pool_tokens, calibration.hash, found, copied)


def _refuse_same_text(calibration: CalibrationSet, arm: Arm, looks: Sequence[Look]) -> None:
    for other in looks:
        if other.hash == calibration.hash:
            raise SettingsError(
                f"--candidates: {shown(other.arm)} and {shown(arm.name)} are the same text: their first sets have the "
                f"same tokens ({calibration.hash[:12]}); leave one out"
            )


class _TargetIndex:
    """The runs of words of all targets' documents."""

    def __init__(self, targets: Mapping[str, Source]) -> None:
        self.targets = ", ".join(targets)
        documents = [document for source in targets.values() for document in source.documents()]
        self.names = [document.id for document in documents]
        self.index = index_texts(document.text for document in documents)

    def shares(self, documents: Iterable[Document]) -> tuple[np.ndarray, np.ndarray]:
        """(share of each target document's runs that stand in these, runs that each of these shares)."""
        found = overlap((document.text for document in documents), self.index)
        return found.texts, found.windows

    def copied_into(self, arm: Arm) -> int:
        """How many of the targets' documents stand in an arm's text."""
        if not self.names:
            return 0
        return int((self.shares(arm.source.documents())[0] >= COPIED).sum())

    def told(self, arm: Arm) -> str:
        """The sentence that refuses an arm."""
        documents = list(arm.source.documents())
        texts, hits = self.shares(documents)
        worst = np.argsort(-texts, kind="stable")[:NAMED]
        named = ", ".join(f"{self.names[i]} ({100 * texts[i]:.0f} %)" for i in worst if texts[i] >= COPIED)
        where = ", ".join(documents[i].id for i in np.argsort(-hits, kind="stable")[:NAMED] if hits[i])
        count = int((texts >= COPIED).sum())
        return (
            f"--candidates: {shown(arm.name)} holds {count} of the {len(texts)} documents of the target "
            f"{self.targets}: {named} of their {self.index.n}-word runs stand in its documents {where}; leave it out, "
            "give {source: exclude_overlap, ...} in its place, or --allow-overlap"
        )

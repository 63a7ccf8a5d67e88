"""The arms of a question: candidate texts, their uniform mixture and named mixtures; and a look at them for nothing.

Before anything is compressed the texts are read: two candidates may be the same text, one may hold too little for its
sets, or hold what the target asks, which would flatter it. The hard case is the last one, since a licence header that
both hold is no leak: a document of a target text counts when at least `COPIED` of its runs of words stand in a
candidate, and a task's document, which is short, when at least `ANSWERED` of them do. One document of a text is enough
to refuse a candidate, of a task it takes `LEAKED` of its documents: a large web text holds a few of any old benchmark.
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
ANSWERED = 0.5  # likewise of a task's document
LEAKED = 0.01  # of a task's documents
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
    tasks: Mapping[str, Sequence[str]] | None = None,
    *,
    allow_overlap: bool,
) -> list[Look]:
    """Read the arms' texts: what describes them, and whether they can be compared.

    specs: the sets of each arm in the full study; tasks: the documents of each task, as texts. Text that a model writes
    is not there yet and is left out. Raises SettingsError for too little text, the same text twice, and a target that
    stands in a candidate.
    """
    looks: list[Look] = []
    indexes = [_TargetIndex(name, list(source.documents())) for name, source in targets.items()]
    indexes += [_TaskIndex(name, _numbered(name, texts)) for name, texts in (tasks or {}).items()]
    for arm in arms:
        if arm.source.writes or arm.shares is not None:  # a mixture takes less of each part than its set does
            continue
        first = build_sets([specs[arm.name][0], specs[arm.name][-1]], tokenizer)[0]
        _refuse_same_text(first, arm, looks)
        copied = [index.copied_into(arm) for index in indexes]
        for index, count in zip(indexes, copied, strict=True):
            if count and index.refuses(count) and not allow_overlap:
                raise SettingsError(index.told(arm))
        looks.append(_look(arm, first, len(tokenizer), sum(copied)))
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


def _numbered(name: str, texts: Sequence[str]) -> list[Document]:
    return [Document(f"{name}:{number}", text) for number, text in enumerate(texts)]


class _TargetIndex:
    """The runs of words of a target's documents."""

    copied = COPIED

    def __init__(self, name: str, documents: Sequence[Document]) -> None:
        self.name = name
        self.ids = [document.id for document in documents]
        self.index = index_texts(document.text for document in documents)

    def shares(self, documents: Iterable[Document]) -> tuple[np.ndarray, np.ndarray]:
        """(share of each target document's runs that stand in these, runs that each of these shares)."""
        found = overlap((document.text for document in documents), self.index)
        return found.texts, found.windows

    def copied_into(self, arm: Arm) -> int:
        """How many of the target's documents stand in an arm's text."""
        return int((self.shares(arm.source.documents())[0] >= self.copied).sum()) if self.ids else 0

    def refuses(self, count: int) -> bool:
        """Whether so many documents are too many."""
        return count > 0

    def told(self, arm: Arm) -> str:
        """The sentence that refuses an arm."""
        documents = list(arm.source.documents())
        texts, hits = self.shares(documents)
        worst = np.argsort(-texts, kind="stable")[:NAMED]
        named = ", ".join(f"{self.ids[i]} ({100 * texts[i]:.0f} %)" for i in worst if texts[i] >= self.copied)
        where = ", ".join(documents[i].id for i in np.argsort(-hits, kind="stable")[:NAMED] if hits[i])
        count = int((texts >= self.copied).sum())
        return (
            f"--candidates: {shown(arm.name)} holds {count} of the {len(texts)} documents of the target "
            f"{self.name}: {named} of their {self.index.n}-word runs stand in its documents {where}; leave it out, "
            "give {source: exclude_overlap, ...} in its place, or --allow-overlap"
        )


class _TaskIndex(_TargetIndex):
    """The runs of words of a task's documents: question, choices and answer."""

    copied = ANSWERED

    def refuses(self, count: int) -> bool:
        return count >= LEAKED * len(self.ids)

"""The arms of a question: candidate texts, their uniform mixture and named mixtures; and a look at them for nothing.

Before anything is compressed the texts are read: two candidates may be the same text, one may hold too little for its
sets, or hold what the target asks, which would flatter it. The hard case is the last one, since neither a licence
header nor the set phrases of dialogues and manuals, which disjoint documents share, are a leak. A document of a target
text of which at least `HELD` of its runs of words stand in a candidate refuses the candidate; of documents that share
only `COPIED` of them it takes `PARTLY` of all. A task's document, which is short, counts when at least `HELD` of its
runs stand there, and it takes `LEAKED` of its documents: a large web text holds a few of any old benchmark. What does
not refuse a candidate is counted, and said. Two texts that hold the same documents in another order are one text, since
either of them wins by luck; of one that stands in another for the most part it is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from calib.build import TooShort, build_sets, preflight
from calib.descriptor import describe
from calib.overlap import index_texts, overlap
from calib.select import Selector, get_selector
from calib.settings import MAX_LABEL, SettingsError, identity, parse, shown, suggestion
from calib.source import Document, Source, get_source
from calib.spec import CalibrationSet, CalibrationSpec
from sweep.adviser.question import Question
from sweep.shipping.entries import source_entry

UNIFORM = "uniform mixture"
COPIED = 0.2  # of the runs of words of a target's document
HELD = 0.5  # likewise; disjoint documents of the bundled texts share up to .38
PARTLY = 0.05  # of a target's documents; of the bundled ones up to .018 share `COPIED` with their own domain
LEAKED = 0.01  # of a task's documents
NAMED = 3  # documents that a message names
TWIN = 0.5  # of the documents of a text that stand in another one too
BATCH = 256  # documents decoded at a time


@dataclass(frozen=True)
class Arm:
    """What may be advised: a source of calibration text. `shares`: of a mixture, by the names of its parts; `select`:
    the rule that chooses the windows of its sets."""

    name: str
    source: Source
    shares: Mapping[str, float] | None = None
    select: Selector | None = None

    @property
    def plain(self) -> bool:
        """Whether it is a text that can be mixed with others: no mixture, and no selection."""
        return self.source.source_name != "mixture" and self.select is None

    @property
    def entry(self) -> dict[str, Any]:
        """As a study file names it."""
        return self.source.to_dict()


@dataclass(frozen=True)
class Look:
    """What was seen of an arm before anything was compressed. `copied`: documents of the targets that stand in it, in
    part or whole; `notes`: sentences on these, where they do not refuse it."""

    arm: str
    documents: int | None
    tokens: int | None
    hash: str
    descriptors: Mapping[str, float | None]
    copied: int = 0
    notes: tuple[str, ...] = ()


def make_arms(question: Question) -> list[Arm]:
    """The candidates, then mixtures. Raises SettingsError for what is no choice."""
    candidates = [Arm(source.label, source, select=select) for source, select in _sources(question.candidates)]
    if len(candidates) < 2:
        given = f"one candidate ({candidates[0].name}) is no choice" if candidates else "no candidate"
        raise SettingsError(f"--candidates: {given}; give two texts or more (python -m sweep.compress uses one)")
    mixtures = [mixture(shares, candidates) for shares in question.mixtures]
    plain = [arm for arm in candidates if arm.plain]
    if question.uniform and len(plain) > 1:
        mixtures.insert(0, replace(mixture({arm.name: 1 / len(plain) for arm in plain}, plain, UNIFORM), name=UNIFORM))
    arms = [*candidates, *mixtures]
    names = [arm.name for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingsError(f"--mixture: {shown(twice[0])} is there twice; leave the repeated one out")
    _refuse_same_mixtures(arms)
    return arms


def _refuse_same_mixtures(arms: Sequence[Arm]) -> None:
    """Refuse mixtures of the same shares, in whatever order their parts are named."""
    seen: dict[Any, str] = {}
    for arm in arms:
        parts = arm.source.components()
        key = frozenset((identity({**one.identity(), "at": one.revision()}), round(share, 6)) for one, share in parts)
        if len(parts) > 1 and key in seen:
            way = ", or give --no-uniform" if UNIFORM in (seen[key], arm.name) else ""
            raise SettingsError(
                f"--mixture: {shown(arm.name)} and {shown(seen[key])} are the same mixture; leave one out{way}"
            )
        seen[key] = arm.name


def mixture(shares: Mapping[str, float], candidates: Sequence[Arm], label: str = "") -> Arm:
    """A mixture of candidates, and of other sources by their names, as an arm."""
    known = {arm.name: arm.source for arm in candidates if arm.select is None}
    if chosen := sorted(shares.keys() & {arm.name for arm in candidates if arm.select is not None}):
        raise SettingsError(
            f"--mixture: the windows of {shown(chosen[0])} are selected; mix the text that it selects from"
        )
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


def renamed(arm: Arm, name: str) -> Arm:
    """The same arm under another name."""
    return replace(arm, name=name, source=get_source({**arm.source.to_dict(), "label": name}))


def _sources(candidates: Sequence[Any]) -> list[tuple[Source, Selector | None]]:
    """The candidates' sources with their rules of selection; files of one name are called by their paths."""
    found: list[tuple[Any, Source, Selector | None]] = []
    for number, given in enumerate(candidates):
        place = f"--candidates[{number}]"
        try:
            source, select = _read(given, place)
        except SettingsError as error:
            faults = [fault if place in fault else f"--candidates: {fault}" for fault in error.faults]
            raise SettingsError(*faults) from None
        found.append((given, source, select))
    _refuse_same_entries(found)
    labels = [source.label for _, source, _ in found]
    return [
        (get_source({**source.to_dict(), "label": given[-MAX_LABEL:]}), select)
        if labels.count(source.label) > 1 and isinstance(given, str)
        else (source, select)
        for given, source, select in found
    ]


def _read(given: Any, place: str) -> tuple[Source, Selector | None]:
    """A candidate's source and its rule of selection: `{source: books, select: {by: lexical, pool: 10}}`.

    A selected set is called by its source and its rule, where it has no label of its own.
    """
    if not isinstance(given, Mapping) or given.get("select") is None:
        return get_source(source_entry(given), place), None
    entry = {key: value for key, value in given.items() if key != "select"}
    select = get_selector(given["select"], f"{place}.select").located(Path.cwd(), f"{place}.select")
    source = get_source(entry, place)
    if "label" not in entry:
        source = get_source({**source.to_dict(), "label": f"{source.label}, {select.label}"[:MAX_LABEL]}, place)
    return source, select


def _refuse_same_entries(found: Sequence[tuple[Any, Source, Selector | None]]) -> None:
    """Refuse candidates that read the same data in the same way: the same source, or files of the same content."""
    seen: dict[str, Any] = {}
    for given, source, select in found:
        chosen = None if select is None else select.identity()
        key = identity({**source.identity(), "revision": source.revision(), "select": chosen})
        if key in seen:
            both = f"{shown(seen[key])} and {shown(given)} are the same text" if seen[key] != given else shown(given)
            told = "" if seen[key] != given else " is there twice"
            raise SettingsError(f"--candidates: {both}{told}; leave one out")
        seen[key] = given


def check_text(arms: Sequence[Arm], sets: int, nsamples: int, seqlen: int) -> None:
    """Raises SettingsError for texts that cannot be read, or cannot possibly fill the sets. Needs no tokenizer."""
    for arm in arms:
        sizes = {"set": sets - 1, "nsamples": nsamples, "seqlen": seqlen}
        values = {"source": arm.source, **sizes, "select": arm.select}
        spec = parse(CalibrationSpec, values, "--candidates")
        try:
            preflight([spec])
        except TooShort as error:
            raise too_short(arm, spec, error) from None


def too_short(arm: Arm, spec: CalibrationSpec, error: TooShort) -> SettingsError:
    """The error of a text that cannot fill its sets, `spec` being the last one, with its file and the flags that say
    how much is asked of it."""
    file = f"{arm.entry['path']}: " if "path" in arm.entry else ""
    flags = f"--sets {spec.set + 1}, --nsamples {spec.nsamples} and --seqlen {spec.seqlen}"
    return SettingsError(f"--candidates: {file}{error}; {flags} are asked of it now")


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
    indexes = [TargetIndex(name, list(as_text(source, tokenizer))) for name, source in targets.items()]
    indexes += [TaskIndex(name, _numbered(name, texts)) for name, texts in (tasks or {}).items()]
    read = {arm.name for arm in arms if arm.shares is None}
    held: dict[str, Counter[int]] = {}  # by arm: what each of its documents hashes to
    for arm in arms:
        if specs[arm.name][0].asks_model:
            continue
        if arm.shares is not None:  # it takes less of each part than its set; parts that no candidate is are to read
            for part in (part for part, _ in arm.source.components() if part.label not in read and not part.writes):
                documents = list(as_text(part, tokenizer))
                found = _shared(Arm(part.label, part), documents, indexes, allow_overlap)
                looks.append(Look(part.label, len(documents), None, "", {}, *found))
                read.add(part.label)
            continue
        own = specs[arm.name]
        try:
            first = build_sets([own[0], own[-1]], tokenizer)[0]
        except TooShort as error:
            raise too_short(arm, own[-1], error) from None
        _refuse_same_text(first, arm, looks)
        documents = list(as_text(arm.source, tokenizer))
        notes = _twins(arm, _whole(arm.source, tokenizer, documents), held) if arm.plain else ()
        copied, shared = _shared(arm, documents, indexes, allow_overlap)
        looks.append(_look(arm, first, len(tokenizer), copied, (*notes, *shared)))
    return looks


def as_text(source: Source, tokenizer: Any, *, special: bool = False) -> Iterator[Document]:
    """The documents of a source as text. What is token ids from its beginning, such as a conversation that the model's
    template renders, is decoded, with its `special` tokens or without."""
    for part, share in source.components():
        named = "" if share == 1 else f"{part.label}/"
        if _is_text(part):
            yield from (Document(f"{named}{document.id}", document.text) for document in part.documents())
            continue
        found = (document for document in part.read(tokenizer) if document is not None)
        while batch := list(islice(found, BATCH)):
            ids = [document.tokens.tolist() for document in batch]
            texts = tokenizer.batch_decode(ids, skip_special_tokens=not special)
            yield from (Document(f"{named}{one.id}", text) for one, text in zip(batch, texts, strict=True))


def _whole(source: Source, tokenizer: Any, documents: Sequence[Document]) -> Sequence[Document]:
    """The documents, of which `documents` is the text, with special tokens: templates may differ in these alone."""
    if all(_is_text(part) for part, _ in source.components()):
        return documents
    return list(as_text(source, tokenizer, special=True))


def _is_text(source: Source) -> bool:
    """Whether its documents are text before a tokenizer is there."""
    inside = source.wrapped()
    own = type(source).token_documents is Source.token_documents
    return own and (inside is None or _is_text(inside))


def _shared(
    arm: Arm, documents: Sequence[Document], indexes: Sequence[TargetIndex], allow_overlap: bool
) -> tuple[int, tuple[str, ...]]:
    """(documents of the targets that stand in these, sentences on them). Raises SettingsError where they refuse."""
    copied, notes = 0, []
    for index in indexes:
        shares, hits = index.shares(documents)
        if index.refuses(shares) and not allow_overlap:
            raise SettingsError(index.told(arm, documents, shares, hits))
        if count := index.count(shares):
            copied += count
            notes.append(index.noted(arm, shares))
    return copied, tuple(notes)


def _twins(arm: Arm, documents: Sequence[Document], held: dict[str, Counter[int]]) -> list[str]:
    """Sentences on earlier arms that share documents with this one; notes in `held` what it holds.

    Raises SettingsError for a text that holds the very documents of another, as often each, in another order: whichever
    wins, luck chose it.
    """
    own = Counter(hash(document.text.strip()) for document in documents)
    notes = []
    for name, other in held.items():
        if own == other:
            both = f"{shown(name)} and {shown(arm.name)}"
            raise SettingsError(f"--candidates: {both} hold the same {own.total()} documents; leave one out")
        small, large = (arm.name, name) if len(own) <= len(other) else (name, arm.name)
        fewer = min(len(own), len(other))
        if (common := len(own.keys() & other.keys())) >= TWIN * fewer:
            notes.append(f"note: {common} of the {fewer} documents of {small} stand in {large} as well")
    held[arm.name] = own
    return notes


def _look(arm: Arm, calibration: CalibrationSet, vocabulary: int, copied: int, notes: Sequence[str]) -> Look:
    found, size = describe(calibration, vocabulary), (calibration.pool_documents, calibration.pool_tokens)
    return Look(arm.name, *size, calibration.hash, found, copied, tuple(notes))


def _refuse_same_text(calibration: CalibrationSet, arm: Arm, looks: Sequence[Look]) -> None:
    for other in looks:
        if other.hash == calibration.hash:
            raise SettingsError(
                f"--candidates: {shown(other.arm)} and {shown(arm.name)} are the same text: their first sets have the "
                f"same tokens ({calibration.hash[:12]}); leave one out"
            )


def _numbered(name: str, texts: Sequence[str]) -> list[Document]:
    return [Document(f"{name}:{number}", text) for number, text in enumerate(texts)]


class TargetIndex:
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

    def count(self, shares: np.ndarray) -> int:
        """How many of the target's documents stand in a text, in part or whole."""
        return int((shares >= self.copied).sum())

    def refuses(self, shares: np.ndarray) -> bool:
        """Whether one document stands there, or too many do in part."""
        count = self.count(shares)
        return count > 0 and (float(shares.max()) >= HELD or count >= PARTLY * len(shares))

    def noted(self, arm: Arm, shares: np.ndarray) -> str:
        """The sentence on what an arm shares."""
        return (
            f"note: {arm.name} shares {100 * self.copied:.0f} to {100 * shares.max():.0f} % of the {self.index.n}-word "
            f"runs of {self.count(shares)} of the {len(shares)} documents of the target {self.name}"
        )

    def told(self, arm: Arm, documents: Sequence[Document], texts: np.ndarray, hits: np.ndarray) -> str:
        """The sentence that refuses an arm, from what `shares` found in its documents."""
        worst = np.argsort(-texts, kind="stable")[:NAMED]
        named = ", ".join(f"{self.ids[i]} ({100 * texts[i]:.0f} %)" for i in worst if texts[i] >= self.copied)
        where = ", ".join(documents[i].id for i in np.argsort(-hits, kind="stable")[:NAMED] if hits[i])
        return (
            f"--candidates: {shown(arm.name)} holds {self.count(texts)} of the {len(texts)} documents of the target "
            f"{self.name}: {named} of their {self.index.n}-word runs stand in its documents {where}; leave it out, "
            "give {source: exclude_overlap, ...} in its place, or --allow-overlap"
        )


class TaskIndex(TargetIndex):
    """The runs of words of a task's documents: question, choices and answer."""

    copied = HELD

    def refuses(self, shares: np.ndarray) -> bool:
        count = self.count(shares)
        return count > 0 and count >= LEAKED * len(shares)

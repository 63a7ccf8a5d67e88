"""The `calibration` section of a study: products of axes become calibration sets.

The hard case is a product that nobody can mean (`sets: 1000000000`): it is counted before it is multiplied out, and the
error says how many sets the text can make, where that is known without reading all of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from calib.build import preflight
from calib.ngrams import WORDS
from calib.select import get_selector
from calib.settings import INT32_MAX, SettingsError, parse, settings, shown
from calib.source import Source, get_source, located_entry
from calib.spec import CalibrationSpec
from sweep.study_file.levels import MAX_TRIALS, check_levels, refuse_twice

MIN_SEQLEN = 2  # tokens of a calibration window
MANY_SETS = 2_000  # listed without a look at their text
MANY_SERIES = 100  # kinds of calibration sets that are tried on their text when there are too many sets


@settings
class CalibrationFile:
    """The keys of `calibration`. Every value but `seed` and `max_nsamples` may be a list: a level of the factor each
    (of `length_weights`, whose levels are lists themselves, a list of lists).

    Sets of several sizes are nested and disjoint up to `max_nsamples` different windows, by default the largest of the
    sizes. `exclude_overlap: true` leaves out the documents that share 8 words in a row with what the study evaluates, a
    number as many words; the other keys are those of `calib.spec.CalibrationSpec`.
    """

    source: Any
    sets: Any = 1
    nsamples: Any = 128
    seqlen: Any = 2048
    sampling: Any = "windows"
    separator: Any = "eos"
    add_bos: Any = False
    first_token: Any = "bos"
    document_bos: Any = False
    distinct: Any = None
    select: Any = None
    part: Any = "both"
    length_weights: Any = None
    exclude_overlap: Any = False
    max_nsamples: int | None = Field(default=None, ge=1, le=INT32_MAX)
    seed: int | None = Field(default=None, ge=0)


AXES = (
    *("nsamples", "seqlen", "sampling", "separator", "add_bos"),
    *("first_token", "document_bos", "distinct", "select", "part", "length_weights"),
)
MAX_WORDS = 100  # in a row, that documents may share with the evaluation


@dataclass(frozen=True)
class _Grid:
    """One product of axes, not yet multiplied out: series of sets that differ in nothing but their number."""

    path: str
    series: list[tuple[Source, tuple[Any, ...]]]  # source, and its levels of AXES
    sets: Sequence[int]
    seed: int
    max_nsamples: int | None

    def spec(self, source: Source, levels: Sequence[Any], number: int) -> CalibrationSpec:
        alike = {"source": source, "set": number, "seed": self.seed, "max_nsamples": self.max_nsamples}
        return parse(CalibrationSpec, {**alike, **dict(zip(AXES, levels, strict=True))}, self.path)

    def expand(self) -> list[CalibrationSpec]:
        """All specs, source by source, level by level, set by set."""
        first = [self.spec(source, levels, self.sets[0]) for source, levels in self.series]
        return [spec if number == spec.set else replace(spec, set=number) for spec in first for number in self.sets]


def parse_calibration(
    section: Any, seed: int, trials_of_a_set: int, folder: Path, asked: Callable[[], str]
) -> tuple[list[CalibrationSpec], Any]:
    """The calibration sets of a study, and the section with its defaults filled in. Raises SettingsError.

    `seed` is the study's; `trials_of_a_set` says how many trials need each set; relative paths of the sources are read
    from `folder`; `asked` gives the id of what the study asks of a model, for sets that leave it out.
    """
    if section is None:
        return [], None
    several = isinstance(section, list)
    parts = section if several else [section]
    if not parts:
        raise SettingsError("calibration: expected a mapping of axes, or a list of them, got []")
    grids: list[_Grid] = []
    documents = []
    for number, part in enumerate(parts):
        path = f"calibration[{number}]" if several else "calibration"
        file = _located(parse(CalibrationFile, part, path), folder, path)
        grids.append(_calibration_grid(file, seed, path, asked))
        documents.append({item.name: getattr(file, item.name) for item in fields(file)})
    _check_number_of_trials(grids, trials_of_a_set)
    specs = [spec for grid in grids for spec in grid.expand()]
    _check_source_labels(specs)
    if several:  # a single grid cannot repeat itself
        keys = [
            str((*source_key(spec), spec.set, spec.seed, *(getattr(spec, axis) for axis in AXES))) for spec in specs
        ]
        refuse_twice("calibration sets", keys, "leave the repeated calibration set out")
    return specs, documents if several else documents[0]


def source_key(spec: CalibrationSpec) -> tuple[str, int | None]:
    """What tells the source of a set from others in tables: its label, and the words that it must not share."""
    return spec.source.label, spec.source.excluded_words


def _located(file: CalibrationFile, folder: Path, path: str) -> CalibrationFile:
    """The section with the paths of its sources, and of the targets of its selection, made absolute."""
    several = isinstance(file.select, list)
    rules = [
        _located_rule(entry, folder, f"{path}.select[{number}]" if several else f"{path}.select")
        for number, entry in enumerate(file.select if several else [file.select])
    ]
    file = replace(file, select=rules if several else rules[0])
    if not isinstance(file.source, list):
        return replace(file, source=located_entry(file.source, folder, f"{path}.source"))
    entries = [located_entry(entry, folder, f"{path}.source[{number}]") for number, entry in enumerate(file.source)]
    return replace(file, source=entries)


def _located_rule(entry: Any, folder: Path, path: str) -> Any:
    """The entry of a rule of selection; as it was typed where it has no path."""
    if entry is None:
        return None
    rule = get_selector(entry, path)
    located = rule.located(folder, path)
    return entry if located == rule else located.to_dict()


def _check_number_of_trials(grids: Sequence[_Grid], trials_of_a_set: int) -> None:
    """Refuse more sets than there can be before they are listed: by what their text holds, where that is known."""
    sets = sum(len(grid.series) * len(grid.sets) for grid in grids)
    for grid in grids if sets > MANY_SETS else []:
        last = grid.sets[-1] if isinstance(grid.sets, range) else max(grid.sets)
        preflight([grid.spec(*one, last) for one in grid.series[:MANY_SERIES]], f"{grid.path}.sets")
    if (trials := sets * trials_of_a_set) > MAX_TRIALS:
        raise SettingsError(
            f"calibration: {trials:,} trials of models, methods and calibration sets; a study has at most "
            f"{MAX_TRIALS:,}; ask for fewer sets, or give fewer values"
        )


def _calibration_grid(grid: CalibrationFile, seed: int, path: str, asked: Callable[[], str]) -> _Grid:
    entries = grid.source if isinstance(grid.source, list) else [grid.source]
    check_levels(entries, f"{path}.source")
    sources: list[Source] = []
    for number, entry in enumerate(entries):
        place = f"{path}.source[{number}]" if isinstance(grid.source, list) else f"{path}.source"
        sources.append(get_source(entry, place))
    words = _excluded_words(grid.exclude_overlap, f"{path}.exclude_overlap")
    sources = [_excluding(source, n, asked, f"{path}.exclude_overlap") for source in sources for n in words]
    axes = []
    for axis in AXES:
        value = getattr(grid, axis)
        several = isinstance(value, list) and not _is_one_level(axis, value)
        if several:
            check_levels(value, f"{path}.{axis}")
        axes.append(value if several else [value])
        if axis == "seqlen" and any(type(level) is int and level < MIN_SEQLEN for level in axes[-1]):
            raise SettingsError(
                f"{path}.seqlen: expected at least {MIN_SEQLEN}, got {min(axes[-1])} (a token alone has no context)"
            )
    series = len(sources) * math.prod(len(levels) for levels in axes)
    if series > MAX_TRIALS:
        raise SettingsError(
            f"{path}: its lists make {series:,} kinds of calibration sets; a study has at most {MAX_TRIALS:,} trials; "
            "give fewer values"
        )
    return _Grid(
        path=path,
        series=[(source, levels) for source in sources for levels in itertools.product(*axes)],
        sets=_set_numbers(grid.sets, f"{path}.sets"),
        seed=seed if grid.seed is None else grid.seed,
        max_nsamples=_largest_size(grid),
    )


def _is_one_level(axis: str, value: list[Any]) -> bool:
    """Whether the list is one value: `length_weights: [256, 512]` beside the levels `[null, [256, 512]]`."""
    return axis == "length_weights" and not any(level is None or isinstance(level, list) for level in value)


def _excluded_words(setting: Any, path: str) -> list[int | None]:
    """Of each level of `exclude_overlap` the words in a row that must not be shared; None where they may."""
    levels = setting if isinstance(setting, list) else [setting]
    check_levels(levels, path)
    for level in levels:
        if not isinstance(level, bool) and not (isinstance(level, int) and 2 <= level <= MAX_WORDS):
            raise SettingsError(
                f"{path}: expected true, false or a number of words from 2 to {MAX_WORDS}, got {shown(level)}"
            )
    return [None if level is False else WORDS if level is True else level for level in levels]


def _excluding(source: Source, words: int | None, asked: Callable[[], str], path: str) -> Source:
    """The source without the documents that share so many words with what is evaluated, under the same label."""
    if words is None:
        return source
    entry = {"source": "exclude_overlap", "of": source, "evaluation": asked(), "n": words, "label": source.label}
    return get_source(entry, path)


def _largest_size(grid: CalibrationFile) -> int | None:
    """The size up to which the sets are nested: the one asked for, or the largest of several, in different windows."""
    several = isinstance(grid.nsamples, list) or isinstance(grid.distinct, list)
    if grid.max_nsamples is not None or not several:
        return grid.max_nsamples
    sizes, distinct = (value if isinstance(value, list) else [value] for value in (grid.nsamples, grid.distinct))
    drawn = [size if few is None else few for size in sizes for few in distinct]
    return max((size for size in drawn if type(size) is int), default=None)


def _set_numbers(sets: Any, path: str) -> Sequence[int]:
    """`3` -> 0, 1, 2; a list names the sets themselves."""
    if isinstance(sets, bool) or not isinstance(sets, int | list):
        raise SettingsError(f"{path}: expected a number of sets, or a list of set numbers, got {shown(sets)}")
    if isinstance(sets, int):
        if not 1 <= sets <= INT32_MAX:
            bound = "at least 1" if sets < 1 else f"at most {INT32_MAX}"
            raise SettingsError(f"{path}: expected {bound}, got {sets}")
        return range(sets)
    check_levels(sets, path)
    for number in sets:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= INT32_MAX:
            end = f" to {INT32_MAX}" if isinstance(number, int) and number > 0 else ""
            raise SettingsError(f"{path}: expected set numbers from 0{end}, got {shown(number)}")
    return list(sets)


def _check_source_labels(specs: Sequence[CalibrationSpec]) -> None:
    """Two different sources must not share a label: the tables would mix them."""
    known: dict[tuple[str, int | None], Source] = {}
    for spec in specs:
        other = known.setdefault(source_key(spec), spec.source)
        if other is not spec.source and other != spec.source:
            raise SettingsError(
                f"calibration.source: two different sources are labelled '{spec.source.label}'; "
                "give one of them another `label`"
            )

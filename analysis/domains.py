"""Which calibration sources are of a held-out text's own domain, as the study file says.

A source and a text name their `domain`, by default what they are called, so bundled texts of equal names belong
together. The hard case is a folder of another version or of none: what its study file does not tell goes by the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from calib.settings import SettingsError
from calib.source import Source, get_source


@dataclass(frozen=True)
class Domains:
    """The domains of calibration sources and of held-out texts by their labels, where they are others."""

    sources: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def same(self, source: str, text: str) -> bool:
        """Whether a source and a held-out text, by their labels, are of one domain."""
        return self.sources.get(source, source) == self.texts.get(text, text)


BY_NAME = Domains()  # nothing else is told than what they are called


def domains_in(study: Any) -> Domains:
    """Those of a resolved study file."""
    if not isinstance(study, Mapping):
        return BY_NAME
    return Domains(_other_names(_sources(study)), _other_names(_texts(study)))


def _other_names(found: Iterator[Source]) -> dict[str, str]:
    return {source.label: source.own_domain for source in found if source.own_domain != source.label}


def _sources(study: Mapping[str, Any]) -> Iterator[Source]:
    sections = study.get("calibration")
    for section in sections if isinstance(sections, list) else [sections]:
        entries = section.get("source") if isinstance(section, Mapping) else None
        for entry in entries if isinstance(entries, list) else [entries]:
            yield from _source(entry)


def _texts(study: Mapping[str, Any]) -> Iterator[Source]:
    evaluation = study.get("evaluation")
    texts = evaluation.get("heldout") if isinstance(evaluation, Mapping) else None
    for entry in texts if isinstance(texts, list) else []:
        yield from _source({"source": "heldout", "domain": entry} if isinstance(entry, str) else entry)


def _source(entry: Any) -> Iterator[Source]:
    try:
        if entry is not None:
            yield get_source(entry)
    except SettingsError:  # of another version of this package
        return

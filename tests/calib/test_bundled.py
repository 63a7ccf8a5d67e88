"""The text that ships with the project: nine domains, each with enough text, attributed, and held-out text apart."""

from __future__ import annotations

from typing import Any

import pytest

from calib.build import build_sets
from calib.settings import SettingsError
from calib.source import get_source
from calib.sources.bundled import DOMAINS
from calib.spec import CalibrationSpec


@pytest.mark.parametrize("domain", DOMAINS)
def test_bundled_text_is_there_with_its_attribution(domain: str) -> None:
    source = get_source(domain)
    source.check()
    documents = list(source.documents())
    assert source.label == domain and len(documents) > 50
    assert len({document.id for document in documents}) == len(documents)
    number, _, origin = documents[0].id.partition(":")
    assert number == "0" and "/" in origin  # owner/repository:path
    capacity = source.capacity()
    assert capacity is not None and capacity > 500_000
    assert source.revision().startswith("sha256:")


@pytest.mark.parametrize("domain", DOMAINS)
def test_heldout_text_is_other_text(domain: str) -> None:
    heldout = get_source({"source": "heldout", "domain": domain})
    heldout.check()
    assert heldout.label == domain
    assert heldout.revision() != get_source(domain).revision()
    calibration = {document.text for document in get_source(domain).documents()}
    assert not calibration & {document.text for document in heldout.documents()}


def test_one_language_of_the_multilingual_text() -> None:
    german = get_source({"source": "multilingual", "lang": "de"})
    german.check()
    assert german.label == "multilingual-de"
    assert 0 < len(list(german.documents())) < len(list(get_source("multilingual").documents()))
    assert german.identity() != get_source("multilingual").identity()
    with pytest.raises(SettingsError, match="no document in the language 'it'; choose from de, es, fr, pt, zh"):
        get_source({"source": "multilingual", "lang": "it"}).check()


def test_the_smallest_domain_holds_ten_sets_of_sixteen_windows(tokenizer: Any) -> None:
    source = get_source("tech_proposals")
    specs = [CalibrationSpec(source=source, set=number, nsamples=16, seqlen=256) for number in range(10)]
    built = build_sets(specs, tokenizer)
    assert len({one.hash for one in built}) == 10

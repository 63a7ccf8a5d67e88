"""The headline: few sentences, each with its interval, none that certainty does not allow."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.checks import true_minus
from analysis.evidence import Evidence
from analysis.findings import MOST, Finding, _controls, _proxies, findings
from analysis.frames import load
from analysis.measures import MEASURES

TEXT_BOUNDS = (("low", "high"), ("low_new_text", "high_new_text"))


@pytest.fixture(scope="module")
def found(simulated: Path) -> list[Finding]:
    return findings(Evidence(load(str(simulated))))


def test_at_most_seven_sentences_the_answer_first(found: list[Finding]) -> None:
    assert 3 <= len(found) <= MOST
    assert found[0].table == "table-answers-accuracy"
    assert "it cannot be told yet" in found[0].text


def test_every_sentence_has_an_interval_or_a_probability(found: list[Finding]) -> None:
    for finding in found:
        assert re.search(r"interval|probability|confidence|reliability", finding.text), finding.text
        assert finding.text.endswith(".")
        assert not re.search(r"p = 0\.0+\b|…|least sensitive|explains", finding.text), finding.text


def test_names_and_titles_keep_their_case(found: list[Finding]) -> None:
    text = " ".join(finding.text for finding in found)
    assert "jensen" not in text
    for measure in MEASURES.values():
        lowered = measure.title.lower()
        if lowered != measure.title and len(lowered) > 12:
            assert lowered not in text


def test_a_set_that_is_far_off_is_named(simulated: Path) -> None:
    study = load(str(simulated))
    chosen = pl.col("measure") == "perplexity_increase", pl.col("task") == "mean"
    rows = study.calibrated.filter(*chosen, model="small", method="gptq", source="code")
    one = rows.sort("method_label", "set").item(0, "trial_id")
    moved = pl.when(pl.col("trial_id") == one, *chosen).then(pl.col("value") + 500.0).otherwise("value")
    evidence = Evidence(replace(study, values=study.values.with_columns(moved.alias("value"))))
    text = next(f.text for f in findings(evidence) if "far off" in f.text)
    assert "one of 3 sets of code is far off" in text
    assert "without them" in text


def test_a_domain_that_harms_is_told_with_the_signs_that_it_has(simulated: Path) -> None:
    evidence = Evidence(load(str(simulated)))
    table = evidence.match
    turned = [
        (-pl.col("mismatched")).alias("matched"),
        (-pl.col("matched")).alias("mismatched"),
        (pl.col("matched") - pl.col("mismatched")).alias("difference"),
        *((-pl.col(b)).alias(a) for low, high in TEXT_BOUNDS for a, b in ((low, high), (high, low))),
    ]
    evidence.match = table.with_columns(turned).with_columns(
        pl.col("mismatched", "matched") - 50.0  # below the dense model
    )
    text = next(f.text for f in findings(evidence) if f.table == "table-domain-match")
    said = re.search(r"(−[\d.]+) % on the own .* points more \(95 % interval ([\d.]+) to ([\d.]+)", text)
    assert said and 0 < float(said[2]) < float(said[3]), text


def test_the_comparison_in_the_middle_is_not_called_the_closest(simulated: Path) -> None:
    evidence = Evidence(load(str(simulated)))
    (finding,) = _proxies(evidence)
    assert "in the middle is" in finding.text
    assert "closest" not in finding.text


def test_what_no_data_gives_is_compared_with_an_interval(simulated: Path) -> None:
    (finding,) = _controls(load(str(simulated)))
    said = re.search(r"is ([\d.]+) points better than .* interval over 9 sets (\S+) to (\S+),", finding.text)
    assert said, finding.text
    assert float(said[2]) <= float(said[1]) <= float(said[3])
    assert re.search(r"clearly better than no data in \d of \d pairs, clearly worse in \d\.$", finding.text), (
        finding.text
    )


def test_negative_numbers_have_a_minus_and_names_keep_their_hyphens() -> None:
    text = "GPTQ 3-bit of reference-5m: -0.5 (-1 to -2), 2024-09-11"
    assert true_minus(text) == "GPTQ 3-bit of reference-5m: −0.5 (−1 to −2), 2024-09-11"


def test_a_single_source_is_counted_in_the_singular(simulated: Path) -> None:
    study = load(str(simulated))
    one = study.values.filter(pl.col("source").is_null() | (pl.col("source") == "code"))
    text = " ".join(finding.text for finding in findings(Evidence(replace(study, values=one))))
    assert "3 sets of 1 source" in text
    assert "1 sources" not in text

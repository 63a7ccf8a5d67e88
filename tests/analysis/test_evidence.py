"""What tables share is computed once, and is what each of them would have computed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import evidence as module
from analysis.claims import claim_table
from analysis.compare import flip_table, mcnemar_table, method_pairs, source_pairs
from analysis.correlation import correlation_table
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.evidence import Evidence
from analysis.frames import Study, load
from analysis.ranking import rank_table
from analysis.report import SECTIONS, build
from analysis.variance import component_table


@pytest.fixture(scope="module")
def evidence(simulated: Path) -> Evidence:
    return Evidence(load(str(simulated)))


def test_a_report_reads_the_examples_once(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def counted(study: Study) -> ExampleTables:
        passes.append(study)
        return read_examples(study)

    monkeypatch.setattr(module, "read_examples", counted)
    monkeypatch.setattr("analysis.compare.read_examples", counted)
    monkeypatch.setattr("analysis.variance.read_examples", counted)
    study = load(str(simulated))
    build(Evidence(study), str(simulated))
    assert passes == [study]


def test_sections_without_examples_read_none(simulated: Path) -> None:
    evidence = Evidence(load(str(simulated)))
    for maker in SECTIONS:
        if not maker.reads_samples:
            maker.make(evidence)
    assert "examples" not in vars(evidence)


def test_quoted_tables_equal_those_of_the_study_alone(evidence: Evidence) -> None:
    study = evidence.study
    for measure in ("accuracy", "perplexity"):
        assert evidence.components(measure).equals(component_table(study, measure))
        assert evidence.ranks(measure).equals(rank_table(study, measure))
        assert evidence.ranks(measure) is evidence.ranks(measure)
    assert evidence.correlations.equals(correlation_table(study))
    assert claim_table(study, evidence=evidence).equals(claim_table(study))
    for function in (flip_table, mcnemar_table, method_pairs, source_pairs):
        assert function(study, examples=evidence.examples).equals(function(study))

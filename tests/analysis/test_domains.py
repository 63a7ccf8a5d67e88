"""A source and a held-out text belong together by their domain, which is what they are called unless they say it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import yaml

from analysis.cells import domain_table
from analysis.compare import domain_match
from analysis.domains import Domains, domains_in
from analysis.frames import load
from analysis.simulate import Design, simulate_study
from calib.yamltext import read_yaml

TEXTS = ("books", "code", "legal")
DESIGN = Design(models={"small": 2_000_000}, sources=TEXTS, heldout=TEXTS, tasks={"piqa": 30}, sets=2)
STUDY = """
calibration:
- source: [books, {source: file, path: mine.jsonl, label: mine, domain: code}, {source: file, path: other.jsonl}]
- source: {source: nobody}
evaluation:
  heldout: [books, {source: heldout, domain: code, label: programs}, {source: multilingual, lang: de, domain: news}]
"""


def test_domains_are_those_of_the_study_file() -> None:
    found = domains_in(read_yaml(STUDY))
    assert found == Domains({"mine": "code"}, {"programs": "code", "multilingual-de": "news"})
    assert found.same("mine", "programs") and found.same("books", "books")
    assert not found.same("mine", "books") and not found.same("other", "programs")
    assert domains_in(None) == domains_in({"calibration": 3, "evaluation": []}) == Domains()


def test_a_renamed_text_is_matched_by_its_domain(tmp_path: Path) -> None:
    simulate_study(str(tmp_path), DESIGN)
    before = load(tmp_path)
    texts = before.values.filter(pl.col("measure") == "perplexity_increase")["task"].unique().to_list()
    source = next(name for name in before.trials["source"].drop_nulls().unique().sort() if name in texts)
    plain = domain_match(before)
    study = read_yaml((tmp_path / "study.yaml").read_text())
    study["calibration"] = {"source": {"source": "file", "path": "x.jsonl", "label": source, "domain": "else"}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    apart = load(tmp_path)
    matched = domain_table(apart).filter(pl.col("matched"))
    assert source not in matched["source"].to_list() and matched.height < domain_table(before)["matched"].sum()
    assert domain_match(apart)["texts"].max() == plain["texts"].max() - 1
    study["evaluation"]["heldout"] = [{"source": "file", "path": "y.jsonl", "label": source, "domain": "else"}]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    again = domain_match(load(tmp_path))
    assert again["texts"].to_list() == plain["texts"].to_list()
    assert again["difference"].to_list() == pytest.approx(plain["difference"].to_list())

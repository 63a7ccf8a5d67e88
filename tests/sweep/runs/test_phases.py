"""What is said of the work before the first trial."""

from __future__ import annotations

from typing import Any

from sweep import plan
from sweep.config import parse_study
from sweep.runs.phases import of_pool, of_requests, of_sets


def test_sets_are_named_by_source_model_and_number(document: dict[str, Any]) -> None:
    trials = plan.expand(parse_study(document))
    pools = plan.pools(trials)
    assert of_pool(pools[0]).startswith(f"{pools[0].specs[0].source.label} for tiny, {len(pools[0].ids)} set")
    assert of_sets(pools) == ("reading and tokenizing calibration text", of_pool(pools[0]))
    assert of_requests(plan.request_sets(trials)) == "tiny"


def test_a_model_that_writes_is_named(document: dict[str, Any]) -> None:
    document["calibration"]["source"] = ["books", {"source": "self_generated"}]
    pools = plan.pools(plan.expand(parse_study(document)))
    heading, detail = of_sets(pools)
    assert heading == "tiny writes calibration text"
    assert "self_generated" in detail

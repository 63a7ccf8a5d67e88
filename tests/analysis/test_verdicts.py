"""The answer as a person reads it: what to use, how sure, what it costs, what would settle it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.estimates.equivalence import ANY, UNCLEAR, USE
from analysis.evidence import Evidence
from analysis.frames import load
from analysis.verdicts import Verdict, duration, fewest_windows, verdicts

SETTLED = Verdict(
    model="m",
    method="GPTQ",
    measure="accuracy",
    kind=USE,
    named=("books",),
    others=("code", "legal"),
    ruled_out=("code",),
    probability=0.93,
    matters=0.5,
    wrong=("code", 1.25),
    windows=None,
    more_sets=None,
    seconds=None,
    on_gpu=False,
    note="",
)


def test_a_long_list_of_sources_that_will_do_is_told_by_the_others() -> None:
    assert SETTLED.use == "use books"
    assert replace(SETTLED, kind=ANY, named=("a", "b"), others=("c", "d")).use == "any of a, b"
    many = replace(SETTLED, kind=ANY, named=("a", "b", "c", "d"), others=("e", "f"))
    assert replace(many, ruled_out=("e", "f")).use == "any but e, f"
    assert replace(many, ruled_out=("f",)).use == "any but f, perhaps not e"
    assert replace(many, ruled_out=()).use == "any, perhaps not e, f"
    assert replace(SETTLED, kind=ANY, named=("a", "b"), others=()).use == "any source"
    assert replace(SETTLED, kind=UNCLEAR).use == "cannot tell; perhaps books"
    assert replace(SETTLED, kind=UNCLEAR, named=(), probability=None).use == "cannot tell"


def test_a_worst_choice_that_costs_less_than_matters_is_no_reason_against_it() -> None:
    cheap = replace(SETTLED, ruled_out=(), wrong=("code", 0.4))
    assert cheap.use == "use books; perhaps any"
    assert replace(cheap, kind=ANY, named=("a", "b"), others=("c", "d")).use == "any of a, b"
    assert replace(cheap, wrong=("code", 0.6)).use == "use books"


def test_what_settles_it_has_its_price_and_is_silent_where_it_is_settled() -> None:
    assert SETTLED.settle == ""
    open_ = replace(SETTLED, kind=UNCLEAR, more_sets=2, seconds=1800.0)
    assert open_.settle == "+2 sets, 30 min"
    assert replace(open_, on_gpu=True).settle == "+2 sets, 0.50 GPU h"
    assert replace(open_, more_sets=None).settle == "no sets would"
    assert replace(open_, more_sets=None, note="no source has two sets").settle == "two sets each"


@pytest.mark.parametrize(("seconds", "told"), [(41, "41 s"), (700, "12 min"), (7200, "2.0 h")])
def test_seconds_are_told_in_the_unit_of_their_size(seconds: float, told: str) -> None:
    assert duration(seconds, on_gpu=False) == told


def sizes(means: dict[int, list[float]]) -> pl.DataFrame:
    rows = [
        {"source": f"s{number}", "nsamples": count, "condition": f"{count}×256 windows", "mean": mean}
        for count, group in means.items()
        for number, mean in enumerate(group)
    ]
    return pl.DataFrame(rows)


def test_the_fewest_windows_do_as_well_as_the_most_on_average_over_sources() -> None:
    table = sizes({4: [50.0, 52.0], 16: [60.0, 61.0], 64: [60.2, 61.2]})
    assert fewest_windows(table, "64×256 windows", 0.5) == 16
    assert fewest_windows(table, "64×256 windows", 0.1) == 64
    assert fewest_windows(table, "64×256 windows", 50.0) == 4


def test_one_size_or_sizes_of_different_sources_are_not_compared() -> None:
    assert fewest_windows(sizes({16: [60.0, 61.0]}), "16×256 windows", 0.5) is None
    apart = sizes({4: [50.0], 16: [60.0]}).with_columns(pl.Series("source", ["a", "b"]))
    assert fewest_windows(apart, "16×256 windows", 0.5) is None


def test_verdicts_repeat_the_table_of_answers_and_the_costs_of_the_ranking(simulated: Path) -> None:
    evidence = Evidence(load(str(simulated)))
    found = verdicts(evidence, "accuracy")
    table = evidence.answers("accuracy")
    assert [(v.model, v.method, v.kind, v.probability) for v in found] == list(
        table.select("model", "method_label", "answer", "probability").iter_rows()
    )
    for verdict in found:
        assert verdict.wrong is not None
        regrets = evidence.ranks("accuracy").filter(model=verdict.model, method_label=verdict.method)
        assert verdict.wrong[1] == regrets["regret"].max()
        assert sorted(verdict.named + verdict.others) == ["books", "code", "legal"]


def test_verdicts_know_which_sources_are_ruled_out(simulated: Path) -> None:
    evidence = Evidence(load(str(simulated)), {"perplexity_increase": 0.01})
    table = evidence.answers("perplexity_increase")
    found = verdicts(evidence, "perplexity_increase")
    assert [", ".join(verdict.ruled_out) for verdict in found] == table["ruled_out"].to_list()
    assert any(verdict.ruled_out for verdict in found)

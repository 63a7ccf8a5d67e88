"""Everything that needs single examples, from one pass over `samples/`: components, flips, McNemar's counts.

Thirty-six million rows are read once, model by model; what stays are a few thousand rows of tables. The tables of
`analysis.variance` and `analysis.compare` take their part from here: who wants several of them reads the examples once
and hands them on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.checks import Limitation, listed
from analysis.domains import Domains
from analysis.estimates.component_rows import COMPONENT_SCHEMA, ComponentRows, component_rows
from analysis.estimates.flips import (
    FLIP_SCHEMA,
    MCNEMAR_SCHEMA,
    METHOD_TEST_SCHEMA,
    answers_of,
    flips,
    mcnemar,
    method_tests,
    shared_sets,
)
from analysis.estimates.forgetting import FORGETTING_SCHEMA, forgetting
from analysis.estimates.outcomes import COLUMNS, Outcomes, outcomes_by_model
from analysis.estimates.reliability import Cuts
from analysis.estimates.reliability_rows import RELIABILITY_SCHEMA, reliability_rows
from analysis.estimates.windows import MATCH_TEST_SCHEMA, match_tests
from analysis.frames import Study


@dataclass(frozen=True)
class ExampleTables:
    """What `analysis.variance` and `analysis.compare` take from single examples.

    components:   column of samples/ -> variance components.
    flips:        see `flip_table`; mcnemar: see `mcnemar_table`; forgetting: see `forgetting_table`.
    method_tests: variance (points²) that the choice of test examples gives to the accuracy difference of two methods.
    match_tests:  variance (points²) that held-out windows give to the contrast of own and other domains.
    reliability:  see `reliability_table`.
    limitations:  what was left out of `components` because trials do not hold the same examples.
    """

    components: dict[str, pl.DataFrame]
    flips: pl.DataFrame
    forgetting: pl.DataFrame
    mcnemar: pl.DataFrame
    method_tests: pl.DataFrame
    match_tests: pl.DataFrame
    reliability: pl.DataFrame
    limitations: tuple[Limitation, ...]


def read_examples(study: Study, seed: int = 0) -> ExampleTables:
    """Read samples/ once. The seed is that of the resampling behind the intervals."""
    before = dict.fromkeys(COLUMNS, 0)  # component rows of the models before: with the seed, a method's own generator
    parts: list[_OfModel] = []
    for outcomes in outcomes_by_model(study):  # one model's outcomes at a time are held
        parts.append(_of_model(outcomes, seed, before, study.domains))
        before = {column: before[column] + len(parts[-1].components[column]) for column in COLUMNS}
    order = ["parameters", "model"]

    def frame(rows: Iterable[dict[str, object]], schema: pl.Schema | dict[str, type[pl.DataType]]) -> pl.DataFrame:
        return pl.DataFrame(list(rows), schema)

    components = {
        column: frame((row for part in parts for row in part.components[column]), COMPONENT_SCHEMA)
        for column in COLUMNS
    }
    return ExampleTables(
        {column: table.sort(order, maintain_order=True) for column, table in components.items()},
        frame((row for part in parts for row in part.flips), FLIP_SCHEMA).sort(
            *order, "method_label", "source", nulls_last=True
        ),
        frame((row for part in parts for row in part.forgetting), FORGETTING_SCHEMA).sort(
            *order, "method_label", maintain_order=True
        ),
        frame((row for part in parts for row in part.mcnemar), MCNEMAR_SCHEMA).sort(*order, "a", "b"),
        frame((row for part in parts for row in part.method_tests), METHOD_TEST_SCHEMA).sort("model", "a", "b", "task"),
        frame((row for part in parts for row in part.match_tests), MATCH_TEST_SCHEMA).sort("model", "method_label"),
        frame((row for part in parts for row in part.reliability), RELIABILITY_SCHEMA).sort(
            *order, "method_label", "measure", "task"
        ),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


@dataclass(frozen=True)
class _OfModel:
    """The rows of one model, and what was left out of them."""

    components: dict[str, list[dict[str, object]]]
    flips: list[dict[str, object]]
    forgetting: list[dict[str, object]]
    mcnemar: list[dict[str, object]]
    method_tests: list[dict[str, object]]
    match_tests: list[dict[str, object]]
    reliability: list[dict[str, object]]
    notes: tuple[Limitation, ...]


def _of_model(outcomes: Outcomes, seed: int, before: dict[str, int], domains: Domains) -> _OfModel:
    labels = outcomes.trials.filter(pl.col("method") != "dense")["method_label"].unique().sort().to_list()
    rows: dict[str, list[dict[str, object]]] = {column: [] for column in COLUMNS}
    notes = list(outcomes.notes)
    for column in COLUMNS:
        for label in labels:
            rng = np.random.default_rng([seed, before[column] + len(rows[column])])
            found: ComponentRows = component_rows(outcomes, column, label, rng)
            rows[column] += found.rows
            notes += found.notes
    reliability = reliability_rows(outcomes, labels, Cuts(seed))
    answers, graded = answers_of(outcomes)
    if graded:
        text = f"Outcomes of {listed(graded)} are numbers between right and wrong; flips and McNemar's test lack them."
        notes.append(Limitation("no right or wrong", text))
    pairs = shared_sets(outcomes, labels)
    return _OfModel(
        rows,
        flips(outcomes, answers),
        forgetting(outcomes),
        mcnemar(outcomes, answers, pairs),
        method_tests(outcomes, pairs),
        match_tests(outcomes, domains),
        reliability,
        tuple(notes),
    )

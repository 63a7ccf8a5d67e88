"""A study, and the tables that several sections, findings and claims quote: each computed once, at its first use.

Reading samples/ takes as long as everything else together, ranks and correlations are drawn thousands of times. Whoever
needs several of them makes one `Evidence` and hands it on; a single table is a function of the study alone.
"""

from __future__ import annotations

from functools import cached_property

import polars as pl

from analysis.correlation import correlation_table
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.frames import Study
from analysis.measures import MEAN
from analysis.ranking import rank_table
from analysis.variance import component_table


class Evidence:
    """What is quoted of one study. Holds what it computed as long as it lives."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._ranks: dict[tuple[str, str], pl.DataFrame] = {}

    @cached_property
    def examples(self) -> ExampleTables:
        """Everything that needs single examples; reads samples/."""
        return read_examples(self.study)

    @cached_property
    def correlations(self) -> pl.DataFrame:
        """See `correlation_table`."""
        return correlation_table(self.study)

    def components(self, measure: str = "accuracy") -> pl.DataFrame:
        """See `component_table`."""
        return component_table(self.study, measure, examples=self.examples)

    def ranks(self, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
        """See `rank_table`."""
        if (measure, task) not in self._ranks:
            self._ranks[measure, task] = rank_table(self.study, measure, task)
        return self._ranks[measure, task]

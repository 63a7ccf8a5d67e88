"""A study, and the tables that several sections, findings and claims quote: each computed once, at its first use.

Reading samples/ takes as long as everything else together, ranks and correlations are drawn thousands of times. Whoever
needs several of them makes one `Evidence` and hands it on; a single table is a function of the study alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import polars as pl

from analysis.answers import PLAIN, answer_table, asked_of
from analysis.cells import measures_of
from analysis.compare import domain_match
from analysis.correlation import correlation_table
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.frames import Study
from analysis.measures import MEAN
from analysis.ranking import rank_table
from analysis.reliability import leading
from analysis.variance import component_table
from calib.settings import SettingsError


class Evidence:
    """What is quoted of one study. Holds what it computed as long as it lives.

    `matters`: measure -> the difference that matters, in its unit (`answers.PLAIN`: of the measure that leads); the
    default of `analysis.answers` for the others.
    """

    def __init__(self, study: Study, matters: Mapping[str, float] | None = None) -> None:
        self.study = study
        self.matters = dict(matters or {})
        self._ranks: dict[tuple[str, str], pl.DataFrame] = {}
        self._answers: dict[str, pl.DataFrame] = {}

    @cached_property
    def examples(self) -> ExampleTables:
        """Everything that needs single examples; reads samples/."""
        return read_examples(self.study)

    @cached_property
    def match(self) -> pl.DataFrame:
        """See `domain_match`."""
        return domain_match(self.study, examples=self.examples)

    @cached_property
    def correlations(self) -> pl.DataFrame:
        """See `correlation_table`."""
        return correlation_table(self.study)

    @cached_property
    def lead(self) -> str:
        """The measure of tasks that can tell sources apart best; see `analysis.reliability.leading`."""
        return leading(self.study, self.examples.reliability)

    @property
    def answered(self) -> tuple[str, ...]:
        """What the sections ask about, the measure that can tell first."""
        return tuple(dict.fromkeys((self.lead, "accuracy", "perplexity_increase", "perplexity")))

    def asked(self, measure: str) -> float | None:
        """The difference that was said to matter; of a change against dense it is the one of the measure itself."""
        return asked_of(self.matters, measure, self.lead) if self.matters else None

    def check_matters(self) -> None:
        """Raises SettingsError for a difference of a measure that no answer of this study is about; reads samples/."""
        answered = measures_of(self.study, self.answered)
        used = {name for measure in answered for name in (measure, measure.removesuffix("_change"))}
        for measure in self.matters:
            if measure not in {*used, PLAIN}:
                told = ", ".join(answered) or "none"
                raise SettingsError(f"--matters: no answer is about {measure}; the measures answered here: {told}")

    def components(self, measure: str = "accuracy") -> pl.DataFrame:
        """See `component_table`."""
        return component_table(self.study, measure, examples=self.examples)

    def ranks(self, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
        """See `rank_table`."""
        if (measure, task) not in self._ranks:
            self._ranks[measure, task] = rank_table(self.study, measure, task)
        return self._ranks[measure, task]

    def answers(self, measure: str = "accuracy") -> pl.DataFrame:
        """See `answer_table`."""
        if measure not in self._answers:
            size = self.asked(measure)
            self._answers[measure] = answer_table(self.study, measure, matters=size, examples=self.examples)
        return self._answers[measure]

"""The answer first: per model and method which text to use, how many windows, how sure, and what would settle the rest.

A study ends with this question, so the summary and the report begin with it. The answers are those of
`analysis.answers` for the measure that can tell best; added here is what a person weighs them with: what a wrong choice
costs (the expected regret of the source that would cost most), the smallest number of windows that does as well as the
largest, and the time that further sets would take, from the study's own seconds per trial. The hard case is a long list
of sources that will do: it is told by the others, those that are ruled out apart from those that may do as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from analysis.answers import no_answer
from analysis.cells import measures_of, size_table, tasks_without
from analysis.checks import listed
from analysis.estimates.equivalence import ANY, LEVEL, UNCLEAR
from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.page.marks import inside
from analysis.page.render import number, percent, percent_below

GPU = re.compile(r"NVIDIA|GeForce|Tesla|Instinct|Radeon")  # as torch names the devices of CUDA and ROCm
NO_REPEATS = no_answer({})  # why nothing can be told where no source has two sets


@dataclass(frozen=True)
class Verdict:
    """The answer for one model and method.

    kind:        use, any or cannot tell yet (`analysis.estimates.equivalence`).
    named:       the sources that it names, best first; the leader where it cannot be told; empty where nothing leads.
    others:      the other sources of the study.
    ruled_out:   those of them that will not do, with 90 %; of the rest these sets cannot tell.
    probability: that all named ones are within `matters` of the best; None where no two sets of a source differ.
    wrong:       the source that would cost most and its expected regret, in the measure's unit; None where unknown.
    windows:     the smallest size that does as well as the largest; None where one size was tried.
    more_sets:   further sets of each source that settle it with 80 % or more; None where none is known to.
    seconds:     of one worker, what those sets take; None where the trials recorded none.
    """

    model: str
    method: str
    measure: str
    kind: str
    named: tuple[str, ...]
    others: tuple[str, ...]
    ruled_out: tuple[str, ...]
    probability: float | None
    matters: float
    wrong: tuple[str, float] | None
    windows: int | None
    more_sets: int | None
    seconds: float | None
    on_gpu: bool
    note: str

    @property
    def use(self) -> str:
        """What to do, in a few words."""
        if self.kind == UNCLEAR:
            return f"cannot tell; perhaps {self.named[0]}" if self.named else "cannot tell"
        if not self.others:
            return "any source"
        if len(self.named) > len(self.others) and self.kind == ANY:
            return self._any_but
        if self.kind == ANY:
            return f"any of {', '.join(self.named)}"
        return f"use {self.named[0]}" + ("; perhaps any" if self._cheap else "")

    @property
    def _any_but(self) -> str:
        """Most sources, by the others: what is ruled out is not said of one that these sets cannot tell of."""
        unsure = [name for name in self.others if name not in self.ruled_out]
        but = f" but {', '.join(self.ruled_out)}" if self.ruled_out else ""
        return f"any{but}" + (f", perhaps not {', '.join(unsure)}" if unsure else "")

    @property
    def _cheap(self) -> bool:
        """Whether even the worst choice is expected to cost no more than what matters."""
        return self.wrong is not None and self.wrong[1] <= self.matters

    @property
    def sure(self) -> str:
        """How sure that is."""
        if self.probability is None:
            return ""
        return percent_below(self.probability, LEVEL) if self.kind == UNCLEAR else percent(self.probability)

    @property
    def cost(self) -> str:
        """What a wrong choice costs, in the measure's unit, and which one that is."""
        return "" if self.wrong is None else f"{number(self.wrong[1], 2)} ({self.wrong[0]})"

    @property
    def settle(self) -> str:
        """Further sets of each source that would settle it, and their time; nothing where it is settled."""
        if self.kind != UNCLEAR:
            return ""
        if self.more_sets is None:
            return "two sets each" if self.note == NO_REPEATS else "no sets would"
        time = "" if self.seconds is None else f", {duration(self.seconds, self.on_gpu)}"
        return f"+{self.more_sets} set{'s' if self.more_sets > 1 else ''}{time}"


def verdicts(evidence: Evidence, measure: str | None = None) -> list[Verdict]:
    """One per model and method that has an answer, small models first; `measure` is the one that leads by default.

    Empty where the study compares no two sources.
    """
    measure = measure or answered_measure(evidence)
    if measure is None:
        return []
    study, found = evidence.study, []
    ranks = evidence.ranks(measure)
    sizes = size_table(study, measure)
    for row in evidence.answers(measure).iter_rows(named=True):
        here = (pl.col("model") == row["model"]) & (pl.col("method_label") == row["method_label"])
        ranked = ranks.filter(here)
        sources = ranked["source"].to_list()
        named = tuple(_names_in(row["sources"] or "", sources))
        seconds, on_gpu = _seconds_of_a_set(study, row["model"], row["method_label"])
        worst = ranked.drop_nulls("regret").sort("regret", "source", descending=[True, False]).head(1)
        more = row["settled_by"]
        found.append(
            Verdict(
                model=row["model"],
                method=row["method_label"],
                measure=measure,
                kind=row["answer"],
                named=named,
                others=tuple(name for name in sources if name not in named),
                ruled_out=tuple(_names_in(row["ruled_out"] or "", sources)),
                probability=row["probability"],
                matters=row["matters"],
                wrong=None if worst.is_empty() else (worst.item(0, "source"), worst.item(0, "regret")),
                windows=fewest_windows(sizes.filter(here), study.condition, row["matters"]),
                more_sets=more,
                seconds=None if more is None or seconds is None else more * seconds,
                on_gpu=on_gpu,
                note=row["note"] or "",
            )
        )
    return found


def answered_measure(evidence: Evidence) -> str | None:
    """The measure that the answer is about: the first of those that the report asks which has an answer."""
    for measure in measures_of(evidence.study, evidence.answered):
        if not evidence.answers(measure).is_empty():
            return measure
    return None


def fewest_windows(sizes: pl.DataFrame, condition: str | None, matters: float) -> int | None:
    """The smallest number of windows whose mean over sources is within `matters` of the largest one's.

    sizes: rows of `size_table` of one model and method; those of the length and policy of `condition` are compared, for
    sources that have every size. None where one size was tried.
    """
    policy = pl.col("condition").str.replace(r"^\d+", "")
    alike = sizes.filter(policy == re.sub(r"^\d+", "", condition or "")).drop_nulls("mean")
    counts = alike["nsamples"].unique().sort().to_list()
    if len(counts) < 2:
        return None
    whole = alike.filter(pl.len().over("source") == len(counts))
    means = dict(whole.group_by("nsamples").agg(pl.col("mean").mean()).iter_rows())
    if len(means) < 2:
        return None
    best = means[counts[-1]]
    return next(int(count) for count in counts if abs(means[count] - best) <= matters or count == counts[-1])


def heading(evidence: Evidence, found: Sequence[Verdict]) -> list[str]:
    """What the answers are about, in sentences: measure, calibration sets, the difference that matters."""
    study, measure = evidence.study, found[0].measure
    info = MEASURES[measure]
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == MEAN)
    per_cell = rows.group_by("model", "method_label", "source").len()["len"]
    low, high = min(per_cell), max(per_cell)
    sets = f"{low}" if low == high else f"{low} to {high}"
    size, _, policy = (study.condition or "").partition(" ")
    windows, _, tokens = size.partition("×")
    counted = f"{windows} windows of {tokens} tokens" + ("" if policy == "windows" else f" ({policy})")
    differences = sorted(v.matters for v in found)
    sizes = amount(differences[-1], measure)
    if number(differences[0], 2) != number(differences[-1], 2):
        sizes = f"{number(differences[0], 2)} to {sizes}"
    without = tasks_without(study, measure)
    less = f"; {listed(without)} {'has' if len(without) == 1 else 'have'} none" if without else ""
    why = "as asked" if evidence.asked(measure) is not None else "say yours with --matters"
    return [
        f"{rows['source'].n_unique()} sources, {sets} set{'' if sets == '1' else 's'} of each, {counted}.",
        f"Measure: {inside(info.title)} ({info.better}{less}). Differences that matter: {sizes} ({why}).",
    ]


def windows_sentence(found: Sequence[Verdict], condition: str | None) -> str:
    """How many windows."""
    known = sorted({v.windows for v in found if v.windows is not None})
    if not known:
        windows = (condition or "").partition("×")[0]
        return f"How many windows: {windows}, the one size that was tried."
    fewest = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}, by method,"
    return (
        f"How many windows: {fewest} are the fewest of those tried that do as well as the largest size, on average "
        "over sources."
    )


def amount(value: float, measure: str) -> str:
    """A difference with its unit."""
    return f"{number(value, 2)}{unit_of(measure)}"


def unit_of(measure: str) -> str:
    """The unit of a difference, as it follows the number: ` points`, ` nats`, or nothing."""
    return {"%": " points", "": ""}.get(MEASURES[measure].unit, f" {MEASURES[measure].unit}")


def duration(seconds: float, on_gpu: bool) -> str:
    """`40 s`, `12 min` or `3.5 h`; of a GPU `0.2 GPU h`."""
    if on_gpu:
        return f"{number(seconds / 3600, 2)} GPU h"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _names_in(text: str, known: Sequence[str]) -> Iterator[str]:
    """The sources that `a, b` lists, in that order; a source may have a comma in its name."""
    longest_first = sorted(known, key=len, reverse=True)
    while text:
        name = next(name for name in longest_first if f"{text}, ".startswith(f"{name}, "))
        yield name
        text = text[len(name) + 2 :]


def _seconds_of_a_set(study: Study, model: str, method: str) -> tuple[float | None, bool]:
    """Seconds that one further set of every source takes on one worker, and whether that is a GPU."""
    rows = study.trials.filter(
        study.in_main(), pl.col("model") == model, pl.col("method_label") == method, pl.col("source").is_not_null()
    )
    on_gpu = any(GPU.search(name) for name in rows["device"].drop_nulls().unique())
    mean = rows["seconds_total"].drop_nulls().drop_nans().mean()
    return (None if not isinstance(mean, float) else mean * rows["source"].n_unique()), on_gpu

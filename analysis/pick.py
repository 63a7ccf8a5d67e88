"""Which trial to ship: that of the recommended source whose draw is the most ordinary one.

    python -m analysis.pick RESULTS --model M --method "GPTQ 4-bit g128" | python -m sweep.export --best - ...

A source that is recommended has several sets, and one model is shipped. The set with the best score has it partly by
luck, so a recommendation, which is about the source, does not hold for it; the set whose score is nearest to the median
of what is known of the source does what the recommendation says. Its place among the draws is stated: the probability
that a new set of the source would do at least as well. The hard case is a recommendation over several methods, which
names no model; then a method must be given.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import polars as pl
import typer

from analysis.answers import MATTERS_HELP, parse_matters
from analysis.frames import Study, load
from analysis.measures import MEASURES
from analysis.page.render import number, percent
from analysis.recommend import Recommendation, recommend
from calib.settings import SettingsError
from sweep.results import ResultsError


@dataclass(frozen=True)
class Pick:
    """The trial to ship. `sentences`: those of the recommendation, and one about the draw. `at_least_as_good`: the
    probability that a new set of the source would score as well or better; None where nothing is known of the draw."""

    trial: str
    source: str
    set: int
    value: float
    at_least_as_good: float | None
    sentences: tuple[str, ...]


def pick(
    study: Study,
    model: str,
    method: str | None = None,
    tasks: Sequence[str] = (),
    measure: str | None = None,
    matters: float | Mapping[str, float] | None = None,
) -> Pick:
    """The most ordinary set of the source that `recommend` leads with, as a trial.

    Raises SettingsError as `recommend` does, and where the answer is about more than one method.
    """
    said = recommend(study, model, method, tasks, measure, matters)
    rows = said.sets.filter(pl.col("source") == said.best)
    methods = study.trials.filter(pl.col("trial_id").is_in(rows["trial_id"].explode().to_list()))["method_label"]
    if (labels := methods.unique().sort().to_list())[1:]:
        raise SettingsError(f"--method: the answer is over {len(labels)} methods; give one: {', '.join(labels)}")
    values = rows["value"].to_numpy()
    place, chance = _ordinary(said, values)
    row = rows.row(place, named=True)
    about = _about(said, row["set"], float(values[place]), len(values), chance)
    return Pick(row["trial_id"][0], said.best, row["set"], float(values[place]), chance, (*said.sentences, about))


def _ordinary(said: Recommendation, values: np.ndarray) -> tuple[int, float | None]:
    """(place of the set nearest to the median of what is known of the source, chance that a new set is as good)."""
    if said.known is None:
        return int(np.abs(values - np.median(values)).argmin()), None
    sign = 1.0 if MEASURES[said.measure].higher_is_better else -1.0
    column = sorted(said.table["source"].to_list()).index(said.best)
    place = int(np.abs(sign * values - np.median(said.known.truth[:, column])).argmin())
    return place, float((said.known.new_sets()[:, column] >= sign * values[place]).mean())


def _about(said: Recommendation, number_of_set: int, value: float, sets: int, chance: float | None) -> str:
    info = MEASURES[said.measure]
    score = f"{info.title} {number(value, 4)}{' %' if info.unit == '%' else ''}"
    text = f"Shipped is set {number_of_set} of {said.best}, {score}: of its {sets} sets the one nearest to the median"
    if chance is None:
        return f"{text} of their scores."
    return (
        f"{text} of what is known of this source, not the luckiest; a new set would do at least as well with a "
        f"probability of {percent(chance)}."
    )


def main(
    results: Annotated[str, typer.Argument(help="Results folder or URI of a study.")],
    model: Annotated[str, typer.Option(help="A model of the study.")],
    method: Annotated[str | None, typer.Option(help="A method's name or label, if the model has several.")] = None,
    tasks: Annotated[str, typer.Option(help="Tasks or held-out texts that matter, separated by commas.")] = "",
    measure: Annotated[str | None, typer.Option(help="accuracy, perplexity_increase, js_divergence, ...")] = None,
    matters: Annotated[str, typer.Option(help=MATTERS_HELP)] = "",
) -> None:
    """Print, as JSON for `sweep.export --best`, the trial of the recommended source to ship, and why."""
    try:
        wanted = [task for task in re.split(r"[,\s]+", tasks) if task]
        found = pick(load(results), model, method, wanted, measure, parse_matters(matters))
    except (ResultsError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(json.dumps(asdict(found), indent=2))


if __name__ == "__main__":
    typer.run(main)

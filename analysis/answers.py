"""Use X, any of these will do, or cannot tell yet: one answer per (model, method), for a difference that matters.

How much matters is for the reader to say (`--matters 0.5`, or `--matters accuracy=0.5,perplexity_increase=2`; the same
in every command). Where nobody does, it is a tenth of what the data could matter at most: of the gap between the dense
model and the data-free control of the same size, which is what compression costs when it sees no data at all. It is
never less than half an SD of one draw: near chance that gap is next to nothing, and a difference that one set hides
cannot matter to whoever draws one. Without a dense model or a control it is half an SD of one draw. The answer says
which.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.cells import baselines
from analysis.estimates.equivalence import UNCLEAR, Answer, answer
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.estimates.posterior import Posterior
from analysis.estimates.ranks import posterior_of
from analysis.estimates.settle import settling
from analysis.estimates.spreads import far_words, repeats, typical
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.variance import example_noise
from calib.settings import SettingsError, suggestion

SHARE = 0.1  # of the gap between the dense model and the data-free control
DRAW_SHARE = 0.5  # of the SD of one draw, where there is no such gap or a smaller one
MATTERS_HELP = (
    "The difference that matters, in the measure's unit: 0.5, or accuracy=0.5,perplexity_increase=2; "
    "default: a tenth of the gap between dense and the data-free control, half an SD of one draw at least."
)
PLAIN = ""  # what a number without a measure is known by

ANSWER_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "task": pl.String,
    **dict.fromkeys(["answer", "sources", "ruled_out"], pl.String),
    **dict.fromkeys(["matters", "probability", "leader_will_do", "all_will_do"], pl.Float64),
    "settled_by": pl.Int64,
    **dict.fromkeys(["settled_chance", "never_settled"], pl.Float64),
    "about": pl.String,
    "note": pl.String,
}


@dataclass(frozen=True)
class Matters:
    """A difference that matters, in the measure's unit, and where it comes from, in words."""

    value: float
    why: str


def matters_of(
    study: Study, model: str, labels: Sequence[str], measure: str, tasks: Sequence[str], cells: Mapping[str, np.ndarray]
) -> Matters:
    """The default for a model, the mean over some methods and over some tasks (`mean`: over all)."""
    pairs = baselines(study)
    rows = study.main.filter(
        pl.col("model") == model, pl.col("measure") == measure, pl.col("task").is_in(list(tasks))
    ).drop_nulls("value")
    value = {
        (r["method_label"], r["task"]): r["value"]
        for r in rows.filter(pl.col("source").is_null()).iter_rows(named=True)
    }
    dense = rows.filter(pl.col("method") == "dense")["method_label"].unique().to_list()
    gaps = []
    for label in labels:
        control = pairs.get(label)
        for task in tasks:
            after = value.get((control, task)) if control else None
            before = 0.0 if _is_relative(measure) else value.get((dense[0], task)) if dense else None
            gaps.append(None if after is None or before is None else abs(after - before))
    known = [gap for gap in gaps if gap is not None]
    kept, _ = typical(list(cells.values()))
    spreads = [group.var(ddof=1) for group in kept if len(group) > 1]
    spread = float(np.mean(spreads)) ** 0.5 if spreads else 0.0
    if known and len(known) == len(gaps) and sum(known) > 0:
        named = " and ".join(sorted({pairs[label] for label in labels}))
        tenth = SHARE * float(np.mean(known))
        if tenth >= DRAW_SHARE * spread:
            return Matters(tenth, f"a tenth of the gap between dense and {named}")
        why = f"half an SD of one draw, as a tenth of the gap between dense and {named} is less"
        return Matters(DRAW_SHARE * spread, why)
    uncontrolled = [label for label in labels if label not in pairs]
    wanting = [] if dense or _is_relative(measure) else ["a dense model"]
    wanting += [f"a data-free control of the size of {', '.join(uncontrolled)}"] if uncontrolled else []
    if wanting:
        why = f"for want of {' and '.join(wanting)}"
    elif len(known) < len(gaps):
        why = "for want of values of dense or of the data-free control"
    else:
        why = "as dense and the data-free control do not differ"
    return Matters(DRAW_SHARE * spread, f"half an SD of one draw, {why}")


def _is_relative(measure: str) -> bool:
    """Measures of which the dense model has zero by definition."""
    return measure.endswith("_change") or measure in (
        "perplexity_increase",
        "js_divergence",
        "kl_divergence",
        "kl_divergence_reverse",
        "layer_error",
    )


def parse_matters(text: str) -> dict[str, float]:
    """`0.5` or `accuracy=0.5,perplexity_increase=2` as numbers by measure, a number alone by `PLAIN`.

    A number alone is of the measure that is asked about: the one of a recommendation, the one that a report leads with.
    Raises SettingsError for anything else, and for a measure that is given twice, by itself or against dense.
    """
    found: dict[str, float] = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        measure, equals, number = part.rpartition("=")
        if not equals and part in MEASURES:
            raise SettingsError(f"--matters: expected {part}=NUMBER, got '{part}'")
        if equals and measure not in MEASURES:
            raise SettingsError(f"--matters: unknown measure '{measure}'{suggestion(measure, MEASURES)}")
        if any(measure.removesuffix("_change") == name.removesuffix("_change") for name in found):
            raise SettingsError(f"--matters: {measure or 'a number without a measure'} is given twice, in '{text}'")
        found[measure] = _difference(part, number, f"{measure}=NUMBER" if equals else "NUMBER or MEASURE=NUMBER")
    return found


def _difference(part: str, number: str, expected: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise SettingsError(f"--matters: expected {expected}, got '{part}'") from None
    if not (value > 0 and math.isfinite(value)):
        raise SettingsError(f"--matters: expected a finite difference above 0, got '{part}'")
    return value


def asked_of(matters: Mapping[str, float], measure: str, lead: str) -> float | None:
    """The difference that was said to matter: of a change against dense it is the one of the measure itself.

    A number without a measure is that of `lead`.
    """
    base = measure.removesuffix("_change")
    plain = matters.get(PLAIN) if base == lead.removesuffix("_change") else None
    return matters.get(measure, matters.get(base, plain))


def answer_table(
    study: Study,
    measure: str = "accuracy",
    task: str = MEAN,
    matters: float | None = None,
    *,
    examples: ExampleTables | None = None,
) -> pl.DataFrame:
    """Which source to use per (model, method), for a difference that matters (in the measure's unit).

    `answer`: use, any or cannot tell yet; `probability`: that all of `sources` are within `matters` of the best one.
    `ruled_out`: those that are further away with 90 %; of the sources in neither list these sets cannot tell.
    `leader_will_do`, `all_will_do`: the same of the leader alone and of every source. `settled_by`: further sets of
    each source after which an answer can be given with probability `settled_chance` or more; `never_settled`: the
    probability that a hundred do not suffice. `about`: whether it speaks of the task or of these test examples.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    rows = rows.sort("parameters", "model", "method_label", "source", "set")
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    noise = example_noise(study, measure, task, examples=examples or read_examples(study))
    found: list[dict[str, object]] = []
    keys = ["model", "parameters", "method_label"]
    for key, part in rows.group_by(keys, maintain_order=True):
        context = {**dict(zip(keys, key, strict=True)), "task": task}
        cells = {str(s): sign * p["value"].to_numpy() for (s,), p in part.group_by("source", maintain_order=True)}
        if len(cells) < 2:
            continue
        model, label = str(context["model"]), str(context["method_label"])
        wanted = matters if matters is not None else matters_of(study, model, [label], measure, [task], cells).value
        of_test = noise.get((model, label))
        about = "these test examples" if of_test is None else "the task"
        row = {**context, "matters": wanted, "about": about}
        known = posterior_of(cells, of_test or 0.0)
        if known is None or wanted <= 0:
            found.append({**row, "answer": UNCLEAR, "note": no_answer(cells)})
            continue
        found.append({**row, **_answered(known, answer(known, wanted), sorted(cells), cells)})
    return pl.DataFrame(found, ANSWER_SCHEMA).sort("parameters", "model", "method_label")


def _answered(
    known: Posterior, said: Answer, names: Sequence[str], cells: Mapping[str, np.ndarray]
) -> dict[str, object]:
    groups = [cells[name] for name in names]
    _, far = typical(groups)
    row: dict[str, object] = {
        "answer": said.kind,
        "sources": ", ".join(names[index] for index in said.sources),
        "ruled_out": ", ".join(names[index] for index in said.ruled_out),
        "probability": said.probability,
        "leader_will_do": said.one,
        "all_will_do": said.every,
        "note": far_words(names, groups, far),
    }
    if said.kind == UNCLEAR:
        plan = settling(known, said.matters)
        least = None if plan.sets is None else plan.wanted
        row |= {"settled_by": plan.sets, "settled_chance": least, "never_settled": plan.never}
    return row


def no_answer(cells: Mapping[str, np.ndarray]) -> str:
    """Why the draws of a source cannot be judged."""
    if all(len(values) < 2 for values in cells.values()):
        return "no source has two sets"
    bound = repeats(list(cells.values()))
    return f"no two sets of a source differ; at least {100 * bound:.0f} % of new sets repeat their source's value"

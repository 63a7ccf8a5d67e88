"""What does compression take: facts, answers that are made to mislead, or text that no calibration set looks like?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.estimates.forgetting import THIRDS
from analysis.estimates.welch import Interval, contrast
from benchmarks.findings.arms import Contrast, chart, origin, smollm2
from benchmarks.findings.evidence import DATA, in_points, listed, sure
from benchmarks.findings.page import Page

STUDY, TRIALS = "knowledge_smollm2", 146
FLIPS = DATA / f"{STUDY}_flips.parquet"  # there once the dense model has its trial
PARTS = {"*attn*": "attention", "*mlp*": "MLP"}
ALL = "all"
WEIGHTS = 3  # weights of the MLP for one of the attention in a block of SmolLM2-135M: 3·576·1,536 to 2·576·(576 + 192)
OWN = "encyclopedia"  # the source that the facts are cut from, in other documents
WHAT = (
    "*Names* and *years*: a sentence of an encyclopedia or a textbook breaks off before one, which is to be ranked among ten; right is "
    "rank one. *Misleading*: the true continuation of a document against three passages of it that another model, reference-17m, finds "
    "likeliest; *continuation*: against three random ones. *Last word*: LAMBADA."
)


@dataclass(frozen=True)
class Kind:
    """Questions of one kind: the tasks whose name begins so, their measure, and what chance gives of it."""

    name: str
    tasks: str
    measure: str = "accuracy"
    decimals: int = 1
    chance: float = 0.0


FACTS = Kind("facts", "reference_facts", chance=10)
NAMES, YEARS = Kind("names", "reference_facts_names", chance=10), Kind("years", "reference_facts_years", chance=10)
MISLEADING = Kind("misleading", "reference_adversarial", chance=25)
RANDOM = Kind("continuation", "reference_continuation", chance=25)
LAST = Kind("last word", "reference_lambada")
ASKED = (NAMES, YEARS, MISLEADING, RANDOM, LAST)
LEVELS = (
    Kind("reciprocal rank of names", NAMES.tasks, "reciprocal_rank", 3),
    Kind("of years", YEARS.tasks, "reciprocal_rank", 3),
    Kind("expected calibration error, %", "mean", "ece"),
    Kind("bits a byte, wave as hex digits", "reference_bytes_wave", "bits_per_byte", 2),
    Kind("random walk", "reference_bytes_walk", "bits_per_byte", 2),
    Kind("noise", "reference_bytes_noise", "bits_per_byte", 2),
)


@dataclass(frozen=True)
class Way:
    """A method, and the part of each block whose weights it compresses."""

    method: str
    part: str = ALL

    @property
    def name(self) -> str:
        return self.method if self.part == ALL else f"{self.method}, {self.part} alone"

    @property
    def short(self) -> str:
        return f"{self.method.split()[0]}, {self.part}"


Values = Mapping[str, np.ndarray]  # source (empty: without data) -> [sets]
Table = tuple[list[str], list[list[str]]]


def page() -> Page:
    frame = pl.read_parquet(DATA / f"{STUDY}.parquet")
    ways = ways_of(frame)
    lost = {kind: changes(frame, kind) for kind in (*ASKED, FACTS)}
    dense = {kind: dense_accuracy(frame, kind) for kind in lost}
    whole = [way for way in ways if way.part == ALL and len(lost[NAMES][way]) > 1]
    gaps = [
        Contrast(
            way.short,
            f"{kind.name} (dense {dense[kind]:.0f} %)",
            over_sources(lost[kind][way]),
            0,
        )
        for kind in ASKED
        for way in ways
    ]
    sets = frame.drop_nulls("source").filter(pl.col("method_label") == whole[0].method)
    drawn = f"{sets['trial_id'].n_unique()} sets from {sets['source'].n_unique()} sources"
    return Page(
        name="knowledge",
        question="What does compression take: facts, answers that are made to mislead, or text that no calibration set looks like?",
        title=_title(lost, dense, whole),
        answer=f"{WHAT} {_answer(lost, dense, whole)}",
        chart=chart(
            gaps,
            "Right answers, minus dense, points",
            f"Mean of {drawn}, 95 % intervals. Left of zero: lost.",
            "points",
            lambda value: float("nan") if value is None else value,
            shared=True,
        ),
        table=_changed(lost, dense, ways),
        more={
            "Ranks, confidence and foreign bytes": _levels(frame, ways),
            **({"Answers that turned, by how sure the dense model was": _turned(ways)} if FLIPS.is_file() else {}),
            f"Does {OWN} text, which the facts are like, keep them?": _own(lost, whole),
        },
        published=(
            "The Cost of Compression (arXiv 2312.00960), by its abstract, asks compressed encoders and decoders for the knowledge that "
            "their parameters hold, beside perplexity and downstream tasks. Hooker et al. (arXiv 1911.05248), by their abstract, find "
            "that pruned image classifiers lose much on few examples. We know of no published comparison with intervals over calibration sets."
        ),
        limits=_limits(frame, drawn),
        origin=origin(
            STUDY,
            smollm2(
                "GPTQ to 3 bits in groups of 64 and SparseGPT 2:4 of the attention, the MLP and both, sets of 32 windows of 512 tokens",
                "H200 (one, then two)",
            ),
            corrected=False,
        ),
    )


def ways_of(frame: pl.DataFrame) -> list[Way]:
    """Methods by name, those without data last; the parts before the whole."""
    labels = frame.filter(pl.col("method_label") != "dense").select("method_label", free=pl.col("source").is_null())
    order = [*PARTS.values(), ALL]
    found = [(free, _way(label)) for label, free in labels.unique().iter_rows()]
    return [way for _, way in sorted(found, key=lambda pair: (pair[0], pair[1].method, order.index(pair[1].part)))]


def changes(frame: pl.DataFrame, kind: Kind) -> dict[Way, Values]:
    """Right answers minus those of the dense model, points, of every set: the mean over the kind's tasks."""
    rows = _rows(frame, kind.tasks, "flips_wrong_to_right", "flips_right_to_wrong")
    signs = pl.when(pl.col("measure") == "flips_wrong_to_right").then(100.0).otherwise(-100.0)
    return _by_way(
        rows.with_columns(value=2 * signs * pl.col("value"))
    )  # two rows a task, so the mean is half of the sum


def dense_accuracy(frame: pl.DataFrame, kind: Kind) -> float:
    """What the dense model answers right, %: any compressed trial's accuracy less its change."""
    way, change = next(iter(changes(frame, kind).items()))
    source = next(iter(change))
    accuracy = _by_way(_rows(frame, kind.tasks, "accuracy"))[way][source]
    return float((accuracy - change[source])[0])


def over_sources(values: Values) -> Interval:
    """The mean over sources, each with a variance of its own."""
    return contrast(list(values.values()), [1 / len(values)] * len(values))


def turned(ways: Sequence[Way]) -> dict[Way, dict[str, tuple[Interval, float]]]:
    """Way -> third of the questions by the dense margin -> (% of its answers that turned, % of those that were lost)."""
    trials = pl.read_parquet(DATA / f"{STUDY}.parquet").select("trial_id", "method_label", "source", "set").unique()
    counts = pl.read_parquet(FLIPS).group_by("trial_id", "third").agg(pl.col("examples", "lost", "gained").sum())
    rows = counts.join(trials, on="trial_id").with_columns(
        value=100 * (pl.col("lost") + pl.col("gained")) / pl.col("examples")
    )
    found: dict[Way, dict[str, tuple[Interval, float]]] = {way: {} for way in ways}
    for third in THIRDS:
        here = rows.filter(pl.col("third") == third)
        values = _by_way(here)
        for way in ways:
            of_way = here.filter(pl.col("method_label") == _label(way))
            every = int((of_way["lost"] + of_way["gained"]).sum())
            found[way][third] = over_sources(values[way]), 100 * of_way["lost"].sum() / max(every, 1)
    return found


def _title(lost: Mapping[Kind, Mapping[Way, Values]], dense: Mapping[Kind, float], whole: Sequence[Way]) -> str:
    points = {
        part: [-over_sources(lost[FACTS][Way(way.method, part)]).value for way in whole]
        for part in (*PARTS.values(), ALL)
    }
    kept = [_against_others(lost[FACTS][way]) for way in whole]
    told = (
        f"Compression takes {_range(points[ALL])} of {dense[FACTS]:.0f} points of facts, that of the MLP alone "
        f"{_range(points['MLP'])}, of the attention alone {_range(points['attention'])}"
    )
    if all(sure(gap) == 1 for gap in kept):
        told += f"; text of the facts' own kind keeps {_range([gap.value for gap in kept])} of them"
    if not FLIPS.is_file():
        return told
    thirds = turned(whole)
    close, clear = ([thirds[way][third][0].value for way in whole] for third in (THIRDS[0], THIRDS[-1]))
    return f"{told}; {_range(close)} % of the closest third of answers turn, {_range(clear)} % of the clearest"


def _answer(lost: Mapping[Kind, Mapping[Way, Values]], dense: Mapping[Kind, float], whole: Sequence[Way]) -> str:
    """Per method, what of the dense model's right answers beyond chance is gone, by kind."""
    told = [
        f"{way.name} "
        + listed([f"{_share(over_sources(lost[kind][way]), dense[kind], kind)} of {kind.name}" for kind in ASKED])
        for way in whole
    ]
    return f"Of what the dense model answers right beyond chance, so much is gone: {'; '.join(told)}."


def _limits(frame: pl.DataFrame, drawn: str) -> str:
    trials = frame["trial_id"].n_unique()
    part = f"{trials} of the study's {TRIALS} trials were run ({drawn}). " if trials < TRIALS else ""
    return (
        f"{part}One small model, which knows little. A block's MLP has {WEIGHTS} times the weights of its attention, so what either costs "
        "is not told a weight. SmolLM2's weights are those of a Q4_1 GGUF file. Whether the facts stood in what the model was "
        "trained on is not known, a sentence may give its answer away, and the misleading passages mislead another model. Intervals are over calibration sets alone; the questions "
        "are these: 240 names, 70 years, 144 misleading and 900 random continuations, 400 last words."
    )


def _changed(lost: Mapping[Kind, Mapping[Way, Values]], dense: Mapping[Kind, float], ways: Sequence[Way]) -> Table:
    head = ["right answers minus dense, points", *(f"{kind.name} (dense {dense[kind]:.1f} %)" for kind in ASKED)]
    return head, [[way.name, *(in_points(over_sources(lost[kind][way])) for kind in ASKED)] for way in ways]


def _levels(frame: pl.DataFrame, ways: Sequence[Way]) -> Table:
    """The dense model's value on top, where it has been asked."""
    values = {kind: _by_way(_rows(frame, kind.tasks, kind.measure)) for kind in LEVELS}
    dense = [way for way in values[LEVELS[0]] if way.method == "dense"]
    rows = [
        [way.name, *(_plain(over_sources(values[kind][way]), kind.decimals) for kind in LEVELS)]
        for way in (*dense, *ways)
    ]
    return ["method", *(kind.name for kind in LEVELS)], rows


def _turned(ways: Sequence[Way]) -> Table:
    margins = pl.read_parquet(FLIPS).select("task", "third", "margin").unique()
    medians = {third: float(margins.filter(pl.col("third") == third)["margin"].to_numpy().mean()) for third in THIRDS}
    rows = [
        [way.name, *(f"{_plain(gap, 1)}, {gone:.0f} % lost" for gap, gone in thirds.values())]
        for way, thirds in turned(ways).items()
    ]
    return ["turned, % of the third", *(f"{third} (margin {medians[third]:.1f} nats)" for third in THIRDS)], rows


def _own(lost: Mapping[Kind, Mapping[Way, Values]], whole: Sequence[Way]) -> Table:
    rows = [[kind.name, *(in_points(_against_others(lost[kind][way])) for way in whole)] for kind in ASKED]
    return [f"right answers, {OWN} minus the other sources, points", *(way.name for way in whole)], rows


def _against_others(values: Values) -> Interval:
    others = [part for name, part in values.items() if name != OWN]
    return contrast([values[OWN], *others], [1.0, *([-1 / len(others)] * len(others))])


def _rows(frame: pl.DataFrame, tasks: str, *measures: str) -> pl.DataFrame:
    chosen = frame.filter(pl.col("measure").is_in(measures), pl.col("task").str.starts_with(tasks))
    return chosen.with_columns(pl.col("value").cast(pl.Float64))


def _by_way(rows: pl.DataFrame) -> dict[Way, Values]:
    """The mean of each trial's rows, as way -> source -> [sets]."""
    keys = ["method_label", "source", "set"]
    means = rows.with_columns(pl.col("source").fill_null("")).group_by(keys).agg(pl.col("value").mean()).sort(keys)
    found: dict[Way, dict[str, np.ndarray]] = {}
    for (label, source), part in means.group_by("method_label", "source", maintain_order=True):
        found.setdefault(_way(str(label)), {})[str(source)] = part["value"].to_numpy()
    return dict(found)


def _way(label: str) -> Way:
    method, on, pattern = label.partition(" on ")
    return Way(method, PARTS[pattern]) if on else Way(method)


def _label(way: Way) -> str:
    patterns = {part: pattern for pattern, part in PARTS.items()}
    return way.method if way.part == ALL else f"{way.method} on {patterns[way.part]}"


def _plain(gap: Interval, decimals: int) -> str:
    if gap.low is None or gap.high is None:
        return f"{gap.value:.{decimals}f}"
    return f"{gap.value:.{decimals}f} ({gap.low:.{decimals}f} to {gap.high:.{decimals}f})".replace("-", "−")


def _share(gap: Interval, dense: float, kind: Kind) -> str:
    """What a change in points is of the dense model's answers beyond chance: `31 % (28 to 34)`."""
    value, low, high = (-100 * (part or 0.0) / (dense - kind.chance) for part in (gap.value, gap.high, gap.low))
    return f"{value:.0f} % ({low:.0f} to {high:.0f})".replace("-", "−")


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{value:.0f}".replace("-", "−") for value in (min(values), max(values))))

"""What does compression take: facts, answers that are made to mislead, or text that no calibration set looks like?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.estimates.forgetting import THIRDS
from analysis.estimates.welch import Interval, contrast
from benchmarks.findings.arms import Contrast, chart, origin, smollm2
from benchmarks.findings.evidence import DATA, listed, signed
from benchmarks.findings.page import Page

STUDY = "knowledge_smollm2"
PARTS = {"*attn*": "attention", "*mlp*": "MLP"}
ALL = "all"
WEIGHTS = (
    3.0  # weights of the MLP for one of the attention in a block of SmolLM2-135M: 3·576·1,536 to 2·576·(576 + 192)
)


@dataclass(frozen=True)
class Kind:
    """Questions of one kind: the tasks whose name begins so, their measure, and its value by chance."""

    name: str
    tasks: str
    measure: str = "accuracy"
    decimals: int = 1
    chance: float = 0.0


NAMES, YEARS = Kind("names", "reference_facts_names", chance=10), Kind("years", "reference_facts_years", chance=10)
FACTS = Kind("facts", "reference_facts", chance=10)
RANK = Kind("facts, reciprocal rank", "reference_facts", "reciprocal_rank", 3)
MISLEADING = Kind("misleading", "reference_adversarial", chance=25)
RANDOM = Kind("continuation", "reference_continuation", chance=25)
LAST = Kind("last word", "reference_lambada")
ANSWERED = (NAMES, YEARS, MISLEADING, RANDOM, LAST)
BYTES = tuple(
    Kind(name, f"reference_bytes_{task}", "bits_per_byte", 2)
    for name, task in (("wave", "wave"), ("random walk", "walk"), ("noise", "noise"))
)
CONFIDENCE = Kind("expected calibration error, %", "mean", "ece")
EXPLAINED = (
    "*Names* and *years*: a sentence of an encyclopedia or textbook breaks off before one, to be ranked among ten; right is rank one. "
    "*Misleading*: the true continuation of a document against three passages of it that another model, reference-17m, finds likeliest; "
    "*continuation*: against three random ones. *Last word*: LAMBADA."
)


@dataclass(frozen=True, order=True)
class Way:
    """A method, and the part of each block whose weights it compresses."""

    method: str
    part: str = ALL

    @property
    def name(self) -> str:
        return self.method if self.part == ALL else f"{self.method}, {self.part} alone"


Values = Mapping[str, np.ndarray]  # source (empty: data-free) -> [sets], change against dense


def page() -> Page:
    frame = pl.read_parquet(DATA / f"{STUDY}.parquet")
    ways = _ways(frame)
    found = {kind: changes(frame, kind, ways) for kind in (*ANSWERED, FACTS, RANK, *BYTES, CONFIDENCE)}
    whole = [way for way in ways if way.part == ALL and len(found[NAMES][way]) > 1]
    gaps = [
        Contrast(way.name, f"{kind.name} ({_dense(frame, kind):.0f} % dense)", over_sources(found[kind][way]), 0)
        for kind in ANSWERED
        for way in ways
    ]
    return Page(
        name="knowledge",
        question="What does compression take: facts, answers that are made to mislead, or text that no calibration set looks like?",
        title=_title(found, whole),
        answer=f"{EXPLAINED} {_answer(frame, found, whole)}",
        chart=chart(
            gaps,
            "Right answers, minus dense, points",
            "Mean of 24 sets from four sources, 95 % intervals. Left of zero: lost.",
            "points",
            lambda value: math.nan if value is None else value,
            shared=True,
        ),
        table=_table(frame, found, ANSWERED, ways, "right answers, %"),
        more={
            "Ranks, and how sure the model is": _table(frame, found, (RANK, CONFIDENCE), ways, "measure"),
            "Numbers as hex digits, bits a byte": _table(frame, found, BYTES, ways, "bits a byte"),
            "Answers that turned, by how sure the dense model was": _turned(ways),
            "Does text of the facts' own kind keep them?": _own(found, whole),
        },
        published=(
            "The Cost of Compression (arXiv 2312.00960), by its abstract, compresses encoders and decoders and asks for the knowledge "
            "that parameters hold, beside perplexity and downstream tasks. Hooker et al. (arXiv 1911.05248), by its abstract, find that pruned "
            "image classifiers lose on few examples much. We know of no published comparison with intervals over calibration sets."
        ),
        limits=(
            f"One small model, which knows little. A block's MLP has {WEIGHTS:.0f} times the weights of its attention, so what either costs is "
            "not told a weight. SmolLM2's weights are those of a Q4_1 GGUF file. The facts are cut from two corpora, and whether they stood in what "
            "the model was trained on is not known; misleading passages are those of another model. Questions are these: intervals are over calibration sets alone."
        ),
        origin=origin(
            STUDY,
            smollm2(
                "GPTQ to 3 bits in groups of 64 and SparseGPT 2:4 of the attention, the MLP and both, four sources, six sets of 32 windows of 512 tokens",
                "one H200",
            ),
        ),
    )


def _title(found: Mapping[Kind, Mapping[Way, Values]], whole: Sequence[Way]) -> str:
    of_part = {
        part: [over_sources(found[FACTS][Way(way.method, part)]).value for way in whole]
        for part in (*PARTS.values(), ALL)
    }
    thirds = [turned([way])[way] for way in whole]
    close, clear = ([part[third][0].value for part in thirds] for third in (THIRDS[0], THIRDS[-1]))
    return (
        f"Compressing the MLP alone takes {_range(of_part['MLP'], 1)} points of facts, the attention alone "
        f"{_range(of_part['attention'], 1)}, both {_range(of_part[ALL], 1)}; of answers given by a hair "
        f"{_range(close)} % turn, of clear ones {_range(clear)} %"
    )


def _answer(frame: pl.DataFrame, found: Mapping[Kind, Mapping[Way, Values]], whole: Sequence[Way]) -> str:
    """Per method, what of the dense model's right answers above chance is gone, by kind."""
    told = []
    for way in whole:
        shares = []
        for kind in (FACTS, MISLEADING, RANDOM, LAST):
            gap = over_sources(found[kind][way])
            shares.append(f"{kind.name} {_share(gap, _dense(frame, kind) - kind.chance)}")
        told.append(f"{way.name}: {listed(shares)}")
    return f"Of what the dense model answers right beyond chance, so much is gone. {'; '.join(told)}."


def _share(gap: Interval, above: float) -> str:
    """`31 % (28 to 34)`, what is gone of what was `above` chance, points."""
    value, low, high = (f"{-100 * (part or 0) / above:.0f}" for part in (gap.value, gap.high, gap.low))
    return f"{value} % ({low} to {high})".replace("-", "−")


def _range(values: Sequence[float], digits: int = 0) -> str:
    """`12 to 30`, sizes without signs where all are losses."""
    least, most = sorted(abs(value) for value in values)[:: len(values) - 1]
    return f"{least:.{digits}f} to {most:.{digits}f}"


def changes(frame: pl.DataFrame, kind: Kind, ways: Sequence[Way]) -> dict[Way, Values]:
    """Way -> source -> [sets], the mean over the kind's tasks minus that of the dense model."""
    rows = _rows(frame, kind).group_by("method_label", "source", "set").agg(pl.col("value").mean())
    dense = _dense(frame, kind)
    found: dict[Way, Values] = {}
    for way in ways:
        part = rows.filter(pl.col("method_label") == _label(way)).with_columns(pl.col("source").fill_null(""))
        found[way] = {
            str(source): group.sort("set")["value"].to_numpy() - dense
            for (source,), group in part.sort("source").group_by("source", maintain_order=True)
        }
    return found


def over_sources(values: Values) -> Interval:
    """The mean over sources, each with a variance of its own."""
    return contrast(list(values.values()), [1 / len(values)] * len(values))


def _rows(frame: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    chosen = frame.filter(pl.col("measure") == kind.measure, pl.col("task").str.starts_with(kind.tasks))
    return chosen.with_columns(pl.col("value").cast(pl.Float64))


def _dense(frame: pl.DataFrame, kind: Kind) -> float:
    rows = _rows(frame, kind).filter(pl.col("method_label") == "dense")
    return float(rows["value"].to_numpy().mean())


def _ways(frame: pl.DataFrame) -> list[Way]:
    """Methods by name, the parts before the whole; data-free ones last."""
    labels = frame.filter(pl.col("method_label") != "dense").select("method_label", free=pl.col("source").is_null())
    order = [*PARTS.values(), ALL]
    ways = [(free, *_split(label)) for label, free in labels.unique().iter_rows()]
    return [Way(method, part) for _, method, part in sorted(ways, key=lambda w: (w[0], w[1], order.index(w[2])))]


def _split(label: str) -> tuple[str, str]:
    method, on, pattern = label.partition(" on ")
    return (method, PARTS[pattern]) if on else (method, ALL)


def _label(way: Way) -> str:
    patterns = {part: pattern for pattern, part in PARTS.items()}
    return way.method if way.part == ALL else f"{way.method} on {patterns[way.part]}"


Table = tuple[list[str], list[list[str]]]


def _table(
    frame: pl.DataFrame,
    found: Mapping[Kind, Mapping[Way, Values]],
    kinds: Sequence[Kind],
    ways: Sequence[Way],
    what: str,
) -> Table:
    """A row a method and part, a column a kind of question; on top the dense model itself."""
    dense = ["dense", *(f"{_dense(frame, kind):.{kind.decimals}f}" for kind in kinds)]
    rows = [[way.name, *(_told(over_sources(found[kind][way]), kind.decimals) for kind in kinds)] for way in ways]
    return [f"{what}, minus dense", *(kind.name for kind in kinds)], [dense, *rows]


def _told(gap: Interval, decimals: int) -> str:
    value = signed(gap.value, decimals)
    if gap.low is None or gap.high is None:
        return value
    return f"{value} ({signed(gap.low, decimals)} to {signed(gap.high, decimals)})"


def turned(ways: Sequence[Way]) -> dict[Way, dict[str, tuple[Interval, float]]]:
    """Way -> third -> (% of its answers that turned, of these the % that were lost)."""
    trials = pl.read_parquet(DATA / f"{STUDY}.parquet").select("trial_id", "method_label", "source", "set").unique()
    rows = (
        pl.read_parquet(DATA / f"{STUDY}_flips.parquet")
        .group_by("trial_id", "third")
        .agg(pl.col("examples", "lost", "gained").sum())
    )
    flipped = 100 * (pl.col("lost") + pl.col("gained")) / pl.col("examples")
    rows = rows.join(trials, on="trial_id").with_columns(flipped.alias("flipped"), pl.col("source").fill_null(""))
    found: dict[Way, dict[str, tuple[Interval, float]]] = {}
    for way in ways:
        found[way] = {}
        for third in THIRDS:
            part = rows.filter(pl.col("method_label") == _label(way), pl.col("third") == third).sort("source", "set")
            groups = [group["flipped"].to_numpy() for _, group in part.group_by("source", maintain_order=True)]
            gone = part.select(100 * pl.col("lost").sum() / (pl.col("lost") + pl.col("gained")).sum()).item()
            found[way][third] = contrast(groups, [1 / len(groups)] * len(groups)), float(gone)
    return found


def _turned(ways: Sequence[Way]) -> Table:
    margins = pl.read_parquet(DATA / f"{STUDY}_flips.parquet").select("task", "third", "margin").unique()
    medians = {third: float(margins.filter(pl.col("third") == third)["margin"].to_numpy().mean()) for third in THIRDS}
    rows = []
    for way, thirds in turned(ways).items():
        told = []
        for gap, gone in thirds.values():
            limits = "" if gap.low is None or gap.high is None else f" ({gap.low:.1f} to {gap.high:.1f})"
            told.append(f"{gap.value:.1f}{limits}, {gone:.0f} % lost")
        rows.append([way.name, *told])
    return ["% of a third that turned", *(f"{third} (margin {medians[third]:.1f} nats)" for third in THIRDS)], rows


def _own(found: Mapping[Kind, Mapping[Way, Values]], whole: Sequence[Way]) -> Table:
    """Calibrated on the encyclopedia, which the facts are cut from (other documents), against the other sources."""
    rows = []
    for kind in (*ANSWERED, RANK):
        gaps = [_told(_against_others(found[kind][way]), kind.decimals) for way in whole]
        rows.append([kind.name, *gaps])
    return ["encyclopedia minus the other three sources", *(way.name for way in whole)], rows


def _against_others(values: Values, source: str = "encyclopedia") -> Interval:
    others = [part for name, part in values.items() if name != source]
    return contrast([values[source], *others], [1.0, *([-1 / len(others)] * len(others))])

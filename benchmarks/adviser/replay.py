"""The adviser on finished studies: every loss it asks for was measured before, so that repetitions cost milliseconds.

A finished study has 12 sets of each source, too few to hide some from the adviser and judge by the rest without the
judge's own luck deciding which source "is" best (the least of nine means of six sets lies about .6 SD of a draw below
its truth). So there are two replays:

resampled   The 12 sets of a source stand for all it could give. Each repetition gives the adviser draws from them with
            replacement, as new draws would come, screen and full loss of one set together. The truth is exactly known:
            the mean of the 12. No draw that it saw was drawn to judge it.
held out    Six sets, drawn anew in each repetition, are for the adviser; the other six judge. `gain` over a random
            source is free of bias. Regret is against the source that all 12 sets show as best; the luck of the judging
            sets is part of that choice, so it overstates.

Losses are in SDs of a draw: the square root of the median over sources of the variance of a full loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from benchmarks.adviser.extract import SET, TEXTS
from benchmarks.adviser.informed import informed
from benchmarks.adviser.play import Played, advise, even, sequential_halving
from sweep.adviser.outcomes import Controls, Costs, Rules

SHARE = 0.25  # of the time of the full study
SCREEN, FULL = 8, 32  # nsamples at the two fidelities
BLOCKS = 0.1  # cost of the first two of 30 blocks with 64 windows, .19 s, to a trial of SmolLM2, 1.9 s on one H200
NOMINAL = SCREEN / FULL  # cost of a screen where compression takes most of a trial


@dataclass(frozen=True)
class Question:
    """A choice that a finished study can answer: losses in SDs of a draw, float64 [sources, sets, targets].

    perplexity: mean log perplexity of all held-out texts on screens, [sources, sets], whatever the target is.
    diversity:  mean distinct tokens of the sources' sets. seconds: mean of a screen and of a full trial.
    dense:      losses of the dense model, [targets].
    """

    model: str
    method: str
    name: str
    sources: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    perplexity: np.ndarray
    diversity: np.ndarray
    seconds: tuple[float, float]
    dense: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """Loss of each source that decides: its mean, or its worst regret over targets, [sources]."""
        return scalar(self.high.mean(axis=1))

    @property
    def own(self) -> int | None:
        """The source of the target's own domain, None where it has none."""
        return self.sources.index(self.name) if self.name in self.sources else None


def scalar(means: np.ndarray) -> np.ndarray:
    """[sources] from [sources, targets]: the loss, or with several targets the worst regret."""
    return means[:, 0] if means.shape[1] == 1 else (means - means.min(axis=0)).max(axis=1)


def questions(frame: pl.DataFrame) -> list[Question]:
    """Per model and method: the mean text by perplexity and by divergence, the tasks, each text alone, and all texts at
    once by minimax."""
    calibrated = frame.drop_nulls(["source", "method"])
    found = []
    for (model, method), rows in calibrated.group_by("model", "method", maintain_order=True):
        texts = sorted(set(rows.filter(pl.col("measure") == "js")["target"]) - {TEXTS})
        asked: list[tuple[str, str, list[str]]] = [
            ("texts", "log_perplexity", [TEXTS]),
            ("texts, JS", "js", [TEXTS]),
            ("tasks", "task_loss", ["tasks"]),
            *((text, "log_perplexity", [text]) for text in texts),
            ("worst text", "log_perplexity", texts),
        ]
        sets = frame.filter(pl.col("model") == model, pl.col("target") == SET, pl.col("nsamples") == FULL)
        diversity = sets.group_by("source").agg(pl.col("value").mean()).sort("source")["value"].to_numpy()
        perplexity = _table(rows, "log_perplexity", [TEXTS], SCREEN)[:, :, 0]
        seconds = tuple(
            float(rows.filter(pl.col("nsamples") == size)["seconds"].mean())  # type: ignore[arg-type]
            for size in (SCREEN, FULL)
        )
        sources = tuple(sorted(set(rows["source"])))
        for name, measure, targets in asked:
            low, high = (_table(rows, measure, targets, size) for size in (SCREEN, FULL))
            sd = np.sqrt(np.median(high.var(axis=1, ddof=1), axis=0))
            mine = (str(model), str(method), name, sources, low / sd, high / sd)
            dense = _dense(frame, str(model), measure, targets) / sd
            found.append(Question(*mine, perplexity, diversity, seconds, dense))  # type: ignore[arg-type]
    return found


def _dense(frame: pl.DataFrame, model: str, measure: str, targets: Sequence[str]) -> np.ndarray:
    """Losses of the dense model, [targets]."""
    rows = frame.filter(pl.col("model") == model, pl.col("method") == "dense", pl.col("measure") == measure)
    known = dict(rows.select("target", "value").iter_rows())
    return np.array([float(known[target]) for target in targets])


def _table(rows: pl.DataFrame, measure: str, targets: Sequence[str], size: int) -> np.ndarray:
    """Losses [sources, sets, targets], sources and sets in order. Raises ValueError unless every set of every source is
    there once."""
    parts = []
    for target in targets:
        own = rows.filter(pl.col("measure") == measure, pl.col("target") == target, pl.col("nsamples") == size).sort(
            "source", "set"
        )
        sources, sets = own["source"].n_unique(), own["set"].n_unique()
        if len(own) != sources * sets or own.select("source", "set").is_duplicated().any():
            raise ValueError(f"{target}, {measure}, {size} windows: {len(own)} values of {sources} x {sets} sets")
        parts.append(own["value"].to_numpy().astype(float).reshape(sources, sets))
    return np.stack(parts, axis=2)


@dataclass(frozen=True)
class Repetition:
    """What each policy chose, judged: regret and gain over a random source by policy, in SDs of a draw."""

    played: Played
    regret: dict[str, float]
    gain: dict[str, float]


def repeat(question: Question, kind: str, seed: int, costs: Costs, *, bound: bool = False) -> Repetition:
    """One repetition of the `resampled`, `held out` or `equal` replay; `bound`: also of who is told the laws."""
    rng = np.random.default_rng([2026, seed])
    sources, sets, targets = question.high.shape
    low, high, perplexity, dense = question.low, question.high, question.perplexity, question.dense
    if kind == "equal":  # deviations from their source, dealt out anew: nothing but luck is left
        dealt = rng.permutation(sources * sets)
        low, high, perplexity = (
            (x - x.mean(axis=1, keepdims=True)).reshape(sources * sets, *x.shape[2:])[dealt].reshape(x.shape)
            for x in (low, high, perplexity)
        )
        dense = dense - question.high.mean(axis=(0, 1))  # compression costs what it does on average
    if kind == "held out":
        order = np.argsort(rng.random((sources, sets)), axis=1)
        used, kept = order[:, : sets // 2], order[:, sets // 2 :]
        judge = scalar(_taken(high, kept).mean(axis=1))
        best = judge[int(question.truth.argmin())]
    else:
        used = rng.integers(sets, size=(sources, sets))
        judge = np.zeros(sources) if kind == "equal" else question.truth
        best = judge.min()
    low, high, perplexity = (_taken(x, used) for x in (low, high, perplexity))
    rules = Rules(
        budget=SHARE * sets * sources * costs.full, targets=tuple(map(str, range(targets))), draws=used.shape[1]
    )
    played = advise(low, high, rules, costs, Controls(tuple(dense.tolist())))
    chosen = {"adviser": played.arm, **_others(question, low, high, perplexity, rules, costs)}
    if bound:
        trials = rules.budget / costs.full
        chosen["told the laws"] = informed(question.low, question.high, used, trials, costs.screen / costs.full, seed)
    regret = {name: float(judge[arm] - best) for name, arm in chosen.items()}
    regret["random source"] = float(judge.mean() - best)
    return Repetition(played, regret, {name: regret["random source"] - value for name, value in regret.items()})


def _taken(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Sets of each source by number: [sources, n, ...]."""
    return table[np.arange(len(table))[:, None], index]


def _others(
    question: Question, low: np.ndarray, high: np.ndarray, perplexity: np.ndarray, rules: Rules, costs: Costs
) -> dict[str, int]:
    """What is chosen without the adviser, at no greater cost."""
    trials, screens = int(rules.budget / costs.full), int(rules.budget / costs.screen)
    scale = 1.0 if high.shape[2] == 1 else high.std(axis=(0, 1))
    losses, cheap = ((x / scale).mean(axis=2) for x in (high, low))
    chosen = {
        "sequential halving": sequential_halving(losses, trials),
        "even draws": even(losses, trials),
        "halving on screens": sequential_halving(cheap, screens),
        "halving on perplexity": sequential_halving(perplexity, screens),
        "most diverse": int(question.diversity.argmax()),
        "uniform mixture": question.sources.index("uniform"),
    }
    if question.own is not None:
        chosen["own domain"] = question.own
    return chosen


def with_blocks(question: Question, blocks: pl.DataFrame) -> Question:
    """The question with the errors of the first blocks (`benchmarks.adviser.blocks`) in place of screens: on its own
    text, on each of several, else the mean over all of them. Seconds of a screen are those of the blocks."""
    rows = blocks.filter(pl.col("model") == question.model, pl.col("method") == question.method)
    texts = sorted(set(rows["target"]))
    asked = [question.name] if question.name in texts else texts
    low = _table(rows, "block_error", asked, FULL)
    if question.high.shape[2] == 1:
        low = low.mean(axis=2, keepdims=True)
    return replace(question, low=low, seconds=(BLOCKS * question.seconds[1], question.seconds[1]))


def with_divergence(question: Question, frame: pl.DataFrame) -> Question:
    """The question with screens judged by the logarithm of their divergence from the dense model, where the target is
    text; `frame` is that of `questions`."""
    rows = frame.filter(pl.col("model") == question.model, pl.col("method") == question.method)
    known = set(rows.filter(pl.col("measure") == "js")["target"])
    if question.high.shape[2] > 1:
        asked = sorted(known - {TEXTS})
    elif question.name == "tasks":
        return question
    else:
        asked = [question.name if question.name in known else TEXTS]
    return replace(question, low=np.log(_table(rows, "js", asked, SCREEN)))


def costs_of(question: Question, nominal: bool) -> Costs:
    """Seconds as measured, or a screen's share of the windows where compression takes most of a trial."""
    full = question.seconds[1]
    return Costs(NOMINAL * full if nominal else question.seconds[0], full)

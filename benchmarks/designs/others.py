"""Studies with single examples, pairs of methods, several tasks, models of several sizes and two measures.

As in `benchmarks.designs.sets`, every truth is known and nothing is taken from `analysis`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BIG = 6000  # examples from which the truth about the population of examples is taken


@dataclass(frozen=True)
class ExampleDesign:
    """Right or wrong answers whose log odds add up: ability, source, set, example and their interactions.

    Defaults are those of a language model on questions that it answers right in two of three cases.
    """

    name: str
    sources: int
    sets: int
    examples: int
    tasks: int = 1
    ability: float = 0.7
    example: float = 1.5
    source: float = 0.1
    set: float = 0.1
    source_example: float = 0.3
    residual: float = 0.3


def example_study(d: ExampleDesign, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """(per task the answers, float64 [sources * sets, examples]; true variances of example, interaction, residual).

    The truth is that of these sources and sets for examples without number: what each component adds to the variance
    of the mean over tasks.
    """
    matrices, total = [], np.zeros(3)
    for _ in range(d.tasks):
        source, draw = (
            d.source * rng.standard_normal((d.sources, 1, 1)),
            d.set * rng.standard_normal((d.sources, d.sets, 1)),
        )
        centre = d.ability + source + draw
        seen = _chance(d, centre, d.examples, rng)
        matrices.append((rng.random(seen.shape) < seen).astype(float).reshape(-1, d.examples))
        total += _true_parts(_chance(d, centre, BIG, rng)) / d.examples / d.tasks**2
    return matrices, total


def _chance(d: ExampleDesign, centre: np.ndarray, examples: int, rng: np.random.Generator) -> np.ndarray:
    """Probability of a right answer, [sources, sets, examples]."""
    odds = centre + d.example * rng.standard_normal((1, 1, examples))
    odds = odds + d.source_example * rng.standard_normal((d.sources, 1, examples))
    return np.asarray(1 / (1 + np.exp(-odds - d.residual * rng.standard_normal((d.sources, d.sets, examples)))))


def _true_parts(chance: np.ndarray) -> np.ndarray:
    """Variances of one example: of the example, of source x example, and of everything else that is luck."""
    sources, sets, examples = chance.shape
    centred = chance - chance.mean(axis=2, keepdims=True)
    by_source = centred.mean(axis=1)
    by_example = by_source.mean(axis=0)
    rest = ((centred - by_source[:, None]) ** 2).sum() / (sources * (sets - 1)) / examples
    crossed = ((by_source - by_example) ** 2).sum() / (sources - 1) / examples
    single = (by_example**2).mean()
    coin = (chance * (1 - chance)).mean()
    return np.array([single - crossed / sources, crossed - rest / sets, rest + coin])


EXAMPLES = (
    ExampleDesign("4 tasks x 20 questions, 6 sources x 3 sets", 6, 3, 20, 4),
    ExampleDesign("1 task x 100, 6 x 5", 6, 5, 100),
    ExampleDesign("1 task x 400, 8 x 5", 8, 5, 400),
    ExampleDesign("near chance, questions alike, 4 x 20, 6 x 3", 6, 3, 20, 4, ability=0.0, example=0.3),
    ExampleDesign("near chance, questions unlike, 4 x 20, 6 x 3", 6, 3, 20, 4, ability=0.0, example=4.0),
    ExampleDesign("near the ceiling, 4 x 20, 6 x 3", 6, 3, 20, 4, ability=4.0, example=2.0),
    ExampleDesign("near the ceiling, 1 x 400, 6 x 5", 6, 5, 400, ability=3.0, example=1.0),
    ExampleDesign("20 tasks x 20 questions, 6 x 3", 6, 3, 20, 20),
)


@dataclass(frozen=True)
class MethodDesign:
    """The advantage of method A over method B on shared sets, source by source; A may collapse now and then."""

    name: str
    counts: tuple[int, ...]
    sds: tuple[float, ...] = ()
    between: float = 1.0
    gap: float = 1.0
    collapse: float = 0.0
    collapse_by: float = 10.0

    def source(self, rng: np.random.Generator) -> float:
        """The true advantage on one new source."""
        return self.gap + self.between * float(rng.standard_normal())

    def draw(self, value: float, sd: float, count: int, rng: np.random.Generator) -> np.ndarray:
        """Advantages on new sets of a source."""
        usual = value + sd * rng.standard_normal(count)
        return np.asarray(usual - sd * self.collapse_by * (rng.random(count) < self.collapse))


METHODS = (
    MethodDesign("balanced normal, 6 sources x 5 sets", (5,) * 6),
    MethodDesign("balanced normal, 4 x 2", (2,) * 4),
    MethodDesign("equal methods, 6 x 3", (3,) * 6, between=0.0, gap=0.0),
    MethodDesign("SD 1:5, unequal sets", (10, 8, 6, 4, 3), (1, 2, 3, 4, 5)),
    MethodDesign("SD 1:5, 5 x 5", (5,) * 5, (1, 2, 3, 4, 5)),
    MethodDesign("one method collapses in one set of ten, 5 x 10", (10,) * 5, collapse=0.1),
    MethodDesign("one method collapses in one set of ten, 6 x 3", (3,) * 6, collapse=0.1),
)


@dataclass(frozen=True)
class TaskDesign:
    """Values on several tasks; `shared` is the share of a set's variance that moves all tasks alike."""

    name: str
    sources: int
    sets: int
    tasks: int
    shared: float
    sds: tuple[float, ...] = ()
    between: float = 0.0


def task_study(d: TaskDesign, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(values [sources * sets, tasks], source of each row)."""
    owner = np.repeat(np.arange(d.sources), d.sets)
    sd = np.array(d.sds or (1.0,) * d.sources)[owner][:, None]
    together = rng.standard_normal((len(owner), 1)) * d.shared**0.5
    apart = rng.standard_normal((len(owner), d.tasks)) * (1 - d.shared) ** 0.5
    return d.between * rng.standard_normal((d.sources, 1))[owner] + sd * (together + apart), owner


TASKS = (
    TaskDesign("equal sources, independent tasks, 6 x 3, 8 tasks", 6, 3, 8, 0.0),
    TaskDesign("equal sources, sets move all tasks alike, 6 x 3, 8 tasks", 6, 3, 8, 0.9),
    TaskDesign("equal sources, sets move all tasks alike, 4 x 5, 10 tasks", 4, 5, 10, 0.9),
    TaskDesign("equal sources of SD 1:5, sets move all tasks alike, 5 x 4", 5, 4, 8, 0.9, (1, 2, 3, 4, 5)),
)


@dataclass(frozen=True)
class SizeDesign:
    """Spread over draws of models of several sizes: log10 SD falls by `slope` per tenfold parameters."""

    name: str
    sizes: tuple[float, ...]  # log10 of the parameters
    counts: tuple[int, ...]
    sds: tuple[float, ...] = ()
    slope: float = -0.3
    scatter: float = 0.0  # SD over models of ln SD around the line
    far: float = 0.0


def size_study(d: SizeDesign, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Per model, per source the values of its sets."""
    sd = np.array(d.sds or (1.0,) * len(d.counts))
    found = []
    for size in d.sizes:
        scale = 10 ** (d.slope * (size - d.sizes[0])) * float(np.exp(d.scatter * rng.standard_normal()))
        groups = [scale * s * rng.standard_normal(n) for s, n in zip(sd, d.counts, strict=True)]
        found.append([g - scale * s * 10 * (rng.random(len(g)) < d.far) for g, s in zip(groups, sd, strict=True)])
    return found


SIZES = (
    SizeDesign("three sizes, balanced normal, 6 x 5", (6.0, 7.0, 8.0), (5,) * 6),
    SizeDesign("five sizes, balanced normal, 6 x 3", (6.0, 6.5, 7.0, 7.5, 8.0), (3,) * 6),
    SizeDesign("five sizes, SD 1:5, unequal sets", (6.0, 6.5, 7.0, 7.5, 8.0), (10, 8, 6, 4, 3), (1, 2, 3, 4, 5)),
    SizeDesign("five sizes, one set in ten far off, 6 x 5", (6.0, 6.5, 7.0, 7.5, 8.0), (5,) * 6, far=0.1),
    SizeDesign("five sizes, models off the line, 6 x 5", (6.0, 6.5, 7.0, 7.5, 8.0), (5,) * 6, scatter=0.4),
)


@dataclass(frozen=True)
class MetricDesign:
    """A cheap and an expensive metric of trials, correlated by `rho` within sources and between them."""

    name: str
    sources: int
    sets: int
    methods: int
    rho: float
    shared: float = 0.0  # share of a set's variance that is the same for all methods


def metric_study(d: MetricDesign, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """x, y, source, set (running over all sources) and method of each trial."""

    def pair(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape)
        return np.stack([x, d.rho * x + (1 - d.rho**2) ** 0.5 * rng.standard_normal(shape)])

    method, source, number = (i.ravel() for i in np.indices((d.methods, d.sources, d.sets)))
    draw = source * d.sets + number
    between = pair(d.sources)[:, source]
    together = pair(d.sources * d.sets)[:, draw] * d.shared**0.5
    apart = pair(d.methods, d.sources * d.sets)[:, method, draw] * (1 - d.shared) ** 0.5
    x, y = between + together + apart
    return {"x": x, "y": y, "source": source, "set": draw, "method": method}


METRICS = (
    MetricDesign("within sources, 6 x 5, one method, rho .6", 6, 5, 1, 0.6),
    MetricDesign("within sources, 3 x 4, two methods, rho .3", 3, 4, 2, 0.3),
    MetricDesign("within sources, 4 x 3, four methods that feel sets alike, rho .6", 4, 3, 4, 0.6, 0.8),
    MetricDesign("between sources, 6 x 3, rho .6", 6, 3, 1, 0.6),
    MetricDesign("between sources, 10 x 3, rho .8", 10, 3, 1, 0.8),
)

"""Studies of one method whose every truth is known: values of calibration sets, source by source.

Nothing here is taken from `analysis`: a simulator that shared its formulas would find them right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class SetDesign:
    """Values of sets: true source value + draw, in SDs of a usual draw.

    counts:    sets of each source. between: SD of the true values over sources.
    sds:       SD of a draw of each source. tail: degrees of freedom of Student draws; None: normal.
    far:       how often a set is far off, and `far_by`: by how many SDs it is worse; `far_source`: only of this source.
    step:      values are recorded in multiples of this.
    lost:      how often a set has no value; `lost_low`: the worst draws have none, as when bad runs fail. Then the
               truth is that of the draws that do not fail.
    """

    name: str
    counts: tuple[int, ...]
    between: float = 1.0
    sds: tuple[float, ...] = ()
    tail: float | None = None
    far: float = 0.0
    far_by: float = 10.0
    far_source: int | None = None
    step: float = 0.0
    lost: float = 0.0
    lost_low: bool = False

    def sd(self) -> np.ndarray:
        """SD of a usual draw of each source, [sources]."""
        return np.array(self.sds or (1.0,) * len(self.counts))


@dataclass(frozen=True)
class Truth:
    """True values of the sources and the design they are of."""

    design: SetDesign
    value: np.ndarray

    def draw(self, source: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """New sets of a source that are not lost for their value."""
        d = self.design
        usual = rng.standard_normal(count) if d.tail is None else rng.standard_t(d.tail, count)
        if d.lost_low:
            usual = stats.norm.ppf(d.lost + (1 - d.lost) * rng.random(count)) - stats.truncnorm.mean(_cut(d), np.inf)
        found = self.value[source] + d.sd()[source] * usual
        if d.far_source in (None, source):
            found = found - d.sd()[source] * d.far_by * (rng.random(count) < d.far)
        return np.asarray(np.round(found / d.step) * d.step if d.step else found)

    def study(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The values that a study would see; two sets of a source stay at least, where there were two."""
        counts = [max(n - int(rng.binomial(n, self.design.lost)), min(n, 2)) for n in self.design.counts]
        return [self.draw(source, count, rng) for source, count in enumerate(counts)]

    def variance(self) -> float:
        """Mean over sources of the variance of a usual draw."""
        d = self.design
        one = 1.0 if d.tail is None else d.tail / (d.tail - 2)
        if d.lost_low:
            one = float(stats.truncnorm.var(_cut(d), np.inf))
        return one * float(np.mean(d.sd() ** 2))


def _cut(design: SetDesign) -> float:
    """Draws below this do not come back, in SDs."""
    return float(stats.norm.ppf(design.lost))


def truth(design: SetDesign, rng: np.random.Generator) -> Truth:
    """New sources."""
    return Truth(design, design.between * rng.standard_normal(len(design.counts)))


EVEN = (1.0, 2.0, 3.0, 4.0, 5.0)
SETS = (
    SetDesign("balanced normal, 6 sources x 2 sets", (2,) * 6),
    SetDesign("balanced normal, 6 x 3", (3,) * 6),
    SetDesign("balanced normal, 6 x 5", (5,) * 6),
    SetDesign("balanced normal, 8 x 10", (10,) * 8),
    SetDesign("sources differ little (0.3 SD of a set), 6 x 5", (5,) * 6, between=0.3),
    SetDesign("sources differ much (3 SD of a set), 6 x 5", (5,) * 6, between=3.0),
    SetDesign("equal sources, 6 x 3", (3,) * 6, between=0.0),
    SetDesign("equal sources, 6 x 10", (10,) * 6, between=0.0),
    SetDesign("unequal sets (2 to 10), one SD", (2, 4, 6, 8, 10)),
    SetDesign("SD 1:5, 5 sources x 5 sets", (5,) * 5, between=3.0, sds=EVEN),
    SetDesign("SD 1:5, few sets where the SD is large", (10, 8, 6, 4, 3), between=3.0, sds=EVEN),
    SetDesign("SD 1:5, many sets where the SD is large", (3, 4, 6, 8, 10), between=3.0, sds=EVEN),
    SetDesign("one source of SD 5, four of SD 1, 5 x 5", (5,) * 5, sds=(1, 1, 1, 1, 5)),
    SetDesign("equal sources, SD 1:5, unequal sets", (10, 8, 6, 4, 3), between=0.0, sds=EVEN),
    SetDesign("one set in ten far off, 6 x 5", (5,) * 6, far=0.1),
    SetDesign("one set in ten far off, 6 x 10", (10,) * 6, far=0.1),
    SetDesign("one set in ten far off, equal sources, 6 x 10", (10,) * 6, between=0.0, far=0.1),
    SetDesign("one source collapses in one set of ten, 5 x 10", (10,) * 5, far=0.1, far_source=0),
    SetDesign("Student draws, 4 degrees of freedom, 6 x 5", (5,) * 6, tail=4.0),
    SetDesign("two sources x 2 sets", (2, 2)),
    SetDesign("two sources x 6 sets", (6, 6)),
    SetDesign("two equal sources x 6 sets", (6, 6), between=0.0),
    SetDesign("two sources of SD 1 and 5, 4 and 8 sets", (4, 8), between=3.0, sds=(1.0, 5.0)),
    SetDesign("three sources x 3 sets", (3,) * 3),
    SetDesign("values in steps of 1.25 SD (small tasks), 6 x 3", (3,) * 6, step=1.25),
    SetDesign("a third missing at random, 6 x 6", (6,) * 6, lost=1 / 3),
    SetDesign("the worst third missing, 6 x 6", (6,) * 6, lost=1 / 3, lost_low=True),
    SetDesign("two sources of SD 5 and 1, 2 and 10 sets", (2, 10), between=3.0, sds=(5.0, 1.0)),
    SetDesign("two sources of SD 2 x 3 sets", (3, 3), between=2.0, sds=(2.0, 2.0)),
    SetDesign("six sources of SD 2 x 4 sets", (4,) * 6, between=2.0, sds=(2.0,) * 6),
)

"""Which source is best: probabilities of being best and expected regrets, from the joint posterior.

The hard case is the winner's curse. The best of six means is best partly by luck, the more so the less sources differ;
taking each mean at its own error states 87 % where 60 % come true (`analysis.estimates.posterior` says what is done).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.estimates.posterior import Posterior, posterior
from analysis.estimates.spreads import DRAWS, has_spread


def posterior_of(cells: Mapping[str, np.ndarray], noise: float = 0.0, draws: int = DRAWS) -> Posterior | None:
    """The posterior of sources (values of their sets, larger is better) in the order of their names.

    None for a single source, and where no two sets of a source differ.
    """
    groups = [np.asarray(cells[name], float) for name in sorted(cells)]
    return posterior(groups, noise, draws) if len(groups) > 1 and has_spread(groups) else None


def rank(cells: Mapping[str, np.ndarray], noise: float = 0.0, draws: int = DRAWS) -> dict[str, dict[str, float]]:
    """Per source (values of its sets, larger is better): p_best, p_best_single_set, regret, regret_high.

    `noise` is variance of a source's value that no number of sets removes. Nothing where there is one source, or where
    no two sets of a source differ. No p_best and no p_best_single_set where the sets do not clearly show that sources
    do (`Posterior.tells`): a source whose sets are all bad may then as well be one that scatters far.
    """
    names = sorted(cells)
    known = posterior_of(cells, noise, draws)
    if known is None:
        return {name: {} for name in names}
    best, single, regret = known.best, known.best_single_set, known.regret
    return {
        name: ({"p_best": float(best[i]), "p_best_single_set": float(single[i])} if known.tells else {})
        | {
            "regret": float(regret[:, i].mean()),
            "regret_high": float(np.quantile(regret[:, i], 0.95)),
        }
        for i, name in enumerate(names)
    }

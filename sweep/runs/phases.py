"""What happens before the first trial, in words: `on_phase` of a runner is told (what is being done, with which).

The first is a heading that a log shows once; the second changes often, and is shown where a line can be overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sweep.plan import EvaluationKey, Pool, RequestSet

OnPhase = Callable[[str, str], None]

STARTING = "starting workers"
MODELS = "checking models"
REQUESTS = "reading and tokenizing tasks and held-out texts"


def of_requests(requests: Mapping[EvaluationKey, RequestSet]) -> str:
    """The models whose requests are made: `reference-2m, reference-5m`."""
    return ", ".join(dict.fromkeys(use.model.name for asked in requests.values() for use in asked.uses))


def of_sets(pools: Sequence[Pool]) -> tuple[str, str]:
    """What is done for calibration sets, of several pools at the same time, and the first of these pools."""
    if writing := [pool for pool in pools if pool.writes]:
        return f"{writing[0].model.name} writes calibration text", of_pool(writing[0])
    if choosing := [pool for pool in pools if pool.measures]:
        return f"{choosing[0].model.name} is asked which calibration windows to choose", of_pool(choosing[0])
    return "reading and tokenizing calibration text", of_pool(pools[0])


def of_pool(pool: Pool) -> str:
    """`books for reference-5m, 3 sets`."""
    sources = ", ".join(dict.fromkeys(spec.source.label for spec in pool.specs))
    return f"{sources} for {pool.model.name}, {len(pool.ids)} set{'s' * (len(pool.ids) != 1)}"


def nobody(heading: str, detail: str) -> None:
    """Nobody wants to know."""

"""Trial sequences that show how an architecture computes: they branch, and they reach beyond what changes with length.

Windows, chunks, blocks of sparse attention and original contexts are numbers in a configuration, under names that
differ from one architecture to the next, and a trial that stays below such a number says nothing of what is done beyond
it. So the sequences reach beyond every number whose name speaks of a length, as far as the requests do; what rotary
modules do is asked of themselves. The hard case is cost: a number that only very long sequences reach is not tried, and
the caller is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from methods.walk.lengths import LengthRule
from sweep.evaluation.questions.requests import Requests

LONGEST = 8192  # tokens; a sequence beyond costs more than it is worth to try
SHORT = 32  # tokens; the short sequences reach beyond it
LIMITS = re.compile(r"window|chunk|block|extent|floor|topk|local|distance|compress|span")  # of what a place sees
CONTEXTS = re.compile(r"position|context|length|seq_len|n_ctx")  # of tables, and of the training before
COUNTS = re.compile(r"num_|_layers$|experts")  # of other things
BEYOND = 20  # tokens


@dataclass(frozen=True)
class TrialSequences:
    """The sequences, each with the number of its part, and the switch that they are too short for."""

    requests: Requests
    part: np.ndarray  # (n,), int64: 0 are the short ones; then one part for each length that is reached
    untried: int | None = None  # tokens


def trial_sequences(config: Any, lengths: LengthRule, longest: int, places: int) -> TrialSequences:
    """For a text configuration and requests of up to `longest` tokens, in rows of up to `places`.

    A limit that an architecture counts by place in the row is met by shorter requests too.
    """
    reached, untried = turns(config, lengths, longest, places)
    rng = np.random.default_rng(0)

    def draw(count: int) -> list[int]:
        return [int(token) for token in rng.integers(0, config.vocab_size, count)]

    first, second = draw(12), draw(12)
    second[:5] = first[:5]
    contexts = [first, second, draw(1), draw(30)]
    pairs = [(context, draw(count)) for context in contexts for count in (1, 3, 6, 2)]
    part = [0] * len(pairs)
    for number, turn in enumerate(reached, 1):
        context = draw(max(turn - 3, 1))
        # inputs of exactly `turn` tokens and one more; branches that push their context away by place in the row
        pairs += [(context, draw(count)) for count in (4, 5, BEYOND + 4, 3, BEYOND + 4)]
        part += [number] * 5
    room = max(getattr(config, "max_position_embeddings", None) or LONGEST, longest)
    return TrialSequences(Requests.pack(pairs, min(room, LONGEST + 2 * BEYOND)), np.asarray(part), untried)


def turns(config: Any, lengths: LengthRule, longest: int, places: int) -> tuple[list[int], int | None]:
    """(lengths to reach beyond, ascending; the smallest one that is too long to try)."""
    values = config.to_dict()
    limits = [number for number in _numbers(values, LIMITS) if number < max(longest, places)]
    contexts = [number for number in _numbers(values, CONTEXTS) if number < longest]
    rotary = lengths.turn(longest) if longest else None
    found = [*limits, *contexts, *([] if rotary is None else [rotary])]
    within = [turn for turn in found if SHORT <= turn <= LONGEST]
    reached = {max(within)} if within else set()
    if rotary is not None and rotary <= LONGEST:
        reached.add(rotary)
    end = min(longest, LONGEST) - BEYOND
    if any(SHORT <= limit < longest for limit in limits) and end > max(reached, default=SHORT) + BEYOND:
        reached.add(end)  # a product of such numbers is a limit as well
    if lengths.calls and rotary is None:  # rotary modules have answered for all contexts
        found = limits
    return sorted(reached), min((turn for turn in found if turn > LONGEST), default=None)


def _numbers(values: Mapping[str, Any], names: re.Pattern[str], under: str = "") -> Iterator[int]:
    """Whole numbers of a configuration, and of what it holds, whose name or whose holder's name matches."""
    values = {key: value for key, value in values.items() if not COUNTS.search(str(key))}
    for key, value in values.items():
        name = f"{under}.{key}".lower()
        for each in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(each, Mapping):
                yield from _numbers(each, names, name)
            elif isinstance(each, int) and not isinstance(each, bool) and names.search(name) and each > 1:
                yield each

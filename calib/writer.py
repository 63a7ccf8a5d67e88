"""The seam to a model that writes: sources whose text a model makes ask for it here, and know no model.

`calib` loads no model. Whoever builds the sets of such a source (a task on a GPU, a test) brings a `Writer`, and the
sets' ids name the model by the writer's `id`. The hard case is repeatability: a text must depend on its own request
alone, so each has a seed of its own, and a writer may put requests into batches of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from calib.sampling import raw_numbers


@dataclass(frozen=True)
class Request:
    """One text to be written: sampled after `prompt` until EOS or one of `ends`, or for `max_new_tokens`."""

    prompt: tuple[int, ...]
    seed: int  # 64 bits; the text depends on the request alone
    temperature: float  # 0: always the likeliest token
    top_p: float
    top_k: int | None
    max_new_tokens: int
    ends: tuple[int, ...] = ()  # ids that end the text as well as EOS


class Writer(Protocol):
    """A model that writes."""

    @property
    def id(self) -> str:
        """The model's fingerprint: equal exactly when the weights are."""

    def write(self, requests: Sequence[Request]) -> list[list[int]]:
        """The token ids after each prompt, in order; one that ended holds the id that ended it as its last."""

    def perplexity(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """The model's perplexity of each list of token ids; (texts,), float64."""


@dataclass(frozen=True)
class AskedModel:
    """A model at hand: its id, and how it writes and is asked which windows to choose (`calib.select.Measure`)."""

    id: str
    writer: Writer
    measure: Callable[[str, np.ndarray], np.ndarray]

    def tools(self) -> dict[str, Any]:
        """What `build` takes."""
        return {"writer": self.writer, "measure": self.measure, "model_id": self.id}


def seeds(seed: int, count: int) -> list[int]:
    """A seed for each of `count` texts."""
    return [int(number) for number in raw_numbers(seed)(count)]

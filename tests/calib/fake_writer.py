"""A model that writes without being one: each token is drawn by the request alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from calib.sampling import raw_numbers
from calib.writer import Request


@dataclass
class FakeWriter:
    """Writes ids below `vocabulary`; every `endless`-th text does not end. `asked` remembers the requests."""

    vocabulary: int = 300
    eos: int = 1
    endless: int = 0
    id: str = "fake"
    asked: list[Request] = field(default_factory=list)

    def write(self, requests: Sequence[Request]) -> list[list[int]]:
        self.asked += requests
        return [self._answer(number, request) for number, request in enumerate(requests)]

    def perplexity(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([float(text[-2]) for text in texts])

    def _answer(self, number: int, request: Request) -> list[int]:
        random = raw_numbers(request.seed, *request.prompt)
        ids = [2 + int(value) % (self.vocabulary - 2) for value in random(min(request.max_new_tokens, 20))]
        ends = not self.endless or number % self.endless
        return [*ids[:-1], self.eos] if ends else ids

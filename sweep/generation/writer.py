"""A study's dense model as the writer of calibration text: the same tokens for every batch size, on a CPU or a GPU.

Weights are in float32 whatever the study's dtype, so that logits of one text agree to a few digits wherever they are
computed. Nothing is padded, so positions and masks are those of a text alone, in every architecture: a batch begins
with as many tokens as its shortest prompt has, and a longer prompt goes on, token by token, beside the answers of the
others. The hard case is a near tie between two tokens, which the batch or the device could decide: then the text alone
is read again without a cache, and these logits decide.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from inspect import signature
from typing import Any

import numpy as np

from calib.settings import SettingsError
from calib.writer import Request
from methods.lazy import torch
from methods.walk.lengths import forgetful
from sweep.generation.draw import draw
from sweep.models import ModelRef, context_length
from sweep.weights.dense import DenseModel

BATCH = {"cpu": 8, "cuda": 64}  # texts at a time; a matter of speed and memory alone
DRAWING = 8  # threads that draw tokens: on a GPU it takes longer than the model


class ModelWriter:
    """Writes with the model of a `ModelRef`, which is loaded when it is first needed. A `Writer` of `calib`."""

    def __init__(self, ref: ModelRef, device: str = "cpu", batch: int | None = None) -> None:
        self.ref = ref
        self.device = device
        self.batch = batch or BATCH[device]
        self._dense: DenseModel | None = None

    @property
    def id(self) -> str:
        """The model's fingerprint."""
        return self.ref.fingerprint

    def write(self, requests: Sequence[Request]) -> list[list[int]]:
        """The token ids after each prompt, in order; one that ended holds the id that ended it as its last.

        Raises SettingsError when a prompt and its answer would not fit into the context of the model.
        """
        self._check_lengths(requests)
        in_order = sorted(range(len(requests)), key=lambda number: len(requests[number].prompt))
        answers: list[list[int]] = [[] for _ in requests]
        threads = ThreadPoolExecutor(min(DRAWING, os.cpu_count() or 1))
        with torch.inference_mode(), forgetful(self._loaded().model), threads:
            for start in range(0, len(in_order), self.batch):
                part = in_order[start : start + self.batch]
                together = self._together([requests[i] for i in part], threads)
                for number, answer in zip(part, together, strict=True):
                    answers[number] = answer
        return answers

    def perplexity(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """The model's perplexity of each list of at least two token ids, each read alone; (texts,), float64."""
        found = []
        with torch.inference_mode(), forgetful(self._loaded().model):
            for text in texts:
                ids = torch.as_tensor(np.asarray(text, dtype=np.int64), device=self._loaded().device)
                logits = self._loaded().model(ids[None], use_cache=False).logits[0, :-1].float()
                found.append(float(torch.nn.functional.cross_entropy(logits, ids[1:]).double().exp()))
        return np.asarray(found, dtype=np.float64)

    def _loaded(self) -> DenseModel:
        if self._dense is None:
            self._dense = DenseModel(self.ref, self.device, "float32")
        return self._dense

    def _check_lengths(self, requests: Sequence[Request]) -> None:
        room = context_length(self.ref)
        for request in requests:
            if (needed := len(request.prompt) + request.max_new_tokens) > room:
                raise SettingsError(
                    f"calibration.source: {len(request.prompt):,} tokens of a prompt and {request.max_new_tokens:,} "
                    f"that follow are {needed:,}, more than the context of {self.ref.name} ({room:,} tokens); ask for "
                    "shorter texts"
                )

    def _together(self, requests: Sequence[Request], threads: Executor) -> list[list[int]]:
        """The answers to prompts, in one batch; the closer the lengths of the prompts, the fewer its steps."""
        dense = self._loaded()
        ends = dense.tokenizer.eos_token_id
        name = _name_of_cache(dense.model)
        words = len(dense.tokenizer)  # rows of an embedding beyond them are no tokens
        answers: list[list[int]] = [[] for _ in requests]
        open_ = [request.max_new_tokens > 0 for request in requests]
        read = min(len(request.prompt) for request in requests)  # tokens of each text that the model has been given
        step, cache = torch.tensor([request.prompt[:read] for request in requests], device=dense.device), None
        while any(open_):
            output = dense.model(step, use_cache=True, **{name: cache})
            cache = output.get(name)
            rows = output.logits[:, -1, :words].float().cpu().numpy()
            writing = [row for row, request in enumerate(requests) if open_[row] and read >= len(request.prompt)]
            places = [len(answers[row]) for row in writing]
            drawn = threads.map(draw, rows[writing], [requests[row] for row in writing], places)
            for row, (token, close) in zip(writing, list(drawn), strict=True):
                request, answer = requests[row], answers[row]
                answer.append(self._decided(request, answer, words) if close else token)
                open_[row] = answer[-1] not in (ends, *request.ends) and len(answer) < request.max_new_tokens
            last = [  # of texts that have ended any token goes along, and nobody looks
                request.prompt[read] if read < len(request.prompt) else [ends, *answer][-1]
                for request, answer in zip(requests, answers, strict=True)
            ]
            new = torch.tensor(last, device=dense.device)[:, None]
            step = new if cache is not None else torch.cat([step, new], dim=1)
            read += 1
        return answers

    def _decided(self, request: Request, answer: Sequence[int], words: int) -> int:
        """The next token of a text by logits of the text alone, where those of a batch could not tell."""
        return draw(self._alone([*request.prompt, *answer], words), request, len(answer))[0]

    def _alone(self, tokens: Sequence[int], words: int) -> np.ndarray:
        """Logits after a text that is read alone and at once; (words,), float32."""
        dense: Any = self._loaded()
        ids = torch.tensor([tokens], device=dense.device)
        logits: np.ndarray = dense.model(ids, use_cache=False).logits[0, -1, :words].float().cpu().numpy()
        return logits


def _name_of_cache(model: Any) -> str:
    """What a model calls keys and values of earlier tokens: newer versions of transformers have renamed them."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"

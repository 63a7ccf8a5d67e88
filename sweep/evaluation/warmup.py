"""An evaluation of nothing in particular, so that the first real one finds its kernels compiled and loaded.

On a GPU the first use of anything takes far longer than the next: Triton compiles this project's kernels (or finds them
in its cache), CUDA loads the code of every other one when it is first called, cuBLAS makes its handles. A worker that
waits for requests pays that meanwhile, on made-up tokens and the model cut to its first blocks: a few hundredths of a
second are the model's own, so a trial that waits already waits hardly longer.

The hard case is that nothing may be left that changes a number. Weights and random generators are not touched, which
scorer suits is found out again for the real requests, and what `fused` believes of modules is forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from methods.walk.decoder import decoder_blocks
from methods.walk.fused import agreed
from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.questions.requests import Requests, quiet
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.scoring import ONE_BY_ONE
from sweep.evaluation.windows import WindowScorer
from sweep.weights.hashes import weights_hash
from sweep.weights.sample import block_kinds, cut_to, enough

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WINDOWS, LENGTH = 4, 512  # enough rows for the matrix products that large batches take
SHORT = 24  # tokens of the made-up request; what decides on the scorer are sequences of the choice's own


def warm_up(model: PreTrainedModel, max_length: int) -> None:
    """Use once what `Evaluator` uses, on the device of a model that is held whole; `max_length` is its context.

    The model is as before, whatever is raised.
    """
    vocabulary = model.config.get_text_config().vocab_size
    tokens = np.random.default_rng(0).integers(0, vocabulary, (WINDOWS, min(LENGTH, max_length)), np.int32)
    row = tokens[0, :SHORT].tolist()
    asked = Requests.pack([(row[:-1], row[-1:])], max_length)
    budget = TokenBudget(model.device)
    blocks = decoder_blocks(model)
    with _in_silence(), _forgetting(), cut_to(model, blocks, enough(block_kinds(model, blocks))):
        rule = head_rule(model)
        scorer = choose_scorer(model, asked, budget, rule)
        if rule is not None:
            alone = scorer.sharing is ONE_BY_ONE
            windows = WindowScorer([HeldOut("", tokens)], model, budget, rule, divergence=True, alone=alone)
            windows.score(model)
            windows.score_dense(model)
        weights_hash(blocks[0])


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without warnings, which the evaluation that counts gives again."""
    with ExitStack() as stack:
        for name in ("sweep.evaluation", "methods"):
            stack.enter_context(quiet(name, logging.CRITICAL))
        yield


@contextmanager
def _forgetting() -> Iterator[None]:
    """What is fused is decided on the first numbers that are met, and these are to be real ones."""
    before = dict(agreed)
    try:
        yield
    finally:
        agreed.clear()
        agreed.update(before)

"""The evaluation of one model: tasks, perplexity and divergence, as rows of the results tables.

`build_evaluation` runs once per study and tokenizer and gives plain data for all workers. `Evaluator` is made once per
worker, from the dense model before anything is compressed; it keeps what comparisons need: the dense model's final
hidden states on the held-out windows and its outcome on every example. They are the dense model's evaluation as well,
so the dense trial does not run the model a second time; a hash of the weights says that it is the same model.

Words of this room: *windows* are held-out texts cut to one length; *divergence* is how far a compressed model's
predictions are from the dense model's; a *flip* is an example that only one of the two gets right.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from calib.settings import SettingsError
from methods.lazy import torch
from methods.walk.residency import home_of
from sweep.evaluation.metrics.accuracy import Key, metric_name, right_or_wrong
from sweep.evaluation.metrics.answers import answer_rows, both, mean_of, unknown
from sweep.evaluation.metrics.outcomes import Number, Outcome, TaskMetrics, metric_row
from sweep.evaluation.questions.groups import GroupReplay
from sweep.evaluation.questions.heldout import HeldOut, build_windows
from sweep.evaluation.questions.largest import LargestId
from sweep.evaluation.questions.rehearsal import rehearse
from sweep.evaluation.questions.replay import Scores
from sweep.evaluation.questions.requests import TaskRequests, build_requests
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.generation import generate
from sweep.evaluation.scorer.scoring import ONE_BY_ONE
from sweep.evaluation.scorer.states import check_blocks_alone
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.windows import WindowScorer, WindowScores, window_rows
from sweep.weights.hashes import weights_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvaluationData:
    """Everything that is asked of a model. Picklable: numpy and plain Python, no open files, no local data sets."""

    settings: EvaluationSettings
    max_length: int  # tokens of context that requests were cut to
    tasks: TaskRequests
    heldout: list[HeldOut]
    requests_id: str | None = None  # hash of what the requests are made from: evaluation, tokenizer and context
    model_commit: str | None = None  # that a hub model's files are taken from
    largest_ids: tuple[LargestId, ...] = ()  # by what they stand in: a model must have embeddings for them

    @cached_property
    def requests_hash(self) -> str:
        """32 hex digits over everything that is asked: documents, prompts, token ids, held-out windows."""
        digest = hashlib.sha256()
        asked = self.tasks.requests
        for array in (asked.tokens, asked.offsets, asked.continuation, *(text.tokens for text in self.heldout)):
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        for task in self.tasks.tasks:
            calls = [astuple(call) for call in task.calls]
            digest.update(_plain([task.name, task.docs, task.right, calls]))
        digest.update(_plain([[generation.prompt, generation.arguments] for generation in self.tasks.generations]))
        return digest.hexdigest()[:32]


def _plain(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()  # a document may hold dates


@dataclass(frozen=True)
class EvaluationResult:
    """Rows for the `metrics` and `samples` tables (without trial_id), and columns of the trial's own row."""

    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    seconds: dict[str, float]
    scorer: str | None  # None where nothing was asked that a scorer answers
    truncated_requests: int


@dataclass(frozen=True)
class Scored:
    """What a model answered to everything that is asked, on no device any more."""

    tasks: Scores | None  # None: of the dense model, whose metrics are kept
    windows: list[WindowScores]
    seconds: dict[str, float]


def build_evaluation(
    settings: EvaluationSettings, tokenizer: PreTrainedTokenizerBase, max_length: int, path: str = "evaluation"
) -> EvaluationData:
    """Render, tokenize and cut everything once, and try every metric. Raises SettingsError before any model is loaded.

    `max_length` is the model's context in tokens; `path` is where the settings stand in the study file.
    """
    settings.check(path, max_length)
    heldout = build_windows(settings, tokenizer, max_length, path)
    tasks = build_requests(settings, tokenizer, max_length, path)
    rehearse(tasks.tasks, len(tasks.requests), len(tasks.generations), path)
    return EvaluationData(settings, max_length, tasks, heldout)


def refuse_generation(data: EvaluationData, model: str) -> None:
    """Raise SettingsError when a task generates text, which a streamed model would be read for once a token."""
    if not data.tasks.generations:
        return
    generating = [task.name for task in data.tasks.tasks if any(call.kind == "generation" for call in task.calls)]
    names = ", ".join(generating)
    raise SettingsError(
        f"evaluation.tasks: {names} generate text, and {model} is streamed block by block, so every token would read "
        "the whole model; leave them out, or use placement: whole"
    )


class Judge(Protocol):
    """Evaluates compressed copies of one dense model: what a trial asks of an `Evaluator`, and of one that looks at the
    first blocks alone (`first_blocks.py`). What `score` gives is for `result`."""

    data: EvaluationData

    def score(self, model: PreTrainedModel) -> Any: ...

    def score_dense(self, model: PreTrainedModel, weights_hash: str) -> Any: ...

    def result(self, scored: Any) -> EvaluationResult: ...


class Evaluator:
    """Evaluates any number of compressed copies of one dense model."""

    def __init__(
        self,
        data: EvaluationData,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device | str,
    ) -> None:
        """`model` is the dense model on `device`, in eval mode; nothing of it is referred to afterwards."""
        self.data = data
        self.tokenizer = tokenizer
        self.budget = TokenBudget(torch.device(device))
        home = home_of(model)
        if home is not None:
            refuse_generation(data, type(model).__name__)
        with nullcontext(model) if home is None else home.sample() as small:
            if home is not None:
                check_blocks_alone(small, home.blocks)
            rule = head_rule(small)
            self.scorer = choose_scorer(small, data.tasks.requests, self.budget, rule)
        self.alone = self.scorer.sharing is ONE_BY_ONE  # a model in which the rows of a call meet each other
        self.windows = WindowScorer(
            data.heldout, model, self.budget, rule, divergence=data.settings.divergence, alone=self.alone
        )
        self.dense = self._metrics(self._scores(model))
        self.dense_hash = weights_hash(model)

    def evaluate(self, model: PreTrainedModel) -> EvaluationResult:
        """Every number of one model, which has the architecture of the dense one."""
        return self.result(self.score(model))

    def evaluate_dense(self, model: PreTrainedModel, weights_hash: str) -> EvaluationResult:
        """Every number of the dense model, as `score_dense` finds them."""
        return self.result(self.score_dense(model, weights_hash))

    def score(self, model: PreTrainedModel) -> Scored:
        """What the model answers: the part of `evaluate` that needs it, and its device."""
        begin = time.perf_counter()
        scores = self._scores(model)
        between = time.perf_counter()
        windows = self.windows.score(model)
        return Scored(scores, windows, {"tasks": between - begin, "windows": time.perf_counter() - between})

    def score_dense(self, model: PreTrainedModel, weights_hash: str) -> Scored:
        """The same of the dense model, from what was kept of it; `weights_hash` is that of `model` as it is now.

        `seconds` is what this call took. Raises RuntimeError when they are not the weights the evaluator was made from.
        """
        if weights_hash != self.dense_hash:
            raise RuntimeError(
                f"the dense weights have the hash {weights_hash[:12]}, but the evaluator was made from "
                f"{self.dense_hash[:12]}: they were not given back as they were"
            )
        begin = time.perf_counter()
        windows = self.windows.score_dense(model)
        return Scored(None, windows, {"tasks": 0.0, "windows": time.perf_counter() - begin})

    def result(self, scored: Scored) -> EvaluationResult:
        """All numbers from what a model answered. Needs no device; another thread may score the next model."""
        begin = time.perf_counter()
        found = self.dense if scored.tasks is None else self._metrics(scored.tasks)
        metrics, samples = task_rows(found, self.dense, self.data.tasks.groups)
        between = time.perf_counter()
        for text, scores in zip(self.data.heldout, scored.windows, strict=True):
            text_metrics, text_samples = window_rows(text, scores)
            metrics += text_metrics
            samples += text_samples
        here = {"tasks": between - begin, "windows": time.perf_counter() - between}
        return EvaluationResult(
            metrics=metrics,
            samples=samples,
            seconds={part: seconds + here[part] for part, seconds in scored.seconds.items()},
            scorer=self.scorer.name,
            truncated_requests=self.data.tasks.requests.truncated,
        )

    def _scores(self, model: PreTrainedModel) -> Scores:
        if not self.data.tasks.tasks:
            return Scores(np.empty(0), np.empty(0, bool))
        return Scores(*self.scorer.score(model), self._generate(model))

    def _metrics(self, scores: Scores) -> dict[str, TaskMetrics]:
        iterations = self.data.settings.bootstrap_iters
        return {replay.name: replay.metrics(scores, iterations) for replay in self.data.tasks.tasks}

    def _generate(self, model: PreTrainedModel) -> Sequence[str | None]:
        if not self.data.tasks.generations:
            return ()
        asked, length = self.data.tasks.generations, self.data.max_length
        return generate(model, self.tokenizer, asked, length, self.budget, alone=self.alone)


def task_rows(
    found: Mapping[str, TaskMetrics], dense: Mapping[str, TaskMetrics], groups: Sequence[GroupReplay]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of the metrics table, rows of the samples table) of tasks by name; `dense` is compared with."""
    metrics: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for name, result in found.items():
        rows = _metric_rows("task", name, result.numbers()) + _comparison_rows(result, dense[name])
        accuracy = metric_name(result.accuracy) if result.accuracy else ""
        rows += answer_rows(result, dense[name], taken={row["metric"] for row in rows})
        metrics += [{**row, "accuracy": accuracy} for row in rows]
        samples += [_sample_row(name, outcome) for outcome in result.outcomes]
    for group in groups:
        metrics += _metric_rows("group", group.name, group.metrics(found))
    return metrics, samples


def _metric_rows(kind: str, task: str, numbers: Mapping[Key, Number]) -> list[dict[str, Any]]:
    return [metric_row(kind, task, metric_name(key), number) for key, number in numbers.items()]


def _comparison_rows(found: TaskMetrics, dense: TaskMetrics) -> list[dict[str, Any]]:
    """Answers that flipped against the dense model, and the mean change of the margin, where the task has them.

    Flips are of right and wrong answers: a task whose outcomes are shares has none.
    """
    rows = []
    answers = {outcome.correct for outcome in (*found.outcomes, *dense.outcomes)} - {None}
    if answers and answers <= {0.0, 1.0}:
        reason = unknown(found, dense, accuracy=True)
        now, before = both(found.outcomes, dense.outcomes, "correct").astype(bool)
        for metric, flipped in (("flips_right_to_wrong", before & ~now), ("flips_wrong_to_right", ~before & now)):
            rows.append(metric_row("task", found.name, metric, mean_of(flipped.astype(np.float64), reason)))
    if any(outcome.margin is not None for outcome in (*found.outcomes, *dense.outcomes)):
        now, before = both(found.outcomes, dense.outcomes, "margin")
        rows.append(metric_row("task", found.name, "margin_change", mean_of(now - before, unknown(found, dense))))
    return rows


def _sample_row(task: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "task": task,
        "doc_id": outcome.doc_id,
        "score": outcome.correct,
        "correct": right_or_wrong(outcome.correct),
        "correct_norm": right_or_wrong(outcome.correct_norm),
        "margin": outcome.margin,
        "loglikelihood": outcome.loglikelihood,
        "probability": outcome.forecast.probability if outcome.forecast else None,
        "confidence": outcome.forecast.confidence if outcome.forecast else None,
        "brier": outcome.forecast.brier if outcome.forecast else None,
    }

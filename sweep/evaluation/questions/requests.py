"""Requests: what lm-eval's tasks ask a model, rendered and tokenized once, as plain numpy for every worker.

lm-eval builds prompts with its own templates, few-shot samplers and chat templates; this module asks it to do so once
per (tasks, tokenizer), records the token ids, and keeps beside them what lm-eval needs to turn scores into metrics
(`replay.py`). The hard case is what is left behind: a task holds a data set that lives in an Arrow file of this very
machine, so workers get the documents as plain values and never the task's data set.

Tokenization follows `lm_eval.models.huggingface.HFLM` to the letter: special tokens as the tokenizer adds them, none
when the text already begins with the prefix token, trailing spaces of a context moved to the continuation, and the
oldest tokens dropped when a request is longer than the model's context.

Words of this room: a *request* is a context and the continuation that is scored after it; a *frozen* task has no data
set; its *replay* turns scores into metrics, and a *rehearsal* does so with made-up scores before a model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.settings import SettingsError
from sweep.evaluation.questions.asked import Asked
from sweep.evaluation.questions.code import Freezer
from sweep.evaluation.questions.examine import check_generation, explain
from sweep.evaluation.questions.groups import GroupReplay, freeze_groups, preset_group
from sweep.evaluation.questions.loading import called, check_examples, load_tasks, source_of
from sweep.evaluation.questions.perturb import Perturbation
from sweep.evaluation.questions.replay import Call, TaskReplay, freeze_task
from sweep.evaluation.tasks.presets import means_of
from sweep.evaluation.tasks.templates import sandboxed

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Requests:
    """Sequences to score: each is a context followed by the continuation whose log-likelihood is wanted."""

    tokens: np.ndarray  # (total,), int32: all sequences one after another
    offsets: np.ndarray  # (n + 1,), int64: sequence i is tokens[offsets[i]:offsets[i + 1]]
    continuation: np.ndarray  # (n,), int32: how many of its last tokens are the continuation
    truncated: int  # sequences that lost tokens because they did not fit the model's context

    def __len__(self) -> int:
        return len(self.continuation)

    def sequence(self, number: int) -> np.ndarray:
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    @classmethod
    def pack(cls, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], max_length: int) -> Requests:
        """From (context, continuation) token ids. Contexts are cut from the left by lm-eval's rule."""
        sequences, continuation, truncated = [], [], 0
        for context, target in pairs:
            if not context or not target:
                raise SettingsError("a request has an empty context or continuation after tokenization")
            if len(target) > max_length:
                raise SettingsError(
                    f"a continuation of {len(target)} tokens does not fit the model's context of {max_length}"
                )
            truncated += len(context) + len(target) > max_length + 1
            sequences.append(np.asarray([*context, *target][-(max_length + 1) :], np.int32))
            continuation.append(len(target))
        lengths = np.asarray([len(sequence) for sequence in sequences], np.int64)
        return cls(
            tokens=np.concatenate(sequences) if sequences else np.zeros(0, np.int32),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            continuation=np.asarray(continuation, np.int32),
            truncated=int(truncated),
        )


@dataclass(frozen=True)
class Generation:
    """One prompt to continue, with lm-eval's generation arguments."""

    prompt: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class TaskRequests:
    """Everything that the tasks ask, ready to be sent to any worker."""

    requests: Requests
    generations: list[Generation]
    tasks: list[TaskReplay]
    groups: list[GroupReplay]


class Tokenization:
    """HFLM's rules from text to token ids; all texts of a batch go through the tokenizer together.

    A text that follows nothing is predicted from the prefix token, BOS or else EOS. `prefix_token` is None when the
    tokenizer has neither; whatever needs none works all the same.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.prefix_token: int | None = None if prefix is None else int(prefix)
        self.prefix_text = "" if self.prefix_token is None else str(tokenizer.decode(self.prefix_token))

    def prefix(self) -> int:
        """The token before a text that follows nothing. Raises SettingsError when the tokenizer has none."""
        if self.prefix_token is None:
            raise SettingsError("nothing stands before the text, and the tokenizer has neither a BOS nor an EOS token")
        return self.prefix_token

    def encode(self, texts: Iterable[str], *, special: bool | None = None) -> dict[str, list[int]]:
        """Token ids by text. `special`: None adds what the tokenizer adds, unless the text begins with the prefix."""
        distinct = list(dict.fromkeys(texts))
        if special is not None:
            return self._batch(distinct, {"add_special_tokens": special})
        prefixed = [text for text in distinct if self.prefix_text and text.startswith(self.prefix_text)]
        ids = self._batch(prefixed, {"add_special_tokens": False})
        ids.update(self._batch([text for text in distinct if text not in ids], {}))
        return ids

    def pairs(self, arguments: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """(context, continuation) as token ids, by the rules of lm-eval's `TemplateLM`."""
        moved = [_move_spaces(context, target) for context, target in arguments]
        given = [context != "" for context, _ in arguments]  # a context of spaces alone is still a context
        whole = self.encode(context + target for (context, target), has in zip(moved, given, strict=True) if has)
        contexts = self.encode(context for (context, _), has in zip(moved, given, strict=True) if has)
        alone = self.encode((target for (_, target), has in zip(moved, given, strict=True) if not has), special=False)
        pairs = []
        for (context, target), has in zip(moved, given, strict=True):
            if has:
                ids = contexts[context]
                pairs.append((ids, whole[context + target][len(ids) :]))
            elif alone[target] and alone[target][0] == self.prefix_token:
                pairs.append((alone[target][:1], alone[target][1:]))
            else:
                pairs.append(([self.prefix()], alone[target]))
        return pairs

    def _batch(self, texts: list[str], arguments: dict[str, bool]) -> dict[str, list[int]]:
        if not texts:
            return {}
        with quiet("transformers"):  # "longer than the model's maximum length": rolling windows take care of it
            ids = self.tokenizer(texts, **arguments)["input_ids"]
        return dict(zip(texts, ids, strict=True))


def build_requests(
    settings: Asked, tokenizer: PreTrainedTokenizerBase, max_length: int, path: str = "evaluation"
) -> TaskRequests:
    """Load the tasks, build and tokenize their requests. Raises SettingsError naming the task that does not work."""
    with quiet("lm_eval"), quiet("datasets", logging.CRITICAL), _no_bars(), sandboxed():
        tasks, groups = load_tasks(settings, path)
        for task in tasks.values():
            _refuse_kind(task, path)
            check_examples(task, path, settings.limit)
            _build(task, settings, tokenizer, path)
        builder = _Builder(Tokenization(tokenizer), max_length)
        noises = settings.parsed_perturbations(path)
        replays = [builder.add(name, task, None, path) for name, task in tasks.items()]
        variants = [
            builder.add(name, task, noise, path)
            for noise in noises
            for name, task in tasks.items()
            if _has_prompts(task)
        ]
    names = {replay.name for replay in replays + variants}
    frozen = freeze_groups(groups, [noise.label for noise in noises], names)
    frozen += [preset_group(mean, frozen, path) for mean in means_of(settings.tasks)]
    return TaskRequests(builder.requests(), builder.generations, replays + variants, frozen)


class _Builder:
    """Collects the requests of all tasks into one set."""

    def __init__(self, tokenization: Tokenization, max_length: int) -> None:
        self.tokenization = tokenization
        self.max_length = max_length
        self.pairs: list[tuple[Sequence[int], Sequence[int]]] = []
        self.generations: list[Generation] = []
        self.freezer = Freezer()

    def requests(self) -> Requests:
        return Requests.pack(self.pairs, self.max_length)

    def add(self, name: str, task: Task, noise: Perturbation | None, path: str) -> TaskReplay:
        """Tokenize one task's instances, with their prompts perturbed when `noise` is given."""
        instances = task.instances
        kinds = {instance.request_type for instance in instances}
        if unknown := kinds - {"loglikelihood", "loglikelihood_rolling", "generate_until"}:
            raise SettingsError(f"{path}.tasks: task '{name}' asks for {min(unknown)!r}, which is not supported")
        arguments = [_perturbed(instance, name, noise) for instance in instances]
        name_of_task = called(task, path)
        for instance, given in zip(instances, arguments, strict=True):
            self._check_special(instance, given, name_of_task)
        pairs = iter(self._scored(instances, arguments))
        rolling = iter(self._rolling(instances, arguments))
        calls = []
        for instance, given in zip(instances, arguments, strict=True):
            if instance.request_type == "generate_until":
                start = len(self.generations)
                self.generations += [Generation(given[0], given[1])] * instance.repeats
                calls.append(Call(instance.doc_id, instance.idx, "generation", start, len(self.generations)))
                continue
            wanted = [next(pairs)] if instance.request_type == "loglikelihood" else next(rolling)
            self._check_lengths(wanted, f"{name_of_task}, example {instance.doc_id}")
            kind = "scored" if instance.request_type == "loglikelihood" else "rolling"
            calls.append(Call(instance.doc_id, instance.idx, kind, len(self.pairs), len(self.pairs) + len(wanted)))
            self.pairs += wanted
        return freeze_task(name + (noise.label if noise else ""), task, calls, path, self.freezer)

    def _check_special(self, instance: Any, given: Any, called: str) -> None:
        """Raise SettingsError for a request that needs a token which the tokenizer does not have."""
        kind, where = instance.request_type, f"{called}, example {instance.doc_id}"
        generates = kind == "generate_until"
        if generates:
            check_generation(given[1], self.max_length, called)
        if generates and self.tokenization.tokenizer.eos_token_id is None:
            raise SettingsError(
                f"{where}: an answer is generated until the EOS token, and the tokenizer has none; "
                "leave the task out, or set one in the tokenizer's files"
            )
        if generates and not given[0] and not self.tokenization.encode([given[0]])[given[0]]:
            raise SettingsError(f"{where}: nothing to continue: the prompt is empty")
        if self.tokenization.prefix_token is None and (kind == "loglikelihood_rolling" or not given[0]):
            what = "a whole text is scored" if kind == "loglikelihood_rolling" else "nothing stands before the answer"
            raise SettingsError(
                f"{where}: {what}, which needs a BOS or EOS token before it, and the tokenizer has neither; "
                "leave the task out, or set one in the tokenizer's files"
            )

    def _check_lengths(self, wanted: Sequence[tuple[Sequence[int], Sequence[int]]], where: str) -> None:
        for context, target in wanted:
            if not target:
                raise SettingsError(f"{where}: nothing to score: the tokenizer makes no token of the answer")
            if not context:
                raise SettingsError(f"{where}: the tokenizer makes no token of the prompt; give it text")
            if len(target) > self.max_length:
                raise SettingsError(
                    f"{where}: an answer of {len(target)} tokens does not fit the model's context of {self.max_length}"
                )

    def _scored(self, instances: Sequence[Any], arguments: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
        return self.tokenization.pairs(
            [given for i, given in zip(instances, arguments, strict=True) if i.request_type == "loglikelihood"]
        )

    def _rolling(self, instances: Sequence[Any], arguments: Sequence[Any]) -> Iterator[list[Any]]:
        """For each rolling request its windows: the text cut so that every token is predicted exactly once."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        texts = [
            given[0] for i, given in zip(instances, arguments, strict=True) if i.request_type == "loglikelihood_rolling"
        ]
        ids = self.tokenization.encode(texts)
        for text in texts:
            windows = get_rolling_token_windows(
                token_list=ids[text],
                prefix_token=self.tokenization.prefix(),
                max_seq_len=self.max_length,
                context_len=1,
            )
            yield [make_disjoint_window(window) for window in windows]


def _refuse_kind(task: Task, path: str) -> None:
    if getattr(task, "MULTIMODAL", False):
        raise SettingsError(f"{called(task, path)} needs images or sound; choose a text task")
    if getattr(task, "UNSAFE_CODE", False):
        raise SettingsError(f"{called(task, path)} runs code that a model wrote; this is not supported")


def _build(task: Task, settings: Asked, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """lm-eval's own request building, once."""
    chat: dict[str, Any] = {}
    if settings.chat_template:
        chat = {
            "apply_chat_template": True,
            "fewshot_as_multiturn": True,  # what simple_evaluate does with a chat template
            "chat_template": _chat_template(tokenizer),
            "tokenizer_name": "recorded",
        }
    try:
        task.build_all_requests(limit=settings.limit, rank=0, world_size=1, **chat)
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # templates and code of a task may raise anything, and lm-eval asserts
        if few := _too_few_shots(task):
            raise SettingsError(f"{called(task, path)}: {few}") from error
        source = source_of(task)
        folder = source.parent if source else None
        raise SettingsError(explain(error, f"{called(task, path)} cannot build its requests", folder)) from error


def _too_few_shots(task: Task) -> str | None:
    """Whether there are fewer examples for the prompt than asked for, when the building fails."""
    asked, sampler = task.config.num_fewshot or 0, getattr(task, "sampler", None)
    have = len(sampler.df) if sampler is not None else 0
    if asked < have or not asked:
        return None
    return f"num_fewshot: {asked} examples are asked for in the prompt, and the data have {have}; ask for fewer"


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> Any:
    if not getattr(tokenizer, "chat_template", None):
        raise SettingsError("evaluation.chat_template: this model's tokenizer has no chat template; set it to false")
    from lm_eval.models.huggingface import HFLM

    holder: Any = SimpleNamespace(tokenizer=tokenizer, chat_template_args={})  # all that HFLM's method looks at
    return partial(HFLM.apply_chat_template, holder)


def _perturbed(instance: Any, name: str, noise: Perturbation | None) -> Any:
    arguments = instance.args
    if noise is None or instance.request_type == "loglikelihood_rolling":
        return arguments
    return (noise.apply(arguments[0], f"{name}/{instance.doc_id}"), *arguments[1:])


def _has_prompts(task: Task) -> bool:
    """False for tasks that score whole texts: without a prompt there is nothing to perturb."""
    return any(i.request_type != "loglikelihood_rolling" and i.args[0] for i in task.instances or ())


def _move_spaces(context: str, target: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + target


@contextmanager
def quiet(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Without what a package logs below `level`."""
    logger = logging.getLogger(name)
    earlier = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(earlier)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of datasets and of lm-eval's request building."""
    import datasets
    import lm_eval.api.task as task_module

    shown = datasets.is_progress_bar_enabled()
    bar = task_module.tqdm
    datasets.disable_progress_bars()
    task_module.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        task_module.tqdm = bar
        if shown:
            datasets.enable_progress_bars()

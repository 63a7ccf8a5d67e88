"""What only the data of a task can tell: whether each example has a prompt, choices, and a right answer among them.

lm-eval counts an example whose right answer is none of the choices as wrong, without a word, and meets a missing column
with an error of Python. Here every example of a task of the user's own is looked at once, and the first that cannot be
scored is named with its number and key. Tasks of lm-eval's own and ours keep the requests that lm-eval builds.
"""

from __future__ import annotations

import json
import operator
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, UndefinedError

from calib.settings import SettingsError
from sweep.evaluation.tasks.keys import TOKENS, choices_problem
from sweep.evaluation.tasks.names import closest

DEFAULT_TOKENS = 256  # of an answer, in lm-eval's HFLM
RENDERERS = {  # methods of lm-eval's tasks and the key that each of them renders
    "doc_to_text": "doc_to_text",
    "doc_to_target": "doc_to_target",
    "doc_to_choice": "doc_to_choice",
    "doc_to_prefix": "gen_prefix",
    "doc_to_decontamination_query": "doc_to_decontamination_query",
    "resolve_field": "description",
    "_render_query": "doc_to_decontamination_query",
}


def examine(task: Any, called: str, limit: int | None) -> None:
    """Raise SettingsError for the first example that cannot be asked or judged; `called` begins the message."""
    docs = task.task_docs
    if not len(docs):
        raise SettingsError(f"{called}: its data hold no examples; give some, or another split")
    _refuse_misspelt_columns(task, called)
    kinds: set[bool] = set()
    blank = True
    for number, doc in enumerate(docs):
        if limit is not None and number >= limit:
            break
        look = _Example(task, doc, f"{called}, example {number}")
        look.check()
        kinds.add(isinstance(look.target, list))
        blank = blank and look.blank
    if blank and task.config.doc_to_text and not task.config.description:
        raise SettingsError(f"{called}: doc_to_text: the prompt is empty in every example; name another column")
    if len(kinds) > 1 and task.config.process_results is None:
        raise SettingsError(f"{called}: doc_to_target: a list for some examples and one answer for others; give lists")


def _refuse_misspelt_columns(task: Any, called: str) -> None:
    """lm-eval takes a text that is no column for the prompt itself, the same for every example."""
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        text = getattr(task.config, key)
        if not isinstance(text, str) or not text.isidentifier() or text in task.features:
            continue
        hint = closest(text, task.features, "")
        if hint or key == "doc_to_choice":
            raise SettingsError(
                f"{called}: {key}: the data have no column '{text}'{hint or _columns(task.features)}; "
                f"if the text itself is meant, write {{{{ '{text}' }}}}"
            )


def _render_query(task: Any, doc: Any) -> None:
    """lm-eval renders it only where it looks for contamination, and then takes it for a literal of Python."""
    from lm_eval import utils

    template = task.config.doc_to_decontamination_query
    if isinstance(template, str) and template not in task.features:
        utils.apply_template(template, doc)


class _Example:
    """One document of a task."""

    def __init__(self, task: Any, doc: Any, called: str) -> None:
        self.task = task
        self.doc = doc
        self.called = called
        self.target: Any = None
        self.blank = False  # the prompt, which lm-eval then scores without one

    def check(self) -> None:
        task, kind = self.task, self.task.OUTPUT_TYPE
        text = task.doc_to_text(self.doc)
        self.target = task.doc_to_target(self.doc)
        choices = task.doc_to_choice(self.doc) if task.config.doc_to_choice is not None else None
        if choices is not None and (problem := choices_problem(choices)):
            self._wrong("doc_to_choice", problem)
        in_text = isinstance(text, int) and choices is not None
        if not in_text and not isinstance(text, str):
            self._wrong("doc_to_text", f"expected text, got {text!r}")
        self.blank = isinstance(text, str) and not text.strip()
        if kind == "multiple_choice" and choices is not None and task.config.process_results is None:
            self._check_right(text if in_text else self.target, choices, "doc_to_text" if in_text else "doc_to_target")
        elif kind in ("loglikelihood", "loglikelihood_rolling"):
            if not isinstance(self.target, str) or not self.target:
                self._wrong("doc_to_target", f"expected text to score, got {self.target!r}; leave the example out")
        elif kind == "generate_until" and choices is not None and task.config.process_results is None:
            self._check_right(self.target, choices, "doc_to_target")

        if task.config.should_decontaminate:
            _render_query(task, self.doc)

    def _check_right(self, gold: Any, choices: Sequence[str], key: str) -> None:
        """The right answer is one of the choices; that others read the same happens in published data (MMLU)."""
        answers = [_plain(answer) for answer in (gold if isinstance(gold, list) else [gold])]
        if not answers:
            self._wrong(key, "no right answer; leave the example out")
        for answer in answers:
            if isinstance(answer, int) and not 0 <= answer < len(choices):
                self._wrong(key, f"{answer} is none of the {len(choices)} choices, 0 to {len(choices) - 1}")
            if isinstance(answer, str) and (isinstance(gold, list) or answer not in choices):
                reason = "expected the choice's number" if answer in choices else f"is none of {list(choices)!r:.200}"
                self._wrong(key, f"{answer!r} {reason}")
            if not isinstance(answer, int | str):
                self._wrong(key, f"expected the number of a choice, or its text, got {answer!r}")

    def _wrong(self, key: str, message: str) -> NoReturn:
        raise SettingsError(f"{self.called}: {key}: {message}")


def _plain(answer: Any) -> Any:
    """A whole number of numpy as one of Python, which lm-eval makes no difference between."""
    return operator.index(answer) if hasattr(answer, "__index__") else answer


def check_generation(arguments: Mapping[str, Any], max_length: int, called: str) -> None:
    """Raise SettingsError for arguments of a generation that no model takes, or that leave no room for a prompt."""
    known = _generation_names()
    for name in arguments:
        if name not in known:
            hint = closest(str(name), known, "; leave it out")
            raise SettingsError(f"{called}: generation_kwargs: unknown argument '{name}'{hint}")
    given = [arguments[name] for name in TOKENS[:-1] if arguments.get(name) is not None]
    tokens = int(given[0]) if given else DEFAULT_TOKENS
    if tokens >= max_length:
        raise SettingsError(
            f"{called}: generation_kwargs: an answer of up to {tokens} tokens leaves no room for a prompt in the "
            f"model's context of {max_length}; give a smaller max_gen_toks"
        )


@lru_cache(maxsize=1)
def _generation_names() -> frozenset[str]:
    from transformers import GenerationConfig

    return frozenset((*vars(GenerationConfig()), *TOKENS, "until"))


def explain(error: BaseException, called: str, folder: Path | None) -> str:
    """One line for what lm-eval, a template, a data set or a task's code raised while requests were built.

    `called` names the task, and `folder` is where its files lie. The key and the example are told from where the error
    was raised.
    """
    frames = _frames(error)
    place = called
    rendering = [(scope, name) for scope, name in frames if name in RENDERERS and "doc" in scope]
    features: Sequence[str] = ()
    if rendering:
        scope, name = rendering[-1]
        holders = (value for found, _ in reversed(frames) for value in (found.get("self"), found.get("task")))
        task = next((value for value in holders if hasattr(value, "features")), None)
        features = getattr(task, "features", ())
        place += f"{_number(task, scope['doc'])}: {RENDERERS[name]}"
    if line := code_line(error, folder):
        place += f": {line}"
    return f"{place}: {_reason(error, features)}"


def code_line(error: BaseException, folder: Path | None) -> str | None:
    """`rules.py, line 3, in clean`: where code in a task's folder raised an error; None when none did."""
    trace = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in trace if folder is not None and Path(frame.filename).is_relative_to(folder.resolve())]
    return f"{own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}" if own else None


def _reason(error: BaseException, columns: Sequence[str]) -> str:
    text = one_line(error)
    if isinstance(error, UndefinedError):
        name = text.split("'")[1] if text.count("'") >= 2 and text.endswith("is undefined") else ""
        if columns and name.isidentifier():
            return f"the data have no column '{name}'{closest(name, columns, _columns(columns))}"
        return f"{text}; the data have {', '.join(columns)}" if columns else text
    if isinstance(error, TemplateError):
        return f"{text} (in a template)"
    kind = type(error).__name__
    return text if isinstance(error, SettingsError) else f"{kind}: {text}" if text else kind


def _columns(columns: Sequence[str]) -> str:
    return f"; there are {', '.join(columns)}"[:300]


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _frames(error: BaseException) -> list[tuple[Mapping[str, Any], str]]:
    """(local variables, name) of each function that an error came through, the outermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [(frame.f_locals, frame.f_code.co_name) for frame in frames]


def _number(task: Any, doc: Any) -> str:
    """`, example 3`: where the document stands in what is evaluated, or that it is one shown in the prompt."""
    docs = getattr(task, "task_docs", None)
    for number, other in enumerate(docs if docs is not None else ()):
        if other == doc:
            return f", example {number}"
    return ", an example shown in the prompt"


def bad_json(files: Any) -> str | None:
    """`docs.jsonl, line 3: ...` for the first record of local JSON files that is none; None when all are fine."""
    for name in _texts(files):
        path = Path(name)
        if path.is_file() and (reason := _bad_json(path)):
            return f"{path}{reason}"
    return None


def _bad_json(path: Path) -> str | None:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f": byte {error.start} is no UTF-8"
    if not content.strip():
        return " is empty"
    try:
        return " holds half of a surrogate pair" if _has_half_a_pair(json.loads(content)) else None
    except (ValueError, RecursionError):
        pass  # not one value, so one on each line
    for number, line in enumerate(content.split("\n"), 1):
        try:
            record = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            return f", line {number}: no JSON ({one_line(error)})"
        if _has_half_a_pair(record):
            return f", line {number}: holds half of a surrogate pair"
        if not isinstance(record, dict):
            return f", line {number}: expected an object {{column: value}}, got {record!r:.60}"
    return None


def _has_half_a_pair(record: Any) -> bool:
    """Whether some text cannot be written as UTF-8: an emoji, cut in two, as `\\ud83d`."""
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)

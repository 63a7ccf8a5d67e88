"""Templates of tasks, rendered in Jinja's sandbox: they may shape text, and nothing else.

A task's file is text that people pass around, so its templates get no way to the interpreter (no attributes that begin
with an underscore, no functions of modules), and neither much memory nor much time. Everything else is as in lm-eval:
its filters, and names that are not there are errors.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any, NoReturn

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

MOST_CHARACTERS = 10_000_000  # of one rendered text: far more than any context holds
MOST_BITS = 100_000  # of a whole number
SECONDS = 5.0  # of this process's own computing for one text, which takes microseconds
_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{7}|\*)")  # a width in a format that is too large, or not known from it
_PADDING = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))


class _Sandbox(SandboxedEnvironment):
    """Jinja's sandbox, where what an expression makes is bounded before it is made."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise SecurityError("the padding is too large")
        numbers = isinstance(left, int) and isinstance(right, int)
        if _size_of(operator, left, right) > (MOST_BITS if numbers else MOST_CHARACTERS):
            raise SecurityError(f"the result of {operator!r} is too large")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        numbers = [value for value in (*args, *kwargs.values()) if isinstance(value, int)]
        if getattr(function, "__name__", "") in _PADDING and max(numbers, default=0) > MOST_CHARACTERS:
            raise SecurityError("the padding is too large")
        return super().call(context, function, *args, **kwargs)


def _size_of(operator: str, left: Any, right: Any) -> int:
    """Characters, items or bits of the result, as far as they can be told."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * max(right, 0)
        return left.bit_length() + right.bit_length() if operator == "*" else 0
    for one, other in ((left, right), (right, left)):
        if hasattr(one, "__len__"):
            if operator == "*" and isinstance(other, int):
                return len(one) * other
            if operator == "+" and hasattr(other, "__len__"):
                return len(one) + len(other)
    return 0


def regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    """lm-eval's own filter: `re.sub`."""
    return re.sub(pattern, replacement, text, count=count)


@lru_cache(maxsize=1)
def sandbox() -> SandboxedEnvironment:
    """The environment of all templates."""
    environment = _Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = regex_replace
    environment.globals.pop("lipsum")  # makes as much text as it is told to, and different text each time
    return environment


@lru_cache(maxsize=4096)
def compiled(template: str) -> Any:
    """The template, compiled once: lm-eval does it for every document, which takes most of the building."""
    return sandbox().from_string(template)


def syntax_error(template: str) -> str | None:
    """What is wrong with the text as a template; None when it can be rendered."""
    try:
        compiled(template)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except (RecursionError, MemoryError):
        return "nested too deeply"
    except (SecurityError, OverflowError) as error:  # Jinja computes what is constant at once
        return str(error)
    return None


def render(template: str, document: Mapping[str, Any]) -> str:
    """The text that a template makes of a document.

    Raises Jinja's TemplateError (a name that is not there, something unsafe), or what an expression raises.
    """
    text: str = compiled(template).render(**document)
    if len(text) > MOST_CHARACTERS:
        raise SecurityError(f"the text has more than {MOST_CHARACTERS:,} characters")
    return text


@contextmanager
def sandboxed() -> Iterator[None]:
    """All templates that lm-eval renders go through `render`, and each has a few seconds of this process's time."""
    from lm_eval import utils

    plain = utils.apply_template, utils.env
    with _alarm() as bounded:
        utils.apply_template = lambda template, document: bounded(template, document)
        utils.env = sandbox()
        try:
            yield
        finally:
            utils.apply_template, utils.env = plain


@contextmanager
def _alarm() -> Iterator[Any]:
    """`render` that gives up after SECONDS; elsewhere than in the main thread, where no signal arrives, without end."""
    if threading.current_thread() is not threading.main_thread():
        yield render
        return

    def bounded(template: str, document: Mapping[str, Any]) -> str:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            return render(template, document)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    earlier = signal.signal(signal.SIGVTALRM, _give_up)
    try:
        yield bounded
    finally:
        signal.signal(signal.SIGVTALRM, earlier)


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SecurityError(f"takes more than {SECONDS:g} seconds")

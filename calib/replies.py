"""Which part of a rendered conversation an assistant writes, found by rendering it in other ways.

Templates rarely say it themselves. But a model is asked with the conversation up to its turn, so what the template adds
after that is the reply: from the end of the rendering up to the turn, to the end of the rendering with it. The hard
case is a template that writes the past otherwise than the present, as those of reasoning models do, which leave the
reasoning out of all turns but the last. Where a beginning of the conversation is not rendered as the beginning of the
whole, the conversation is rendered once more with a mark in the place of the reply: what differs then is what the
template shows of it, and what follows the mark where the conversation ends there closes the turn. Where not even the
reply's last line is found there, nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calib.settings import SettingsError

Messages = list[dict[str, Any]]
Render = Callable[[Messages, bool], str]  # (messages, whether the assistant is to answer) -> text
Span = tuple[int, int]  # of characters

MARK = "\ue000"  # a character for private use, which no text has and no template looks for
END_OF_REASONING = "</think>"


def reply_spans(messages: Messages, text: str, render: Render) -> list[Span] | None:
    """Where in `text`, the rendering of `messages`, each reply stands; None where it cannot be told."""
    spans: list[Span] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        span = _whole(messages, number, text, render) or _by_mark(messages, number, text, render)
        if span is None or (spans and span[0] < spans[-1][1]):
            return None
        spans.append(span)
    return spans


def marked(offsets: Sequence[Span], spans: Sequence[Span]) -> np.ndarray:
    """Which tokens begin within one of the spans; (tokens,), bool. `offsets`: the characters of each token."""
    begins = np.asarray([begin for begin, _ in offsets], dtype=np.int64)
    inside = np.zeros(len(begins), dtype=bool)
    for begin, end in spans:
        inside |= (begins >= begin) & (begins < end)
    return inside


def _whole(messages: Messages, number: int, text: str, render: Render) -> Span | None:
    """The reply between two beginnings of the text; None where the conversation is rendered otherwise up to there."""
    if not number:  # there is no beginning without the reply
        return None
    begin = _length(messages[:number], True, text, render)
    end = None if begin is None else _length(messages[: number + 1], False, text, render)
    return None if begin is None or end is None or end < begin else (begin, end)


def _by_mark(messages: Messages, number: int, text: str, render: Render) -> Span | None:
    """The reply by what changes with it; None where that is not what it says."""
    mark = {"role": messages[number]["role"], "content": MARK}
    other = _rendered([*messages[:number], mark, *messages[number + 1 :]], False, render)
    if other is None or other.count(MARK) != 1 or MARK in text:
        return None
    begin = _alike(text, other)
    end = len(text) - _alike(text[begin:][::-1], other[begin:][::-1])
    if not _says(messages[number], text[begin:end]):
        return None
    asked = _length(messages[:number], True, text, render) if number else None
    begin = begin if asked is None or asked > end else asked
    alone = _rendered([*messages[:number], mark], False, render)
    closing = "" if alone is None else alone.rpartition(MARK)[2]
    return begin, end + (len(closing) if text.startswith(closing, end) else 0)


def _alike(one: str, other: str) -> int:
    """How many characters the two texts begin with in common."""
    differing = (number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _says(message: Mapping[str, Any], shown: str) -> bool:
    """Whether what is shown of a reply is its end, or nothing where it has none after its reasoning."""
    lines = str(message["content"]).rpartition(END_OF_REASONING)[2].strip().splitlines()
    return not lines or lines[-1].strip() in shown


def _length(messages: Messages, asked: bool, text: str, render: Render) -> int | None:
    """How much of `text` these first messages make; None where they are rendered otherwise alone."""
    beginning = _rendered(messages, asked, render)
    return None if beginning is None or not text.startswith(beginning) else len(beginning)


def _rendered(messages: Messages, asked: bool, render: Render) -> str | None:
    """None where the template refuses this conversation."""
    try:
        return render(messages, asked)
    except SettingsError:
        return None

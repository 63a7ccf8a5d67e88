"""Which part of a rendered conversation an assistant writes, found by rendering its beginnings.

Templates rarely say it themselves. But a model is asked with the conversation up to its turn, so what the template adds
after that is the reply: from the end of the rendering up to the turn, to the end of the rendering with it. The hard
case is a template that writes the past otherwise than the present (reasoning left out of earlier turns, a closing
line): where a beginning of the conversation is not rendered as the beginning of the whole, the reply ends with its
content, and where that is not to be found either, nothing is known. A conversation that begins with a reply has no
beginning to render, so that reply begins with its content: what a template puts before it, such as a system prompt of
its own, is no reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calib.settings import SettingsError

Messages = list[dict[str, Any]]
Render = Callable[[Messages, bool], str]  # (messages, whether the assistant is to answer) -> text
Span = tuple[int, int]  # of characters


def reply_spans(messages: Messages, text: str, render: Render) -> list[Span] | None:
    """Where in `text`, the rendering of `messages`, each reply stands; None where it cannot be told."""
    spans: list[Span] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = _length(messages[:number], True, text, render) if number else _begin_of(message, text)
        if begin is None:
            return None
        end = _length(messages[: number + 1], False, text, render) or _end_of(message, text, begin)
        if end is None or end < begin:
            return None
        spans.append((begin, end))
    return spans


def marked(offsets: Sequence[Span], spans: Sequence[Span]) -> np.ndarray:
    """Which tokens begin within one of the spans; (tokens,), bool. `offsets`: the characters of each token."""
    begins = np.asarray([begin for begin, _ in offsets], dtype=np.int64)
    inside = np.zeros(len(begins), dtype=bool)
    for begin, end in spans:
        inside |= (begins >= begin) & (begins < end)
    return inside


def _length(messages: Messages, asked: bool, text: str, render: Render) -> int | None:
    """How much of `text` these first messages make; None where they are rendered otherwise alone."""
    try:
        beginning = render(messages, asked)
    except SettingsError:  # the template refuses a conversation that stops here
        return None
    return len(beginning) if text.startswith(beginning) else None


def _begin_of(message: Mapping[str, Any], text: str) -> int | None:
    content = str(message["content"]).strip()
    place = text.find(content) if content else -1
    return place if place >= 0 else None


def _end_of(message: Mapping[str, Any], text: str, begin: int) -> int | None:
    content = str(message["content"]).strip()
    place = text.find(content, begin) if content else -1
    return place + len(content) if place >= 0 else None

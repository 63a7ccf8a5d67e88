"""A chat template at work: conversations as text, as token ids, and which of the ids an assistant writes.

The hard case is the BOS id: most templates write it, so the text is tokenized without special tokens, and a
conversation has the one that its template gives. A template is a program: what it raises is about the conversation,
and what it leaves out in silence (a call of a tool, all that the messages say) is refused. Templates that write today's
date (Llama 3.2) are given one day for ever, since the same spec gives the same tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.chat import Conversation, called_tools
from calib.replies import marked, reply_spans
from calib.settings import SettingsError, one_line
from calib.source import TOKENIZE_BATCH, TokenDocument
from calib.tokenizer import called

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TODAY = datetime(2024, 7, 26)  # the day that the templates of Llama 3 name where there is no clock
CLOCK = re.compile(r"""strftime_now\(\s*(?P<mark>["'])(?P<form>[^"']*)(?P=mark)\s*\)""")


@dataclass(frozen=True)
class Rendering:
    """A tokenizer with a chat template and further arguments of it (`enable_thinking: false`)."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def documents(self, conversations: Iterable[Conversation]) -> Iterator[TokenDocument]:
        """Each conversation as token ids; those that give no token are left out."""
        remaining = iter(conversations)
        while batch := list(islice(remaining, TOKENIZE_BATCH)):
            encoded = self._encoded([self.text(conversation) for conversation in batch])
            for conversation, ids in zip(batch, encoded["input_ids"], strict=True):
                if len(ids):
                    marks = cache(partial(self.replies, conversation))
                    yield TokenDocument(conversation.id, np.asarray(ids, dtype=np.int32), marks)

    def prompts(self, conversations: Iterable[Conversation]) -> Iterator[TokenDocument]:
        """Each conversation up to its last answer, rendered so that the model's answer follows."""
        for conversation in conversations:
            ids = self._encoded(self.text(conversation.asked(), asked=True))["input_ids"]
            yield TokenDocument(conversation.id, np.asarray(ids, dtype=np.int32))

    def text(self, conversation: Conversation, *, asked: bool = False) -> str:
        """The rendered text; `asked`: so that an answer follows. Raises SettingsError where nothing of what the
        messages say is in it."""
        text = self._rendered(conversation, asked)
        if not _shown(conversation.messages, text):
            raise SettingsError(f"{conversation.place}: the chat template leaves out what the messages say")
        return text

    def replies(self, conversation: Conversation) -> np.ndarray | None:
        """Which tokens an assistant writes, (tokens,), bool; None where template or tokenizer do not show it."""
        if not getattr(self.tokenizer, "is_fast", False):  # it does not tell where in the text a token stands
            return None

        def render(messages: list[dict[str, Any]], asked: bool) -> str:
            return self._rendered(replace(conversation, messages=messages), asked)

        text = self.text(conversation)
        spans = reply_spans(conversation.messages, text, render)
        return None if spans is None else marked(self._encoded(text, offsets=True)["offset_mapping"], spans)

    def _rendered(self, conversation: Conversation, asked: bool) -> str:
        place, messages = conversation.place, conversation.messages
        arguments = {**self.arguments, **({"add_generation_prompt": True} if asked else {})}
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=conversation.tools, chat_template=_dated(self.template), tokenize=False, **arguments
            )
        except Exception as error:  # a template is a program: what it raises is about the conversation
            reason = one_line(" ".join(str(error).split()))[:200] or type(error).__name__
            raise SettingsError(f"{place}: the chat template refuses it ({reason})") from None
        if lost := next((name for name in called_tools(messages) if name not in str(text)), None):
            raise SettingsError(f"{place}: the chat template leaves out the call of the tool '{lost}'")
        return str(text)

    def _encoded(self, text: str | list[str], *, offsets: bool = False) -> Any:
        return self.tokenizer(
            text,
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=offsets,
            verbose=False,
        )


def own_template(tokenizer: PreTrainedTokenizerBase, place: str) -> str:
    """The tokenizer's own template. Raises SettingsError that begins with `place` when it has none."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise no_template(called(tokenizer), place) from None


def no_template(tokenizer: str, place: str) -> SettingsError:
    """What is said of a tokenizer without a chat template."""
    return SettingsError(
        f"{place}: {tokenizer} has no chat template; choose template: none, chatml or llama2, or give a template_file"
    )


def _shown(messages: list[dict[str, Any]], text: str) -> bool:
    """Whether the text has the content of any message, as it is or escaped as JSON; true where none has a content."""
    said = [content for message in messages if (content := (message.get("content") or "").strip())]
    return not said or any(each in text or json.dumps(each)[1:-1] in text for each in said)


def _dated(template: str) -> str:
    """The template with one day in the place of the clock. Raises ValueError where it asks for it in another way."""
    dated = CLOCK.sub(lambda asked: json.dumps(TODAY.strftime(asked["form"])), template)
    if re.search(r"strftime_now\s*\(", dated):
        raise ValueError("it writes the time in a form of its own, so its text would not be the same twice")
    return dated

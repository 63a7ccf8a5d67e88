"""Base of sources of conversations: which columns of a record hold one, and its documents as a template renders it.

A record has the messages of a conversation in one column (`messages` or `conversations`, as the data set calls it), or
a question and its answer in two. The hard case is a column of tools: conversations without tools may lack it, so only
where no record has it is the name wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from calib.chat import Conversation, messages_in
from calib.rendering import Rendering
from calib.settings import SettingsError, settings
from calib.source import Document, Record, Source, SourceSetting, TokenDocument

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 2_000  # records that are read before any work starts


@settings
class ConversationSource(Source):
    """Base of sources that render the conversations of another one. `of`: where the records come from. `messages`: the
    column of the conversation, or `prompt` and `response`: two columns of text. `tools`: the column of the tools."""

    of: SourceSetting
    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    tools: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) != (self.response is None):
            raise ValueError("prompt: needs response as well, and response needs prompt")
        if self.prompt is not None and self.messages is not None:
            raise ValueError("messages: leave it out where prompt and response are given")
        super().__post_init__()

    @property
    def tells_responses(self) -> bool:
        return True

    def check(self) -> None:
        deque(islice(() if self.of.remote else self.conversations(), LOOKED_AT), maxlen=0)

    def capacity(self) -> int | None:
        return None  # a template adds what only the tokenizer knows

    def rendering(self, tokenizer: PreTrainedTokenizerBase) -> Rendering:
        """The template at work. Raises SettingsError when there is none."""
        raise NotImplementedError(f"{type(self).__name__} must say how it renders conversations")

    def documents(self) -> Iterator[Document]:
        raise SettingsError(f"{self._place}: conversations are rendered by a tokenizer's chat template")

    def token_documents(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
        return self.rendering(tokenizer).documents(self.conversations())

    def prompts(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
        """Each conversation up to its last answer, rendered so that the model's answer follows."""
        return self.rendering(tokenizer).prompts(self.conversations())

    def conversations(self) -> Iterator[Conversation]:
        """All of them in the order of the records. Raises SettingsError with the place of a record that is none."""
        found = self.tools is None
        for record in self.of.records():
            found = found or self.tools in record.values
            yield self._conversation(record)
        if not found:
            raise SettingsError(f"{self._place}: tools: no record has a column '{self.tools}'")

    def _conversation(self, record: Record) -> Conversation:
        place = f"{self._place}: {record.place}"
        if self.prompt is not None and self.response is not None:
            sides = (("user", self.prompt), ("assistant", self.response))
            value = [{"role": role, "content": _value(record, column, place)} for role, column in sides]
        else:
            value = self.of.messages_of(record) if self.messages is None else _value(record, self.messages, place)
        tools = record.values.get(self.tools) if self.tools else None
        return Conversation(record.id, place, messages_in(value, place), tools)

    @property
    def _place(self) -> str:
        return f"source '{self.label}'"


def _value(record: Record, column: str, place: str) -> Any:
    if column not in record.values:
        raise SettingsError(f"{place}: no column '{column}'")
    return record.values[column]

"""Conversations as the model meets them: rendered by its tokenizer's chat template, each one a document.

The records come from any source that has them: a file, or a data set of the hub (`ultrachat`, `alpaca`). The template
is the tokenizer's own, so the set's id knows it through the tokenizer's fingerprint; another family's template
(`chatml`, `llama2`, or a file) and none at all are the controls. The hard case is the BOS id: most templates write it,
so the text is tokenized without special tokens, and a conversation has the one that its template gives. Templates that
write today's date (Llama 3.2) are given one day for ever, since the same spec gives the same tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from calib.chat import TEMPLATES, messages_in
from calib.files import find_files, read_text, revision_of
from calib.replies import marked, reply_spans
from calib.settings import SettingsError, identity, one_line, settings
from calib.source import TOKENIZE_BATCH, Document, Record, Source, SourceSetting, TokenDocument, register
from calib.tokenizer import called, has_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 2_000  # records that are read before any work starts
TODAY = datetime(2024, 7, 26)  # the day that the templates of Llama 3 name where there is no clock
CLOCK = re.compile(r"""strftime_now\(\s*(?P<mark>["'])(?P<form>[^"']*)(?P=mark)\s*\)""")


@register("chat")
@settings
class Chat(Source):
    """`of`: where the records come from. `messages`: the column of the conversation (`messages` or `conversations`, or
    what the data set calls it), or `prompt` and `response`: two columns of text. `tools`: the column of the tools.
    `template`: own, none, chatml or llama2, or `template_file`: a Jinja file. `arguments`: further arguments of the
    template (`enable_thinking: false`).
    """

    paths: ClassVar[frozenset[str]] = frozenset({"path", "template_file"})
    example: ClassVar[Mapping[str, Any]] = {"of": {"source": "file", "path": "my.jsonl"}, "template": "chatml"}

    of: SourceSetting
    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    tools: str | None = None
    template: Literal["own", "none", "chatml", "llama2"] = "own"
    template_file: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.prompt is None) != (self.response is None):
            raise ValueError("prompt: needs response as well, and response needs prompt")
        if self.prompt is not None and self.messages is not None:
            raise ValueError("messages: leave it out where prompt and response are given")
        if self.template_file is not None and self.template != "own":
            raise ValueError("template_file: leave template out where a file is given")
        if self.tools is not None and self.template != "own":
            raise ValueError(f"tools: the template {self.template} shows no tools; leave tools or template out")
        super().__post_init__()

    def revision(self) -> str:
        if self.template_file is None:
            return super().revision()
        return f"{super().revision()}:{identity(revision_of(find_files(self.template_file, kinds=('text',))))}"

    @property
    def tells_responses(self) -> bool:
        return True

    def check(self) -> None:
        self._file_template()
        for record in islice(() if self.of.remote else self._records(), LOOKED_AT):
            self._conversation(record)

    def check_tokenizer(self, folder: str) -> None:
        if self.template == "own" and self.template_file is None and not has_chat_template(Path(folder)):
            raise self._no_template(f"the tokenizer {folder}")

    def capacity(self) -> int | None:
        return None  # a template adds what only the tokenizer knows

    def documents(self) -> Iterator[Document]:
        raise SettingsError(f"source '{self.label}': conversations are rendered by a tokenizer's chat template")

    def token_documents(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
        template = self.template_text(tokenizer)
        records = self._records()
        while batch := list(islice(records, TOKENIZE_BATCH)):
            texts = [self._rendered(record, tokenizer, template) for record in batch]
            encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
            for record, ids in zip(batch, encoded["input_ids"], strict=True):
                if len(ids):
                    marks = cache(partial(self._marks, record, tokenizer, template))
                    yield TokenDocument(record.id, np.asarray(ids, dtype=np.int32), marks)

    def prompts(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenDocument]:
        """Each conversation up to its last answer, rendered so that the model's answer follows."""
        template = self.template_text(tokenizer)
        for record in self._records():
            messages = self._conversation(record)
            while messages and messages[-1]["role"] == "assistant":
                messages = messages[:-1]
            if not messages:
                raise SettingsError(f"{self._place(record)}: nobody asks anything in this conversation")
            text = self._text(record, messages, tokenizer, template, add_generation_prompt=True)
            ids = tokenizer(self._saying(record, messages, text), add_special_tokens=False, verbose=False)["input_ids"]
            yield TokenDocument(record.id, np.asarray(ids, dtype=np.int32))

    def template_text(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The template that renders the conversations. Raises SettingsError when the tokenizer has none."""
        if self.template_file is not None:
            return str(self._file_template())
        if self.template != "own":
            return TEMPLATES[self.template]
        try:
            return str(tokenizer.get_chat_template())
        except ValueError:
            raise self._no_template(called(tokenizer)) from None

    def _no_template(self, tokenizer: str) -> SettingsError:
        return SettingsError(
            f"source '{self.label}': {tokenizer} has no chat template; choose template: none, chatml or llama2, or "
            "give a template_file"
        )

    def template_id(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """16 hex digits of the template's text."""
        return hashlib.sha256(self.template_text(tokenizer).encode()).hexdigest()[:16]

    def _file_template(self) -> str | None:
        if self.template_file is None:
            return None
        try:
            return read_text(Path(self.template_file))
        except SettingsError as error:
            raise SettingsError(f"source '{self.label}': template_file: {error}") from None

    def _records(self) -> Iterator[Record]:
        """The records; at their end an error when none of them has the column of the tools."""
        found = self.tools is None
        for record in self.of.records():
            found = found or self.tools in record.values
            yield record
        if not found:
            raise SettingsError(f"source '{self.label}': tools: no record has a column '{self.tools}'")

    def _rendered(self, record: Record, tokenizer: PreTrainedTokenizerBase, template: str) -> str:
        messages = self._conversation(record)
        return self._saying(record, messages, self._text(record, messages, tokenizer, template))

    def _saying(self, record: Record, messages: list[dict[str, Any]], text: str) -> str:
        """The rendered text. Raises SettingsError where nothing of what the messages say is in it."""
        if not _shown(messages, text):
            raise SettingsError(f"{self._place(record)}: the chat template leaves out what the messages say")
        return text

    def _marks(self, record: Record, tokenizer: PreTrainedTokenizerBase, template: str) -> np.ndarray | None:
        """Which tokens of a conversation an assistant writes; None where template or tokenizer do not show it."""

        def render(messages: list[dict[str, Any]], asked: bool) -> str:
            return self._text(
                record, messages, tokenizer, template, **({"add_generation_prompt": True} if asked else {})
            )

        if not getattr(tokenizer, "is_fast", False):  # it does not tell where in the text a token stands
            return None
        text = self._rendered(record, tokenizer, template)
        if (spans := reply_spans(self._conversation(record), text, render)) is None:
            return None
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return marked(encoded["offset_mapping"], spans)

    def _text(
        self,
        record: Record,
        messages: list[dict[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        **more: Any,
    ) -> str:
        tools = record.values.get(self.tools) if self.tools else None
        arguments = {**self.arguments, **more}
        try:
            text = tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=_dated(template), tokenize=False, **arguments
            )
        except Exception as error:  # a template is a program: what it raises is about the conversation
            reason = one_line(" ".join(str(error).split()))[:200] or type(error).__name__
            raise SettingsError(f"{self._place(record)}: the chat template refuses it ({reason})") from None
        if lost := next((name for name in _called(messages) if name not in str(text)), None):
            raise SettingsError(f"{self._place(record)}: the chat template leaves out the call of the tool '{lost}'")
        return str(text)

    def _conversation(self, record: Record) -> list[dict[str, Any]]:
        place = self._place(record)
        if self.prompt is not None and self.response is not None:
            sides = (("user", self.prompt), ("assistant", self.response))
            value = [{"role": role, "content": self._value(record, column)} for role, column in sides]
        else:
            value = self.of.messages_of(record) if self.messages is None else self._value(record, self.messages)
        messages = messages_in(value, place)
        if self.template != "own" and (calls := _called(messages)):
            raise SettingsError(
                f"{place}: the template {self.template} leaves out the call of the tool '{calls[0]}'; leave template "
                "out, or give a template_file that shows tools"
            )
        return messages

    def _value(self, record: Record, column: str) -> Any:
        if column not in record.values:
            raise SettingsError(f"{self._place(record)}: no column '{column}'")
        return record.values[column]

    def _place(self, record: Record) -> str:
        return f"source '{self.label}': {record.place}"


def _shown(messages: list[dict[str, Any]], text: str) -> bool:
    """Whether the text has the content of any message, as it is or escaped as JSON; true where none has a content."""
    said = [content for message in messages if (content := (message.get("content") or "").strip())]
    return not said or any(each in text or json.dumps(each)[1:-1] in text for each in said)


def _called(messages: list[dict[str, Any]]) -> list[str]:
    """The names of the tools that the messages call."""
    calls = [call for message in messages for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    functions = [call.get("function", call) for call in calls]
    return [str(function["name"]) for function in functions if isinstance(function, Mapping) and "name" in function]


def _dated(template: str) -> str:
    """The template with one day in the place of the clock. Raises ValueError where it asks for it in another way."""
    dated = CLOCK.sub(lambda asked: json.dumps(TODAY.strftime(asked["form"])), template)
    if re.search(r"strftime_now\s*\(", dated):
        raise ValueError("it writes the time in a form of its own, so its text would not be the same twice")
    return dated

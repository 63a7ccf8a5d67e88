"""Conversations as the model meets them: rendered by its tokenizer's chat template, each one a document.

The records come from any source that has them: a file, or a data set of the hub (`ultrachat`, `alpaca`). The template
is the tokenizer's own, so the set's id knows it through the tokenizer's fingerprint; another family's template
(`chatml`, `llama2`, or a file) and none at all are the controls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from calib.chat import TEMPLATES, Conversation, called_tools
from calib.conversations import ConversationSource
from calib.files import find_files, read_text, revision_of
from calib.rendering import Rendering, no_template, own_template
from calib.settings import SettingsError, identity, settings
from calib.source import Record, register
from calib.tokenizer import has_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@register("chat")
@settings
class Chat(ConversationSource):
    """`of`: where the records come from. `messages`: the column of the conversation (`messages` or `conversations`, or
    what the data set calls it), or `prompt` and `response`: two columns of text. `tools`: the column of the tools.
    `template`: own, none, chatml or llama2, or `template_file`: a Jinja file. `arguments`: further arguments of the
    template (`enable_thinking: false`).
    """

    paths: ClassVar[frozenset[str]] = frozenset({"path", "template_file"})
    example: ClassVar[Mapping[str, Any]] = {"of": {"source": "file", "path": "my.jsonl"}, "template": "chatml"}

    template: Literal["own", "none", "chatml", "llama2"] = "own"
    template_file: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template_file is not None and self.template != "own":
            raise ValueError("template_file: leave template out where a file is given")
        if self.tools is not None and self.template != "own":
            raise ValueError(f"tools: the template {self.template} shows no tools; leave tools or template out")

    def revision(self) -> str:
        if self.template_file is None:
            return super().revision()
        return f"{super().revision()}:{identity(revision_of(find_files(self.template_file, kinds=('text',))))}"

    def check(self) -> None:
        self._template()
        super().check()

    def check_tokenizer(self, folder: str) -> None:
        if self.template == "own" and self.template_file is None and not has_chat_template(Path(folder)):
            raise no_template(f"the tokenizer {folder}", self._place)

    def template_id(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """16 hex digits of the template's text."""
        return hashlib.sha256(self.rendering(tokenizer).template.encode()).hexdigest()[:16]

    def rendering(self, tokenizer: PreTrainedTokenizerBase) -> Rendering:
        text = self._template()
        return Rendering(tokenizer, own_template(tokenizer, self._place) if text is None else text, self.arguments)

    def _template(self) -> str | None:
        """The template that the settings name; None for the model's own."""
        if self.template_file is None:
            return TEMPLATES.get(self.template)
        try:
            return read_text(Path(self.template_file))
        except SettingsError as error:
            raise SettingsError(f"{self._place}: template_file: {error}") from None

    def _conversation(self, record: Record) -> Conversation:
        conversation = super()._conversation(record)
        if self.template != "own" and (calls := called_tools(conversation.messages)):
            raise SettingsError(
                f"{conversation.place}: the template {self.template} leaves out the call of the tool '{calls[0]}'; "
                "leave template out, or give a template_file that shows tools"
            )
        return conversation

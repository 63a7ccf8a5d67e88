"""Conversations: what a record says, checked, and the templates that render it besides the model's own.

A conversation is a list of messages with a `role` and a `content`, as transformers' `apply_chat_template` takes it; an
assistant's message may hold `tool_calls` in place of a content. Data sets write it in several ways (ShareGPT says
`from: human, value: ...`), which are brought to this one. The hard case is what a template does in silence: an unknown
role is left out by some and fails in others, so roles are checked here, with the record's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from calib.files import written
from calib.settings import SettingsError, shown, suggestion

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "function": "tool"}
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') "
        "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama2": (
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}{{ ' ' + (message['content'] or '') + ' ' }}"
        "{% elif message['role'] == 'system' %}{{ '<<SYS>>\n' + message['content'] + '\n<</SYS>>\n\n' }}"
        "{% else %}{{ '[INST] ' + (message['content'] or '') + ' [/INST]' }}{% endif %}{% endfor %}"
    ),
    "none": (
        "{% for message in messages %}{{ message['content'] or '' }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
        "{% endfor %}"
    ),
}


@dataclass(frozen=True)
class Conversation:
    """What a record says. `place`: its file and record, for error messages. `tools`: what the assistant may call."""

    id: str
    place: str
    messages: list[dict[str, Any]]
    tools: Any = None

    def asked(self) -> Conversation:
        """Without the answers at its end. Raises SettingsError when nobody asks anything."""
        messages = self.messages
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if not messages:
            raise SettingsError(f"{self.place}: nobody asks anything in this conversation")
        return replace(self, messages=messages)


def messages_in(value: Any, place: str) -> list[dict[str, Any]]:
    """The messages of a conversation, checked. Raises SettingsError that begins with `place`, where the record is."""
    if not isinstance(value, list) or not value:
        raise SettingsError(f"{place}: expected a list of messages with role and content, got {shown(value)}")
    return [_message(message, f"{place}, message {number}") for number, message in enumerate(value, start=1)]


def _message(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{place}: expected an object with role and content, got {shown(value)}")
    message = {key: inner for key, inner in value.items() if inner is not None}
    if "role" not in message and "from" in message:
        sender = message.pop("from")
        message = {"role": SHAREGPT.get(sender, sender), "content": message.pop("value", None), **message}
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        hint = suggestion(role, ROLES) if isinstance(role, str) else f"; choose from {', '.join(ROLES)}"
        raise SettingsError(f"{place}: unknown role {shown(role)}{hint}")
    if isinstance(content, list):
        content = _joined(content, place)
    if content is None and not message.get("tool_calls"):
        raise SettingsError(f"{place}: the message of the {role} has no content")
    if content is not None and not isinstance(content, str):
        raise SettingsError(f"{place}: the content is {shown(content)}, not text")
    return {**message, "content": "" if content is None else written(content, f"{place}: the content")}


def _joined(parts: list[Any], place: str) -> str:
    """The text of a content that comes in parts; only texts can be calibrated on."""
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise SettingsError(f"{place}: a part of the content is no text: {shown(part)}")
    return "".join(part["text"] for part in parts)


def plain_text(messages: list[dict[str, Any]]) -> str:
    """The contents with an empty line between them: a conversation without any template."""
    return "\n\n".join(message["content"] for message in messages if message["content"])


def called_tools(messages: list[dict[str, Any]]) -> list[str]:
    """The names of the tools that the messages call."""
    calls = [call for message in messages for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    functions = [call.get("function", call) for call in calls]
    return [str(function["name"]) for function in functions if isinstance(function, Mapping) and "name" in function]

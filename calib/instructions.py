"""Data sets of instructions and conversations on the hub: a record is a conversation, and a document its plain text.

Drawn by themselves they are text without any template; `{source: chat, of: ultrachat}` renders the same records by the
model's own template.
"""

from __future__ import annotations

from typing import Any

from calib.chat import messages_in, plain_text
from calib.hub import HubSource
from calib.settings import SettingsError, settings, shown
from calib.source import Record


@settings
class InstructionSource(HubSource):
    """Base of the data sets whose records are conversations."""

    def text_in(self, record: Any, place: str) -> str | None:
        if not isinstance(record, dict):
            raise SettingsError(f"{place}: expected an object, got {shown(record)}")
        return plain_text(messages_in(self.messages_of(Record("", place, record)), place))

    def _records(self, file: str, whole: bool = True) -> Any:
        return super()._records(file, whole=True)  # a text is made of several columns


def exchange(record: Record, prompts: tuple[str, ...], answer: str) -> list[dict[str, Any]]:
    """One question, out of the columns that make it, and its answer. Raises SettingsError for a missing column."""
    for column in (prompts[0], answer):
        if not isinstance(record.values.get(column), str):
            raise SettingsError(f"{record.place}: no text in column '{column}'")
    asked = [record.values.get(column) for column in prompts]
    question = "\n\n".join(text for text in asked if isinstance(text, str) and text.strip())
    return [{"role": "user", "content": question}, {"role": "assistant", "content": record.values[answer]}]

"""Text that says who speaks becomes conversations; what is none stays out."""

from __future__ import annotations

import pytest

from calib.dialogue import conversations
from calib.settings import SettingsError
from calib.source import get_source


def test_turns_become_messages_and_the_last_question_without_an_answer_is_left_out() -> None:
    assert conversations("User: Hi.\nAssistant: Hello.\nHow are you?\nUser: Bye.") == [
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello.\nHow are you?"}]
    ]


def test_a_question_after_a_blank_line_begins_another_conversation() -> None:
    found = conversations("Question: 1 + 1?\nAnswer: 2\n\nQuestion: 2 + 2?\nAnswer: 4\n\nSo it is.")
    assert [[turn["content"] for turn in talk] for talk in found] == [["1 + 1?", "2"], ["2 + 2?", "4\n\nSo it is."]]


@pytest.mark.parametrize(
    "text",
    [
        "A play.\nUser: I speak.\nAssistant: And I.",
        "User: a\nUser: b\nAssistant: c",
        "Assistant: a",
        "User: a\nAssistant:",
        "prose",
        "",
    ],
)
def test_what_does_not_alternate_from_its_beginning_is_no_conversation(text: str) -> None:
    assert conversations(text) == []


@pytest.mark.parametrize("entry", ["dialogue_qa", {"source": "heldout", "domain": "dialogue_qa"}])
def test_bundled_dialogues_are_conversations_with_their_attribution(entry: object) -> None:
    records = list(get_source(entry).records())  # type: ignore[arg-type]
    assert len(records) > 400
    assert len({record.id for record in records}) == len(records)
    assert all("/" in record.id for record in records)  # owner/repository:path
    for record in records:
        roles = [message["role"] for message in record.values["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"] for message in record.values["messages"])


def test_bundled_prose_has_no_conversations() -> None:
    with pytest.raises(SettingsError, match="source 'books': has no records"):
        get_source("books").records()

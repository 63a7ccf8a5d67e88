"""The conversations in a text whose lines say who speaks: `User:` and `Assistant:`, or `Question:` and `Answer:`.

No text is changed but for the marks of the speakers. The hard case is text that is no conversation, or more than one: a
blank line before a question begins another, and what does not alternate between a question and its answer, or has a
turn without words, is left out.
"""

from __future__ import annotations

import re

ROLES = {"User": "user", "Question": "user", "Assistant": "assistant", "Answer": "assistant"}
TURN = re.compile(rf"^({'|'.join(ROLES)}):[ ]?", re.MULTILINE)
NEXT = re.compile(r"\n\n(?=Question: )")


def conversations(text: str, *, wordless: bool = False) -> list[list[dict[str, str]]]:
    """The conversations of one document, as messages; each begins with the user and ends with an answer.

    `wordless`: those with a turn without words as well.
    """
    return [messages for part in NEXT.split(text) if (messages := _messages(part, wordless))]


def _messages(text: str, wordless: bool) -> list[dict[str, str]]:
    """The turns of one conversation up to the last answer; none where it is no conversation."""
    marks = list(TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = [
        {"role": ROLES[mark.group(1)], "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]
    answered = turns[: len(turns) - len(turns) % 2]
    roles = [turn["role"] for turn in answered if wordless or turn["content"]]
    return answered if roles == ["user", "assistant"] * (len(answered) // 2) else []

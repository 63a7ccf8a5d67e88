"""The bundled dialogues as chat messages: `python -m benchmarks.findings.conversations FOLDER`.

Writes `calibration.jsonl` and `heldout.jsonl` with one conversation a line, `{"messages": [{"role", "content"}, ...]}`,
out of the text of the same name (`dialogue_qa`). A document whose lines begin with User/Assistant or Question/Answer is
one conversation or several; other documents of that domain are no conversations and stay out. Licences are those of
`calib/reference/NOTICES.md`; no text is changed but for the marks of the speakers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

BUNDLED = Path(__file__).resolve().parents[2] / "calib" / "reference"
ROLES = {"User": "user", "Question": "user", "Assistant": "assistant", "Answer": "assistant"}
TURN = re.compile(rf"^({'|'.join(ROLES)}):[ ]?", re.MULTILINE)


def conversations(text: str) -> list[list[dict[str, str]]]:
    """The conversations of one document, each beginning with the user and ending with an answer; none where it has no
    turns. A blank line before a question begins another conversation."""
    found = []
    for part in re.split(r"\n\n(?=Question: )", text):
        marks = list(TURN.finditer(part))
        if not marks or part[: marks[0].start()].strip():
            continue
        ends = [mark.start() for mark in marks[1:]] + [len(part)]
        turns = [
            {"role": ROLES[mark.group(1)], "content": part[mark.end() : end].strip()}
            for mark, end in zip(marks, ends, strict=True)
        ]
        turns = turns[: len(turns) - len(turns) % 2]
        roles = [turn["role"] for turn in turns]
        if turns and roles == ["user", "assistant"] * (len(turns) // 2):
            found.append(turns)
    return found


def main(folder: Annotated[Path, typer.Argument(help="Where the two files go.")]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in (("calib", "calibration"), ("heldout", "heldout")):
        texts = pl.read_parquet(BUNDLED / part / "dialogue_qa.parquet")["text"]
        lines = [json.dumps({"messages": each}, ensure_ascii=False) for text in texts for each in conversations(text)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines):,} conversations of {len(texts):,} documents -> {folder / f'{name}.jsonl'}")


if __name__ == "__main__":
    typer.run(main)

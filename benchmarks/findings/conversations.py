"""The bundled dialogues as chat messages: `python -m benchmarks.findings.conversations FOLDER`.

Writes `calibration.jsonl` and `heldout.jsonl` with one conversation a line, `{"messages": [{"role", "content"}, ...]}`,
out of the text of the same name (`dialogue_qa`). A document whose lines begin with User/Assistant or Question/Answer is
one conversation or several; other documents of that domain are no conversations and stay out. Licences are those of
`calib/reference/NOTICES.md`; no text is changed but for the marks of the speakers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from calib.dialogue import conversations

BUNDLED = Path(__file__).resolve().parents[2] / "calib" / "reference"


def main(folder: Annotated[Path, typer.Argument(help="Where the two files go.")]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in (("calib", "calibration"), ("heldout", "heldout")):
        texts = pl.read_parquet(BUNDLED / part / "dialogue_qa.parquet")["text"]
        lines = [
            json.dumps({"messages": each}, ensure_ascii=False)
            for text in texts
            for each in conversations(text, wordless=True)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines):,} conversations of {len(texts):,} documents -> {folder / f'{name}.jsonl'}")


if __name__ == "__main__":
    typer.run(main)

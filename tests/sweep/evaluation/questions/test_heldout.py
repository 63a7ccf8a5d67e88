from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweep.evaluation.questions.heldout import build_windows
from sweep.evaluation.settings import EvaluationSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves


def test_held_out_text_needs_no_special_token(tmp_path: Path, bare: Any) -> None:
    rows = [{"text": f"old house {number} near the river and the garden"} for number in range(60)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"source": "file", "path": str(tmp_path / "notes.jsonl"), "label": "notes"}
    settings = EvaluationSettings(heldout=[source], heldout_windows=2, heldout_seqlen=40)
    assert build_windows(settings, bare, 96)[0].tokens.shape == (2, 40)

"""The answer of a recommendation is read from a file, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calib.settings import SettingsError
from sweep.shipping.best import read_best


def test_trial_and_sentences_are_read(tmp_path: Path) -> None:
    file = tmp_path / "answer.json"
    file.write_text(json.dumps({"trial": "0123abcd", "sentences": ["Use books.", "How sure: quite."], "set": 3}))
    found = read_best(str(file))
    assert (found.trial, found.why) == ("0123abcd", "Use books. How sure: quite.")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trial": 3, "sentences": []}', '{"trial": "a", "sentences": "b"}'])
def test_what_is_no_answer_is_named_with_the_command_that_gives_one(tmp_path: Path, text: str) -> None:
    file = tmp_path / "answer.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"--best .*: is no answer of a recommendation; give .*analysis\.pick"):
        read_best(str(file))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--best .*none\.json: cannot be read"):
        read_best(str(tmp_path / "none.json"))

"""Sources by name: what people type, what goes wrong, and what stays out of memory while a study is planned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from calib.source import Source, get_source, register

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("bokks", "calibration.source[1]: unknown source 'bokks', did you mean 'books'?"),
        ({"source": "fiel", "path": "x"}, "calibration.source[1].source: unknown source 'fiel', did you mean 'file'?"),
        ({"path": "x.jsonl"}, "calibration.source[1]: names no source; write {source: file, path: ...}"),
        ({"source": 3}, "calibration.source[1].source: expected the name of a source, got 3"),
        (7, "calibration.source[1]: expected the name of a source or a mapping"),
        ({"source": "file"}, "calibration.source[1].path: required, but not given"),
        ({"source": "file", "path": "x", "colunm": "a"}, "calibration.source[1].colunm: unknown key 'colunm', did you"),
        ({"source": "file", "path": "x", "documents": 0}, "calibration.source[1].documents: expected at least 1"),
        ({"source": "c4", "documents": "10"}, "calibration.source[1].documents: expected"),
        ({"source": "heldout", "domain": "boks"}, "calibration.source[1].domain: no held-out text 'boks', did you"),
        ({"source": "redpajama", "slices": ["githb"]}, "calibration.source[1].slices: no slice 'githb', did you mean"),
        ({"source": "redpajama", "slices": []}, "calibration.source[1].slices: expected at least one"),
        ({"source": "hub", "repository": "a/b", "files": ["x.csv"]}, "calibration.source[1].files: expected JSON or"),
    ],
)
def test_wrong_entries_are_refused_with_place_and_remedy(entry: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        get_source(entry, "calibration.source[1]")
    assert str(caught.value).startswith(message)


def test_a_path_in_place_of_a_name_gets_a_hint() -> None:
    with pytest.raises(SettingsError, match=r"write \{source: file, path: data/my.jsonl\}"):
        get_source("data/my.jsonl")


def test_name_that_is_taken_is_refused() -> None:
    class Other(Source):
        pass

    with pytest.raises(SettingsError, match="source 'books' is registered twice"):
        register("books")(Other)


def test_planning_with_sources_imports_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "import calib.build, calib.export, calib.hub, calib.files\n"
        "from calib.source import SOURCES, get_source\n"
        "from calib.spec import CalibrationSpec\n"
        "spec = CalibrationSpec(source=get_source('c4'), set=0, nsamples=128, seqlen=2048)\n"
        "spec.id('x'), calib.build.preflight([spec]), SOURCES.names()\n"
        "heavy = {'torch', 'ray', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_domain_is_a_name_and_no_other_text() -> None:
    plain = get_source("books")
    named = get_source({"source": "books", "label": "novels", "domain": "fiction"})
    assert (plain.own_domain, named.own_domain) == ("books", "fiction")
    assert named.identity() == plain.identity() and "domain" not in plain.to_dict()
    assert get_source(named.to_dict()) == named
    around = get_source({"source": "noisy", "of": named, "kind": "typos"})
    assert around.identity() == get_source({"source": "noisy", "of": "books", "kind": "typos"}).identity()
    heldout = get_source({"source": "heldout", "domain": "code", "label": "programs"})
    assert heldout.own_domain == "code" and heldout.identity()["domain"] == "code"
    with pytest.raises(SettingsError, match="source.domain: expected one line"):
        get_source({"source": "books", "domain": "two\tlines"})

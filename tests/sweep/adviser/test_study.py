"""The full and the short study of a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.build import build_sets
from methods.base import parse_method
from sweep.adviser.candidates import make_arms
from sweep.adviser.study import data_free_control, screen_windows, screened_by_blocks, windows_of
from sweep.adviser.targets import make_targets
from sweep.config import parse_study
from sweep.models import load_tokenizer
from sweep.plan import expand
from tests.sweep.adviser.paper import asked, prepared
from tests.sweep.conftest import write_documents


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    return [write_documents(tmp_path / f"{name}.jsonl", seed=n) for n, name in enumerate("abc")]


def test_a_screened_draw_is_the_beginning_of_the_full_one(tiny_model: Path, texts: list[Path], tmp_path: Path) -> None:
    design = prepared(asked(tiny_model, texts), tmp_path / "out").design
    tokenizer = load_tokenizer(design.studies["full"].models[0])
    full, screen = (build_sets(design.studies[name].calibration, tokenizer) for name in ("full", "screen"))
    assert len(full) == len(screen) == 4 * 6
    for whole, part in zip(full, screen, strict=True):
        assert whole.spec.source == part.spec.source and whole.spec.set == part.spec.set
        assert len(part.tokens) == 8, "an eighth of 64"
        assert np.array_equal(whole.tokens[:8], part.tokens)


def test_trials_have_the_ids_that_a_study_of_the_candidates_has(
    tiny_model: Path, texts: list[Path], tmp_path: Path
) -> None:
    design = prepared(asked(tiny_model, texts), tmp_path / "out").design
    document = {
        "study": "mine",
        "models": [{"model": str(tiny_model), "dtype": "float32"}],
        "methods": [{"method": "gptq", "bits": 3, "group_size": 16, "scale_dtype": "float32"}],
        "calibration": {
            "source": [{"source": "file", "path": str(path)} for path in texts],
            "sets": 3,
            "nsamples": 64,
            "seqlen": 32,
        },
        "evaluation": {"heldout": ["books"], "heldout_windows": 32, "heldout_seqlen": 64},
    }
    ids = {trial.id for trial in expand(parse_study(document)) if trial.spec is not None}
    assert ids < {trial.id for trial in design.trials.values()}


@pytest.mark.parametrize(
    ("method", "control"),
    [
        ({"method": "gptq", "bits": 3, "group_size": 32}, "RTN 3-bit g32"),
        ({"method": "awq", "bits": 4, "group_size": 32, "sym": True}, "RTN 4-bit g32 sym"),
        ({"method": "wanda", "pattern": "2:4"}, "Magnitude 2:4"),
        ({"method": "sparsegpt", "sparsity": 0.6}, "Magnitude 60 %"),
        ({"method": "svd_llm", "ratio": 0.5}, "SVD 50 %"),
        ([{"method": "wanda", "sparsity": 0.5}, {"method": "gptq", "bits": 4}], "Magnitude 50 % + RTN 4-bit"),
        ([{"method": "smoothquant"}, {"method": "gptq", "bits": 4}], "RTN 4-bit"),
    ],
)
def test_the_control_does_the_same_without_data(method: Any, control: str) -> None:
    found = parse_method(data_free_control(parse_method(method, "m")), "m")
    assert found.data_free
    assert found.label == control


def test_a_method_that_only_moves_weights_has_no_control() -> None:
    assert data_free_control(parse_method("smoothquant", "m")) is None


def test_screens_hold_every_part_of_the_largest_mixture(texts: list[Path]) -> None:
    arms = make_arms(asked("reference-2m", texts, mixtures=[{"a": 0.9, "b": 0.1}]))
    assert screen_windows(128, arms) == 16
    assert screen_windows(32, arms) == 10
    assert screen_windows(8, arms[:2]) == 2


def test_a_small_target_is_cut_into_shorter_and_fewer_windows(texts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("the river " * 600)  # 6,000 bytes: 1,200 tokens, as is assumed
    question = asked("reference-2m", texts, targets=[str(tmp_path / "small.txt")])
    assert windows_of(question, make_targets(question), 2048) == (37, 32)
    books = asked("reference-2m", texts)
    assert windows_of(books, make_targets(books), 2048) == (512, 32)
    assert windows_of(books, make_targets(books), 256) == (256, 32)


def test_first_blocks_screen_where_texts_alone_are_asked_and_no_step_looks_further(texts: list[Path]) -> None:
    plain, owl = ({"method": "wanda", "pattern": "2:4"}, {"method": "wanda", "allocation": "owl"})

    def offered(method: Any, blocks: int | None = 30, **asks: Any) -> bool:
        return screened_by_blocks(asked("reference-2m", texts, **asks), parse_method(method, "m"), blocks)

    assert offered(plain) and offered([plain, {"method": "gptq", "bits": 4}])
    assert not offered(owl) and not offered({"method": "fwsvd", "ratio": 0.6})
    assert not offered([{"method": "rotation"}, {"method": "gptq", "bits": 4}])
    assert offered(plain, 8) and not offered(plain, 7) and not offered(plain, None)
    assert not offered(plain, tasks=["arc_easy"]) and not offered(plain, search_mixture=True)


def test_screens_of_first_blocks_take_the_sets_of_the_full_study(texts: list[Path], tmp_path: Path) -> None:
    design = prepared(asked("reference-17m", texts), tmp_path / "out").design
    blocks = design.studies["blocks"]
    assert [spec.id("") for spec in blocks.calibration] == [spec.id("") for spec in design.studies["full"].calibration]
    assert (blocks.evaluation.first_blocks, blocks.evaluation.heldout_windows) == (2, 8)
    assert design.studies["full"].evaluation.first_blocks is None

"""One trial by itself: what it says of itself before it runs, and what it writes."""

from __future__ import annotations

from typing import Any

import pytest

from sweep import plan
from sweep import trial as trial_page
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.results import TABLES
from sweep.trial import Clock, describe, failed_rows, run_trial


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    return plan.expand(parse_study(document))


def test_description_of_a_trial_has_only_known_columns(trials: list[Trial]) -> None:
    for trial in trials:
        assert set(describe(trial)) <= set(TABLES["trials"].names)


def test_failed_trial_keeps_its_factors_beside_its_error(trials: list[Trial]) -> None:
    rows = failed_rows(trials[2], "compress", "CompressionError: block 0: no")
    assert rows.trial == {
        **describe(trials[2]),
        "status": "failed",
        "phase": "compress",
        "error": "CompressionError: block 0: no",
    }
    assert not rows.metrics and not rows.samples and not rows.layers


def test_trial_runs_on_a_dense_model_alone_and_twice_gives_the_same_rows(trials: list[Trial], tmp_path: Any) -> None:
    from calib.build import build_sets
    from sweep.evaluation.suite import Evaluator
    from sweep.runs.prepare import make_requests
    from sweep.weights.streaming import load_dense

    trial = next(trial for trial in trials if trial.method_name == "gptq")
    dense = load_dense(trial.model, "cpu")
    evaluator = Evaluator(make_requests(trial, str(tmp_path)), dense.model, dense.tokenizer, "cpu")
    assert trial.spec is not None
    (calibration,) = build_sets([trial.spec], dense.tokenizer, trial.model.tokenizer_id)
    clock = Clock()
    first, second = (run_trial(trial, dense, evaluator, calibration, clock).rows() for _ in range(2))
    assert set(first.trial) <= set(TABLES["trials"].names)
    assert first.trial["weights_hash"] == second.trial["weights_hash"]
    assert first.metrics == second.metrics
    assert [row["linear"] for row in first.layers] == [row["linear"] for row in second.layers]
    assert set(clock.seconds) == {"restore", "compress", "evaluate"}


def test_trial_that_is_out_of_memory_begins_again_with_smaller_batches_and_then_fails(
    trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from sweep.weights.hashes import weights_hash
    from sweep.weights.streaming import load_dense

    dense = load_dense(trials[0].model, "cpu")
    before, sizes, compress_model = weights_hash(dense.model), list[Any](), trial_page.compress_model
    tokens = torch.randint(0, 100, (8, 16)).numpy()
    method = next(trial.method for trial in trials if trial.method_name == "gptq")
    assert method is not None
    too_many: set[int | None] = {None}

    def small_gpu(model: Any, method: Any, tokens: Any, batch_size: int | None = None, offload: Any = None) -> Any:
        assert weights_hash(model) == before
        sizes.append((batch_size, offload))
        if batch_size in too_many:
            model.get_input_embeddings().weight.data.zero_()  # as it is left in the middle
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compress_model(model, method, tokens, batch_size=batch_size, offload=offload)

    monkeypatch.setattr(trial_page, "compress_model", small_gpu)
    report = trial_page.compress(dense, method, tokens)
    assert sizes == [(None, None), (4, True)]
    assert report.layers
    dense.restore()
    too_many |= {4, 1}
    with pytest.raises(torch.OutOfMemoryError):
        trial_page.compress(dense, method, tokens)
    assert [size for size, _ in sizes[2:]] == [None, 4, 1]

"""The model that writes: the same text for every batch size, the likeliest text as transformers writes it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from calib.writer import Request
from sweep import plan
from sweep.config import parse_study
from sweep.generation import writer as module
from sweep.generation.draw import draw
from sweep.generation.writer import ModelWriter
from sweep.models import resolve_model
from sweep.results import Results
from sweep.runs.local import LocalRunner
from sweep.runs.prepare import made_sets_and_receipt, make_calibration_sets, make_on_device
from sweep.runs.schedule import Job


def requests(count: int = 12, **changes: Any) -> list[Request]:
    plain = Request(prompt=(0,), seed=0, temperature=1.0, top_p=0.95, top_k=None, max_new_tokens=24)
    prompts = [(0,), (5, 6), (0,), (9, 8, 7)]
    return [replace(plain, prompt=prompts[i % 4], seed=100 + i, **changes) for i in range(count)]


def write(model: Path, asked: Sequence[Request], batch: int) -> list[list[int]]:
    return ModelWriter(resolve_model(str(model), "m"), batch=batch).write(asked)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.4])
def test_batch_size_changes_no_token(tiny_model: Path, temperature: float) -> None:
    asked = requests(temperature=temperature)
    one, eight = write(tiny_model, asked, 1), write(tiny_model, asked, 8)
    assert one == eight
    assert all(1 <= len(answer) <= 24 for answer in one)
    if temperature:
        assert len({tuple(answer) for answer in one}) == len(asked)


def test_a_text_ends_with_eos_or_another_id_that_ends_it(tiny_model: Path) -> None:
    asked = requests(4)
    first = write(tiny_model, asked, 4)
    ends = (first[0][3],)
    again = write(tiny_model, [replace(each, ends=ends) for each in asked], 4)
    assert again[0] == first[0][: first[0].index(ends[0]) + 1]
    assert all(ends[0] not in answer[:-1] for answer in again)


def test_prompts_of_all_lengths_share_a_batch(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of each alone, in as many steps as the longest takes after the shortest."""
    asked = [replace(each, prompt=tuple(range(5, 6 + 3 * i))) for i, each in enumerate(requests(8))]
    alone = write(tiny_model, asked, 1)
    writer = ModelWriter(resolve_model(str(tiny_model), "m"), batch=8)
    calls: list[int] = []
    forward = writer._loaded().model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(*args, **kwargs)

    counted.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(writer._loaded().model, "forward", counted)
    monkeypatch.setattr(module, "draw", lambda *given: (draw(*given)[0], False))  # no text is read alone
    assert writer.write(asked) == alone
    assert len(calls) <= 7 * 3 + 24


@pytest.mark.gpu
def test_a_gpu_writes_the_tokens_of_a_cpu() -> None:
    ref = resolve_model("reference-2m", "m")
    asked = requests(40, max_new_tokens=60)
    assert ModelWriter(ref, "cuda").write(asked) == ModelWriter(ref, "cpu").write(asked)


def test_a_text_depends_on_its_own_request_alone(tiny_model: Path) -> None:
    asked = requests()
    together = write(tiny_model, asked, 8)
    assert write(tiny_model, asked[5:6], 8) == together[5:6]
    assert write(tiny_model, asked[::-1], 8) == together[::-1]
    assert write(tiny_model, [replace(asked[5], seed=1)], 8) != together[5:6]


def test_near_ties_are_decided_by_the_text_alone(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a margin that makes every draw a near tie, all logits are those without a cache: the plainest writing."""
    monkeypatch.setattr("sweep.generation.draw.LOGIT_MARGIN", 1e9)
    asked = requests(4)
    writer = ModelWriter(resolve_model(str(tiny_model), "m"))
    found = writer.write(asked)
    model = writer._loaded().model
    for request, answer in zip(asked, found, strict=True):
        for place in range(len(answer)):
            ids = torch.tensor([[*request.prompt, *answer[:place]]])
            with torch.inference_mode():
                logits = model(ids, use_cache=False).logits[0, -1].numpy()
            assert module.draw(logits, request, place)[0] == answer[place]
    monkeypatch.undo()
    assert writer.write(asked) == found


def test_the_likeliest_text_is_that_of_transformers(tiny_model: Path) -> None:
    writer = ModelWriter(resolve_model(str(tiny_model), "m"))
    asked = requests(4, temperature=0.0)
    for request, answer in zip(asked, writer.write(asked), strict=True):
        ids = torch.tensor([request.prompt])
        theirs = writer._loaded().model.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=0)
        assert theirs[0, len(request.prompt) :].tolist() == answer


def test_text_ends_with_the_end_token(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ModelWriter(resolve_model(str(tiny_model), "m"))
    end = writer._loaded().tokenizer.eos_token_id
    monkeypatch.setattr(module, "draw", lambda _, request, place: (end if place == request.seed % 4 else 5, False))
    for request, answer in zip(requests(), writer.write(requests()), strict=True):
        assert answer == [5] * (request.seed % 4) + [end]


def test_perplexity_is_that_of_each_text_alone(tiny_model: Path) -> None:
    writer = ModelWriter(resolve_model(str(tiny_model), "m"))
    texts = [np.array([0, 5, 9, 4]), np.array([7, 7])]
    model = writer._loaded().model
    for text, found in zip(texts, writer.perplexity(texts), strict=True):
        ids = torch.as_tensor(text)[None]
        with torch.no_grad():
            assert found == pytest.approx(float(model(ids, labels=ids).loss.exp()), rel=1e-5)


def test_texts_longer_than_the_context_are_refused_before_the_model_is_loaded(tiny_model: Path) -> None:
    writer = ModelWriter(resolve_model(str(tiny_model), "m"))
    with pytest.raises(SettingsError, match=r"1 tokens of a prompt and 64 that follow are 65, more than .*64 tokens"):
        writer.write(requests(1, max_new_tokens=64))
    assert writer._dense is None


def written_study(document: dict[str, Any], *models: Path) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    changed["models"] = [str(model) for model in models]
    changed["methods"] = [{"method": "wanda", "sparsity": 0.5}]
    changed["calibration"] = {
        "source": {"source": "self_generated", "documents": 12, "length": 40},
        "sets": 2,
        "nsamples": 4,
        "seqlen": 32,
    }
    return changed


def test_sets_are_of_the_model_that_wrote_them(document: dict[str, Any], tiny_model: Path, other_model: Path) -> None:
    trials = plan.expand(parse_study(written_study(document, tiny_model, other_model)))
    pools = plan.pools(trials)
    assert [pool.model.path for pool in pools] == [str(tiny_model), str(other_model)]
    assert all(pool.asks_model for pool in pools)
    assert len({pool.ids for pool in pools}) == 2
    plain = plan.pools(plan.expand(parse_study({**document, "models": [str(tiny_model), str(other_model)]})))
    assert len(plain) == 2 and not any(pool.asks_model for pool in plain)  # one for each source, of both models


def test_text_is_written_once(
    document: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = plan.expand(parse_study(written_study(document, tiny_model)))
    (pool,) = plan.pools(trials)
    first = make_calibration_sets(pool, str(tmp_path / "results"))
    assert [found.id for found in first] == list(pool.ids)

    def never(*_: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(ModelWriter, "write", never)
    again = make_calibration_sets(pool, str(tmp_path / "results"))
    assert [found.hash for found in again] == [found.hash for found in first]
    assert [found.rows() for found in again] == [found.rows() for found in first]
    with pytest.raises(AssertionError, match="written again"):
        make_calibration_sets(pool, str(tmp_path / "elsewhere"))


def test_written_text_that_is_lost_is_read_again_without_the_model(
    document: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool,) = plan.pools(plan.expand(parse_study(written_study(document, tiny_model))))
    make_on_device(pool, str(tmp_path), "cpu")
    monkeypatch.setattr(ModelWriter, "write", None)
    largest, *sets = made_sets_and_receipt(None, pool, str(tmp_path))
    assert [found.id for found in sets] == [*largest] == [*pool.ids]
    assert {found.hash for found in sets} == set(Results(tmp_path).read("calibration")["hash"])


def test_a_study_of_written_text_runs(document: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    study = parse_study(written_study(document, tiny_model))
    plan.check(study)
    trials = plan.expand(study)
    runner = LocalRunner(str(tmp_path), {}, "cpu")
    runner.start()
    runner.prepare(plan.pools(trials), plan.request_sets(trials))
    assert [outcome.error for outcome in runner.run([Job(trial) for trial in trials])] == [None] * len(trials)
    assert set(Results(tmp_path).read("calibration")["source"]) == {"self_generated"}


def test_a_streamed_model_cannot_write(document: dict[str, Any], tiny_model: Path) -> None:
    changed = written_study(document, tiny_model)
    changed["models"] = [{"model": str(tiny_model), "placement": "streamed"}]
    with pytest.raises(SettingsError, match="self_generated: .* is streamed, and text can only be written"):
        plan.check(parse_study(changed))

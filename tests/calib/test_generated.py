"""Text that a model writes: seeded per text, kept by its ids, filtered as stated, and never without a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.build import build, preflight
from calib.descriptor import describe
from calib.settings import SettingsError
from calib.source import Source, get_source
from calib.spec import CalibrationSpec
from calib.writer import seeds
from tests.calib.fake_writer import FakeWriter


@pytest.fixture
def prompts(text_file: Path) -> dict[str, Any]:
    return {"source": "file", "path": str(text_file)}


@pytest.fixture
def talks(jsonl: Callable[..., Path]) -> dict[str, Any]:
    records = [
        {"messages": [{"role": "user", "content": f"river {n}?"}, {"role": "assistant", "content": "a window"}]}
        for n in range(12)
    ]
    return {
        "source": "chat",
        "of": {"source": "file", "path": str(jsonl(records, "talks.jsonl"))},
        "template": "chatml",
    }


def texts(source: Source, tokenizer: Any, writer: FakeWriter) -> dict[str, list[int]]:
    return {document.id: document.tokens.tolist() for document in source.written(tokenizer, writer)}


def spec_of(source: Source, **values: Any) -> CalibrationSpec:
    return CalibrationSpec(source=source, **{"set": 0, "nsamples": 4, "seqlen": 16, **values})


def test_texts_begin_as_asked_and_take_the_temperatures_in_turn(prompts: dict[str, Any], tokenizer: Any) -> None:
    writer = FakeWriter()
    source = get_source({"source": "self_generated", "prompts": prompts, "documents": 8, "keep": 1.0, "length": 30})
    found = texts(source, tokenizer, writer)
    assert [request.temperature for request in writer.asked] == [0.5, 0.8, 1.1, 1.4] * 2
    assert all(request.max_new_tokens == 28 for request in writer.asked)
    documents = get_source(prompts).token_documents(tokenizer)
    for ours, document in zip(found.values(), documents, strict=False):
        assert ours[:2] == document.tokens[:2].tolist()
    bare = FakeWriter()
    texts(get_source({"source": "self_generated", "documents": 3}), tokenizer, bare)
    assert [request.prompt for request in bare.asked] == [(tokenizer.bos_token_id,)] * 3


def test_a_text_does_not_depend_on_the_others(prompts: dict[str, Any], tokenizer: Any) -> None:
    entry = {"source": "self_generated", "prompts": prompts, "keep": 1.0}
    few, many = (texts(get_source({**entry, "documents": count}), tokenizer, FakeWriter()) for count in (3, 9))
    assert few == {name: many[name] for name in few}
    assert len(set(seeds(0, 100))) == 100 and seeds(0, 3) != seeds(1, 3)


def test_the_least_likely_texts_are_dropped(prompts: dict[str, Any], tokenizer: Any) -> None:
    entry = {"source": "self_generated", "prompts": prompts, "documents": 10}
    everything = texts(get_source({**entry, "keep": 1.0}), tokenizer, FakeWriter())
    kept = texts(get_source({**entry, "keep": 0.6}), tokenizer, FakeWriter())
    assert len(kept) == 6
    assert max(ids[-2] for ids in kept.values()) <= min(ids[-2] for name, ids in everything.items() if name not in kept)


def test_traces_are_the_prompt_and_the_very_ids_of_the_answer(talks: dict[str, Any], tokenizer: Any) -> None:
    writer = FakeWriter()
    found = texts(get_source({"source": "traces", "of": talks, "documents": 5}), tokenizer, writer)
    assert len(found) == 5
    for request, answer, trace in zip(writer.asked, writer.write(writer.asked), found.values(), strict=False):
        assert trace == [*request.prompt, *answer]
        assert tokenizer.decode(request.prompt).endswith("?<|im_end|>\n<|im_start|>assistant\n")


def test_a_token_besides_eos_can_end_an_answer(talks: dict[str, Any], tokenizer: Any) -> None:
    entry = {"source": "traces", "of": talks, "documents": 5}
    stop = tokenizer.convert_ids_to_tokens(77)
    writer = FakeWriter(eos=77)
    assert len(texts(get_source({**entry, "stop": stop}), tokenizer, writer)) == 5
    assert {request.ends for request in writer.asked} == {(77,)}
    assert "stop" not in get_source(entry).identity() and get_source({**entry, "stop": stop}).identity()["stop"] == stop
    with pytest.raises(SettingsError, match=r"stop: no token '</S>', did you mean '</s>'"):
        texts(get_source({**entry, "stop": "</S>"}), tokenizer, FakeWriter())
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(SettingsError, match="the tokenizer has no EOS token, so no trace ends; name a token"):
        texts(get_source(entry), endless, FakeWriter())


def test_traces_without_an_end_are_left_out_or_kept(talks: dict[str, Any], tokenizer: Any) -> None:
    entry = {"source": "traces", "of": talks}
    assert len(texts(get_source(entry), tokenizer, FakeWriter(endless=3))) == 8
    assert len(texts(get_source({**entry, "unfinished": "keep"}), tokenizer, FakeWriter(endless=3))) == 12
    with pytest.raises(SettingsError, match=r"none of 12 traces ended within 8,192 tokens; raise max_new_tokens"):
        texts(get_source(entry), tokenizer, FakeWriter(endless=1))


@pytest.mark.parametrize("part", ["prompt", "response"])
def test_a_part_of_a_trace_is_a_text_of_its_own(talks: dict[str, Any], tokenizer: Any, part: str) -> None:
    entry = {"source": "traces", "of": talks}
    whole, alone = (get_source({**entry, "part": name}) for name in ("both", part))
    writer = FakeWriter()
    found = texts(alone, tokenizer, writer)
    for request, trace, own in zip(
        writer.asked, texts(whole, tokenizer, FakeWriter()).values(), found.values(), strict=True
    ):
        cut = len(request.prompt)
        assert own == (trace[:cut] if part == "prompt" else trace[cut:])
    assert alone.identity() != whole.identity()


def test_set_is_the_models_own(prompts: dict[str, Any], tokenizer: Any) -> None:
    source = get_source({"source": "self_generated", "prompts": prompts, "documents": 20})
    spec = spec_of(source)
    built = build(spec, tokenizer, "tiny", writer=FakeWriter())
    assert built.tokens.shape == (4, 16)
    assert built.id == spec.id("tiny", "fake") != spec.id("tiny", "other")
    assert built.hash == build(spec, tokenizer, "tiny", writer=FakeWriter()).hash
    again = build(replace(spec, source=replace_seed(source)), tokenizer, "tiny", writer=FakeWriter())
    assert again.hash != built.hash


def replace_seed(source: Source) -> Source:
    return get_source({**source.to_dict(), "seed": 1})


def test_without_a_model_one_line_says_so(prompts: dict[str, Any], talks: dict[str, Any], tokenizer: Any) -> None:
    mixed = {"source": "mixture", "parts": [{**prompts, "share": 0.5}, {"source": "self_generated", "share": 0.5}]}
    for entry in ({"source": "self_generated", "prompts": prompts}, {"source": "traces", "of": talks}, mixed):
        source = get_source(entry)
        preflight([spec_of(source)])
        with pytest.raises(SettingsError, match="its text is written by a model, and no model is at hand here"):
            build(spec_of(source), tokenizer)
        with pytest.raises(SettingsError, match="no model is at hand here"):
            spec_of(source).id("tiny")


def test_mixture_of_real_and_written_text(prompts: dict[str, Any], tokenizer: Any) -> None:
    written = {"source": "self_generated", "documents": 40, "share": 0.5}
    source = get_source({"source": "mixture", "parts": [{**prompts, "share": 0.5}, written]})
    built = build(spec_of(source), tokenizer, "tiny", writer=FakeWriter())
    assert [documents[0].split("/")[0] for documents in built.documents_in] == ["my", "self_generated"] * 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "traces", "of": "books"}, "source.of: expected a chat source"),
        ({"source": "self_generated", "temperatures": []}, "source.temperatures: expected at least one"),
        ({"source": "traces", "of": {"source": "chat", "of": "books"}, "unfinished": "drp"}, "source.unfinished: "),
    ],
)
def test_wrong_settings_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        get_source(entry)
    assert str(caught.value).startswith(message)


def test_more_texts_than_prompts_are_refused(prompts: dict[str, Any], tokenizer: Any) -> None:
    source = get_source({"source": "self_generated", "prompts": prompts, "documents": 41})
    with pytest.raises(SettingsError, match="40 prompts for 41 documents; ask for fewer"):
        texts(source, tokenizer, FakeWriter())


@pytest.mark.parametrize("setting", [{"add_bos": True}, {"document_bos": True}, {"separator": "bos"}])
def test_a_second_bos_is_refused_before_the_model_writes(setting: dict[str, Any], prompts: dict[str, Any]) -> None:
    alone = {"source": "self_generated", "documents": 40}
    filtered = {"source": "exclude_overlap", "of": alone, "against": [prompts]}
    mixed = {"source": "mixture", "parts": [{**prompts, "share": 0.5}, {**alone, "share": 0.5}]}
    for entry in (alone, filtered, mixed):
        with pytest.raises(SettingsError, match=f"^{next(iter(setting))}: .* begin with the BOS id already; leave"):
            preflight([spec_of(get_source(entry), **setting)])
    preflight([spec_of(get_source({**alone, "prompts": prompts}), **setting)])


def test_loops_are_seen(tokenizer: Any) -> None:
    spec = spec_of(get_source({"source": "random_tokens", "documents": 8, "length": 64}), seqlen=64, nsamples=2)
    built = build(spec, tokenizer)
    assert describe(built, names=["loop_share"]) == {"loop_share": 0}
    tokens = np.tile(np.arange(8, dtype=np.int32), (2, 8))
    looped = describe(replace(built, tokens=tokens), names=["loop_share"])["loop_share"]
    assert looped == pytest.approx(1 - 8 / 61)


@pytest.mark.parametrize("sampling", ["windows", "packed", "document_start", "sequential"])
def test_the_end_of_a_written_text_stands_once_before_the_next(
    prompts: dict[str, Any], tokenizer: Any, sampling: str
) -> None:
    source = get_source({"source": "self_generated", "prompts": prompts, "documents": 12, "keep": 1.0, "length": 20})
    asked = {"sampling": sampling, "nsamples": 2, "seqlen": 60}
    joined = build(spec_of(source, **asked), tokenizer, writer=FakeWriter())
    own = build(spec_of(source, **asked, separator="none"), tokenizer, writer=FakeWriter())
    for built in (joined, own):
        ends = built.tokens == tokenizer.eos_token_id
        assert ends.any()
        assert not (ends[:, 1:] & ends[:, :-1]).any()
    if sampling in ("packed", "sequential"):  # the others look at the length of all text, which ends with EOS or not
        assert joined.hash == own.hash
    assert joined.id != own.id


def test_ids_of_written_sets_without_a_separator_stay(prompts: dict[str, Any]) -> None:
    spec = spec_of(get_source({"source": "random_tokens", "documents": 40}))
    assert not spec.ends_twice
    written = spec_of(get_source({"source": "self_generated", "prompts": prompts, "documents": 4}))
    assert written.ends_twice and not replace(written, separator="none").ends_twice

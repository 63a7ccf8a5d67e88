"""Built sets hold exactly what was asked for, and say where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.build import build, build_sets, preflight
from calib.settings import SettingsError
from calib.source import Document, Source, get_source
from calib.sources.file import File
from calib.spec import CalibrationSpec

POLICIES = ["windows", "packed", "document_start", "long_documents", "sequential"]


@pytest.fixture
def source(text_file: Path) -> Source:
    return get_source({"source": "file", "path": str(text_file)})


def specs_of(source: Source, sets: int = 3, **changes: Any) -> list[CalibrationSpec]:
    values = {"nsamples": 4, "seqlen": 24, **changes}
    return [CalibrationSpec(source=source, set=number, **values) for number in range(sets)]


@pytest.mark.parametrize("sampling", POLICIES)
def test_same_spec_gives_same_tokens(source: Source, tokenizer: Any, sampling: str) -> None:
    spec = specs_of(source, sampling=sampling)[1]
    one, other = build(spec, tokenizer, "tiny"), build(spec, tokenizer, "tiny")
    assert one.tokens.dtype == np.int32 and one.tokens.shape == (4, 24)
    assert np.array_equal(one.tokens, other.tokens)
    assert (one.hash, one.id, one.texts) == (other.hash, other.id, other.texts)


@pytest.mark.parametrize("sampling", POLICIES)
def test_a_set_does_not_depend_on_the_others(source: Source, tokenizer: Any, sampling: str) -> None:
    together = build_sets(specs_of(source, sampling=sampling), tokenizer)
    alone = [build(spec, tokenizer) for spec in specs_of(source, sampling=sampling)]
    assert [one.hash for one in together] == [one.hash for one in alone]
    assert len({one.hash for one in together}) == 3


def test_changed_seed_changes_the_tokens(source: Source, tokenizer: Any) -> None:
    hashes = {build(specs_of(source, 1, seed=seed)[0], tokenizer).hash for seed in range(5)}
    assert len(hashes) == 5


def test_pieces_are_the_documents_own_tokens(source: Source, tokenizer: Any) -> None:
    texts = {document.id: document.text for document in source.documents()}
    for built in build_sets(specs_of(source, separator="none"), tokenizer):
        for window in range(4):
            expected: list[int] = []
            pieces = zip(built.documents_in[window], built.starts[window], built.lengths[window], strict=True)
            for document, start, length in pieces:
                ids = tokenizer(texts[document], add_special_tokens=False)["input_ids"]
                expected += ids[start : start + length]
            assert built.tokens[window].tolist() == expected
            assert built.texts[window] == tokenizer.decode(expected)


def test_added_bos_takes_the_first_position(source: Source, tokenizer: Any) -> None:
    built = build(specs_of(source, 1, add_bos=True, sampling="long_documents")[0], tokenizer)
    assert built.tokens.shape == (4, 24)
    assert (built.tokens[:, 0] == tokenizer.bos_token_id).all()
    assert (built.tokens[:, 1:] != tokenizer.bos_token_id).all()
    assert [sum(lengths) for lengths in built.lengths] == [23] * 4


@pytest.mark.parametrize(("separator", "text"), [("eos", "</s>"), ("bos", "<s>"), ("\n\n", "\n\n"), ("none", "")])
def test_separator_stands_between_the_documents(
    jsonl: Callable[..., Path], tokenizer: Any, separator: str, text: str
) -> None:
    path = jsonl([{"text": "the stream"}, {"text": "a window"}, {"text": "of weight, of weight"}])
    spec = CalibrationSpec(
        source=File(path=str(path)),
        set=0,
        nsamples=None,
        seqlen=1,
        sampling="sequential",
        separator=separator,  # type: ignore[arg-type]
    )
    whole = "".join(build(spec, tokenizer).texts)
    assert whole == f"the stream{text}a window{text}of weight, of weight"


@pytest.mark.parametrize(("changes", "name"), [({"separator": "eos"}, "EOS"), ({"add_bos": True}, "BOS")])
def test_tokenizer_without_the_special_token_is_refused(
    source: Source, tokenizer: Any, changes: dict[str, Any], name: str
) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(SettingsError, match=f"the tokenizer has no {name} token"):
        build(specs_of(source, 1, **{"separator": "none", **changes})[0], bare)


@pytest.mark.parametrize("sampling", POLICIES)
def test_too_little_text_is_an_error_with_the_figures(source: Source, tokenizer: Any, sampling: str) -> None:
    spec = CalibrationSpec(source=source, set=9, nsamples=30, seqlen=40, sampling=sampling)  # type: ignore[arg-type]
    with pytest.raises(SettingsError) as caught:
        build(spec, tokenizer)
    message = str(caught.value)
    assert message.startswith("source 'my': ")
    assert f"windows of 40 tokens with sampling '{sampling}' (40 documents" in message
    assert "sets 0 to 9 of 30 windows need 300" in message
    assert "ask for fewer sets" in message


def test_windows_longer_than_every_document_are_refused_for_long_documents(source: Source, tokenizer: Any) -> None:
    spec = CalibrationSpec(source=source, set=0, nsamples=1, seqlen=900, sampling="long_documents")
    with pytest.raises(SettingsError, match="0 windows of 900 tokens"):
        build(spec, tokenizer)


def test_source_is_read_once_for_all_sets(text_file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    plain = File.documents

    def counted(self: File) -> Iterator[Document]:
        reads.append(self.label)
        return plain(self)

    monkeypatch.setattr(File, "documents", counted)
    build_sets(specs_of(File(path=str(text_file)), sets=5), tokenizer)
    assert reads == ["my"]


def test_preflight_finds_sets_that_cannot_be_filled(source: Source) -> None:
    preflight(specs_of(source))
    with pytest.raises(SettingsError) as caught:
        preflight(specs_of(source, sets=4, nsamples=1000))
    assert "sets 0 to 3 of 1000 windows of 24 tokens need 96,000" in str(caught.value)


def test_preflight_never_refuses_what_can_be_built(source: Source, tokenizer: Any) -> None:
    size = 400
    for sets in range(1, 12):
        specs = specs_of(source, sets=sets, nsamples=2, seqlen=size)
        try:
            build_sets(specs, tokenizer)
        except SettingsError:
            return
        preflight(specs)
    pytest.fail("the pool never ran out")


def test_set_counts_its_documents(source: Source, tokenizer: Any) -> None:
    built = build(specs_of(source, 1)[0], tokenizer)
    assert built.documents == len({document for window in built.documents_in for document in window})
    assert built.pool_documents == 40
    assert built.pool_tokens == sum(
        len(tokenizer(document.text, add_special_tokens=False)["input_ids"]) for document in source.documents()
    )


def test_tokens_cannot_be_written_to(source: Source, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="read-only"):
        build(specs_of(source, 1)[0], tokenizer).tokens[0, 0] = 1


def test_too_little_text_says_how_many_sets_it_makes(source: Source, tokenizer: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        build(CalibrationSpec(source=source, set=10**6, nsamples=2, seqlen=24), tokenizer)
    made = int(str(caught.value).partition("enough for ")[2].split()[0])
    assert f"ask for fewer sets (at most {made})" in str(caught.value)
    build(CalibrationSpec(source=source, set=made - 1, nsamples=2, seqlen=24), tokenizer)
    with pytest.raises(SettingsError):
        build(CalibrationSpec(source=source, set=made, nsamples=2, seqlen=24), tokenizer)


def test_preflight_says_how_many_sets_there_can_be(source: Source) -> None:
    with pytest.raises(SettingsError) as caught:
        preflight([CalibrationSpec(source=source, set=10**8, nsamples=2, seqlen=24)], "calibration.sets")
    most = (source.capacity() or 0) // 48
    message = str(caught.value)
    assert message.startswith("calibration.sets: source 'my': at most ")
    assert f"make at most {most:,} sets of 2 windows of 24 tokens" in message
    assert f"ask for fewer sets (at most {most:,})" in message
    preflight([CalibrationSpec(source=source, set=most - 1, nsamples=2, seqlen=24)])


@pytest.mark.parametrize("sampling", POLICIES)
def test_a_set_begins_with_itself_at_every_smaller_size(source: Source, tokenizer: Any, sampling: str) -> None:
    sizes = [
        specs_of(source, sampling=sampling, nsamples=nsamples, max_nsamples=6, seqlen=16) for nsamples in (1, 2, 4, 6)
    ]
    built = [build_sets(specs, tokenizer) for specs in sizes]
    for small, large in pairwise(built):
        for one, other in zip(small, large, strict=True):
            assert np.array_equal(one.tokens, other.tokens[: len(one.tokens)])
            assert one.documents_in == other.documents_in[: len(one.tokens)]
    assert len({window.tobytes() for one in built[-1] for window in one.tokens}) == 18


def test_room_that_moves_no_window_is_no_part_of_the_id(source: Source) -> None:
    def ids(**changes: Any) -> list[str]:
        return [spec.id("tiny") for spec in specs_of(source, **changes)]

    plain, roomy = ids(), ids(max_nsamples=8)
    assert ids(max_nsamples=4) == plain == ids(distinct=4)
    assert roomy[0] == plain[0] and not set(roomy[1:]) & set(plain)


def test_repeated_windows_are_the_first_ones_of_the_set(source: Source, tokenizer: Any) -> None:
    spec = specs_of(source, nsamples=6, distinct=2)[1]
    built = build(spec, tokenizer)
    assert built.tokens.shape == (6, 24)
    few = build(specs_of(source, nsamples=2)[1], tokenizer)
    assert np.array_equal(built.tokens, np.tile(few.tokens, (3, 1)))
    assert built.documents == few.documents
    assert [row["text"] for row in built.rows()] == [row["text"] for row in few.rows()] * 3


def test_each_document_begins_with_bos(source: Source, tokenizer: Any) -> None:
    [built] = build_sets(specs_of(source, 1, document_bos=True, separator="none", seqlen=90), tokenizer)
    texts = {document.id: document.text for document in source.documents()}
    for window in range(4):
        expected: list[int] = []
        pieces = zip(built.documents_in[window], built.starts[window], built.lengths[window], strict=True)
        for document, start, length in pieces:
            ids = tokenizer(texts[document], add_special_tokens=False)["input_ids"][start : start + length]
            expected += ids
        found = built.tokens[window].tolist()
        assert [token for token in found if token != tokenizer.bos_token_id] == expected
        begun = sum(start == 0 for start in built.starts[window])
        assert begun <= found.count(tokenizer.bos_token_id) <= begun + 2  # one more at either end of a window


def test_first_token_can_be_eos(source: Source, tokenizer: Any) -> None:
    built = build(specs_of(source, 1, add_bos=True, first_token="eos")[0], tokenizer)
    assert (built.tokens[:, 0] == tokenizer.eos_token_id).all()


def test_sums_over_tokens_do_not_care_for_repetition(source: Source, tokenizer: Any) -> None:
    """Methods that know a set by sums over its tokens compress alike from a set and from its repetition."""
    import torch

    from methods.base import compress_linear, get_method

    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(len(tokenizer), 32, generator=generator)
    weight = torch.randn(16, 32, generator=generator)
    sets = build_sets([specs_of(source, 1, nsamples=4)[0], specs_of(source, 1, nsamples=16, distinct=4)[0]], tokenizer)
    for method in (
        get_method("gptq", bits=4),
        get_method("sparsegpt", sparsity=0.5),
        get_method("wanda", sparsity=0.5),
    ):
        once, often = (
            compress_linear(method, weight, embedding[torch.from_numpy(built.tokens.astype(np.int64))]).weight
            for built in sets
        )
        torch.testing.assert_close(once, often, rtol=1e-3, atol=1e-4)

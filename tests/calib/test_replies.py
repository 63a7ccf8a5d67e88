"""Which tokens an assistant writes, from a template's text to the windows of a set, and how often each counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.__main__ import main
from calib.build import build, preflight, read_pool
from calib.descriptor import describe
from calib.export import read_set, write_set
from calib.replies import reply_spans
from calib.settings import SettingsError
from calib.source import Source, TokenDocument, get_source
from calib.spec import CalibrationSet, CalibrationSpec
from tests.calib.fake_writer import FakeWriter

ROUNDS = [("a river?", "the stream"), ("of the window?", "a weight of the model")]


@pytest.fixture
def talks(jsonl: Callable[..., Path]) -> dict[str, Any]:
    records = [
        {
            "messages": [
                {"role": role, "content": f"{text} {number}"}
                for question, answer in ROUNDS
                for role, text in (("user", question), ("assistant", answer))
            ]
        }
        for number in range(30)
    ]
    return {"source": "file", "path": str(jsonl(records, "talks.jsonl"))}


def chat(talks: dict[str, Any], template: str = "chatml") -> Source:
    return get_source({"source": "chat", "of": talks, "template": template})


def response_of(document: TokenDocument) -> np.ndarray:
    assert document.marks is not None
    found = document.marks()
    assert found is not None
    return found


def built_of(source: Source, tokenizer: Any, **values: Any) -> CalibrationSet:
    spec = CalibrationSpec(source=source, set=0, **{"nsamples": 4, "seqlen": 64, "separator": "none", **values})
    return build(spec, tokenizer, "t", writer=FakeWriter() if source.writes else None)


@pytest.mark.parametrize(
    ("template", "replies"),
    [
        ("chatml", ["the stream 0<|im_end|>\n", "a weight of the model 0<|im_end|>\n"]),
        ("llama2", [" the stream 0 ", " a weight of the model 0 "]),
        ("none", ["\n\nthe stream 0", "\n\na weight of the model 0"]),
    ],
)
def test_the_replies_of_every_turn_are_marked(
    talks: dict[str, Any], tokenizer: Any, template: str, replies: list[str]
) -> None:
    first = next(iter(chat(talks, template).token_documents(tokenizer)))
    response = response_of(first)
    assert len(response) == len(first.tokens)
    edges = np.flatnonzero(np.diff(response.astype(int), prepend=0, append=0)).reshape(-1, 2)
    found = [tokenizer.decode(first.tokens[begin:end]) for begin, end in edges]
    assert [text.strip() for text in found] == [text.strip() for text in replies]


def test_a_template_that_rewrites_the_past_ends_a_reply_with_its_content() -> None:
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"},
    ]

    def rewriting(given: list[dict[str, Any]], asked: bool) -> str:
        text = "".join(f"<{message['role'][0]}>{message['content']}" for message in given)
        closing = "!" if given[-1]["role"] == "assistant" else ""  # gone once the conversation goes on
        return text + closing + ("<a>" if asked else "")

    text = rewriting(messages, False)
    assert reply_spans(messages, text, rewriting) == [(text.index("a", 4) + 2, text.index("<u>r"))]
    assert reply_spans(messages, "something else", rewriting) is None


def test_a_system_prompt_of_the_template_is_no_part_of_a_first_reply() -> None:
    messages = [
        {"role": "assistant", "content": "welcome"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]

    def prompting(given: list[dict[str, Any]], asked: bool) -> str:
        turns = "".join(f"<{message['role']}>{message['content']}" for message in given)
        return "<system>be kind" + turns + ("<assistant>" if asked else "")

    text = prompting(messages, False)
    spans = reply_spans(messages, text, prompting)
    assert spans is not None
    assert [text[begin:end] for begin, end in spans] == ["welcome", "a"]


def test_marks_follow_the_tokens_through_every_policy(talks: dict[str, Any], tokenizer: Any) -> None:
    source = chat(talks)
    pool = read_pool(source, tokenizer)
    assert pool.marks is not None
    known = {
        name: (document.tokens, response_of(document))
        for name, document in ((each.id, each) for each in source.token_documents(tokenizer))
    }
    for values in (
        {"separator": "eos"},
        {"document_bos": True},
        {"add_bos": True, "sampling": "packed"},
        {"sampling": "document_start", "separator": "eos"},
        {"sampling": "long_documents", "seqlen": 24, "distinct": 2},
    ):
        built = built_of(source, tokenizer, **values)
        assert built.responses is not None and built.responses.shape == built.tokens.shape
        for window in range(len(built.tokens)):
            place = 0
            for document, start, length in zip(
                built.documents_in[window], built.starts[window], built.lengths[window], strict=True
            ):
                tokens, response = known[document]
                while built.tokens[window, place : place + length].tolist() != tokens[start : start + length].tolist():
                    assert not built.responses[window, place]  # BOS and separators are no response
                    place += 1
                assert response is not None
                assert np.array_equal(built.responses[window, place : place + length], response[start : start + length])
                place += length


def test_of_a_trace_the_answer_is_the_response(talks: dict[str, Any], tokenizer: Any) -> None:
    source = get_source({"source": "traces", "of": chat(talks).to_dict()})
    whole = built_of(source, tokenizer, seqlen=40)
    assert whole.responses is not None and 0 < whole.responses.mean() < 1
    alone = built_of(get_source({**source.to_dict(), "part": "response"}), tokenizer, seqlen=40)
    assert alone.responses is not None and alone.responses.all()


def test_parts_and_lengths_count_together(talks: dict[str, Any], tokenizer: Any) -> None:
    plain = built_of(chat(talks), tokenizer)
    assert plain.weights is None and plain.responses is not None
    response = built_of(chat(talks), tokenizer, part="response")
    assert np.array_equal(response.tokens, plain.tokens)
    assert response.weights is not None and np.array_equal(response.weights, plain.responses)
    both = built_of(chat(talks), tokenizer, part="response", length_weights=[16, 64])
    lengths = built_of(chat(talks), tokenizer, length_weights=[16, 64])
    assert both.weights is not None and lengths.weights is not None
    assert np.array_equal(both.weights, lengths.weights * plain.responses)
    assert lengths.weights[0, 0] > lengths.weights[0, 16] == lengths.weights[0, 63] > 0
    assert len({built.id for built in (plain, response, both, lengths)}) == 4
    assert plain.hash == lengths.hash != response.hash  # the marks are in the hash where they count
    assert describe(plain)["response_share"] == pytest.approx(plain.responses.mean())


def test_a_set_without_these_settings_keeps_its_id(talks: dict[str, Any]) -> None:
    spec = CalibrationSpec(source=get_source("books"), set=1, nsamples=4, seqlen=64)
    assert not {"part", "length_weights"} & spec.to_dict().keys()
    assert (
        spec.id("t") == replace(spec, part="both", length_weights=None).id("t") != replace(spec, part="prompt").id("t")
    )


@pytest.mark.parametrize("name", ["set.parquet", "set.jsonl", "set.json", "folder"])
def test_published_marks_are_read_again_and_verified(
    talks: dict[str, Any], tokenizer: Any, tmp_path: Path, name: str
) -> None:
    built = built_of(chat(talks), tokenizer, part="response", length_weights=[16, 64])
    again = read_set(write_set(built, tmp_path / name))
    assert again.spec == built.spec and again.weights is not None and built.weights is not None
    assert np.array_equal(again.weights, built.weights)


def test_changed_marks_are_found(talks: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    file = write_set(built_of(chat(talks), tokenizer, part="response"), tmp_path / "set.json")
    document = json.loads(file.read_text())
    document["windows"][0]["responses"][0] ^= True
    file.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match="it was changed"):
        read_set(file)


def test_show_tells_what_counts(
    talks: dict[str, Any], tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = built_of(chat(talks), tokenizer, part="response", length_weights=[16, 64])
    assert main(["show", str(write_set(built, tmp_path / "set.parquet")), "--window", "1"]) == 0
    assert built.responses is not None
    told = capsys.readouterr().out
    share = 100 * built.responses.mean()
    assert f"{share:.1f} % of the tokens are a response; the response alone counts; the lengths 16, 64" in told
    assert f"pieces, {built.responses[1].sum()} tokens of a response" in told


def test_text_that_does_not_tell_its_responses_is_refused_before_any_work() -> None:
    for source in ("books", {"source": "mixture", "parts": {"books": 0.5, "code": 0.5}}):
        spec = CalibrationSpec(source=get_source(source), set=0, nsamples=4, seqlen=64, part="response")
        with pytest.raises(SettingsError, match=r"^calibration\.part: 'response' needs .*source 'books' does not;"):
            preflight([spec], "calibration.sets")


def test_windows_without_a_response_are_refused(talks: dict[str, Any], tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match="set 0: part: no token of the set belongs to the response"):
        built_of(chat(talks), tokenizer, part="response", sampling="document_start", seqlen=8, nsamples=1)


# Of the family of Qwen3: reasoning stands in the turns after the last question alone, and the last turn has its marks
# even without any.
REASONING = """{%- set last = namespace(question=0) -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\n' -}}
  {%- set said = message.content.split('</think>')[-1].lstrip('\n') -%}
  {%- if loop.index0 > last.question and message.role == 'assistant' and (loop.last or said != message.content) -%}
    {%- set thought = message.content.split('</think>')[0].split('<think>')[-1] if said != message.content else '' -%}
    {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' -}}
  {%- endif -%}
  {{- said -}}
  {%- for call in message.tool_calls or () -%}
    {{- '<tool_call>' + call.function.name + '</tool_call>' -}}
  {%- endfor -%}
  {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
  {%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}
{%- endif -%}"""


def thinking(first: str, second: str) -> list[dict[str, Any]]:
    """Two rounds."""
    said = [("user", "a river?"), ("assistant", first), ("user", "a window?"), ("assistant", second)]
    return [{"role": role, "content": content} for role, content in said]


def using_a_tool() -> list[dict[str, Any]]:
    call = {"function": {"name": "look", "arguments": {}}}
    asked, _, *later = thinking("", "<think>\nof\n</think>\n\nthe weight")
    return [
        asked,
        {"role": "assistant", "content": "<think>\nlook\n</think>\n\n", "tool_calls": [call]},
        {"role": "tool", "content": "water"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nthe stream"},
        *later,
    ]


@pytest.mark.parametrize(
    ("messages", "arguments", "replies"),
    [
        (
            thinking("<think>\nhm\n</think>\n\nthe stream", "<think>\nof\n</think>\n\nthe weight"),
            {},
            ["the stream<|im_end|>", "<think>\nof\n</think>\n\nthe weight<|im_end|>"],
        ),
        (
            thinking("the stream", "the weight"),
            {},
            ["the stream<|im_end|>", "<think>\n\n</think>\n\nthe weight<|im_end|>"],
        ),
        (
            thinking("<think>\nhm\n</think>\n\nthe stream", "the weight"),
            {"enable_thinking": False},
            ["the stream<|im_end|>", "the weight<|im_end|>"],
        ),
        (thinking("a river?", "a river?"), {"enable_thinking": False}, ["a river?<|im_end|>", "a river?<|im_end|>"]),
        (
            using_a_tool(),
            {},
            [
                "<tool_call>look</tool_call><|im_end|>",
                "the stream<|im_end|>",
                "<think>\nof\n</think>\n\nthe weight<|im_end|>",
            ],
        ),
        (
            thinking("<think>\nhm\n</think>\n\nthe stream", "the weight")[1:],
            {"enable_thinking": False},
            ["the stream<|im_end|>", "the weight<|im_end|>"],
        ),
    ],
)
def test_replies_are_found_where_the_template_strips_earlier_reasoning(
    jsonl: Callable[..., Path],
    tokenizer: Any,
    tmp_path: Path,
    messages: list[dict[str, Any]],
    arguments: dict[str, Any],
    replies: list[str],
) -> None:
    file = tmp_path / "reasoning.txt"
    file.write_text(REASONING)
    talks = {"source": "file", "path": str(jsonl([{"messages": messages}]))}
    entry = {"source": "chat", "of": talks, "template_file": str(file), "arguments": arguments}
    (document,) = get_source(entry).token_documents(tokenizer)
    response = response_of(document)
    edges = np.flatnonzero(np.diff(response.astype(int), prepend=0, append=0)).reshape(-1, 2)
    assert [tokenizer.decode(document.tokens[begin:end]).strip() for begin, end in edges] == replies


def test_a_reply_that_a_template_rewrites_is_not_found(
    jsonl: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "loud.txt"
    file.write_text(
        "{% for m in messages %}{{ m.content if m.role == 'user' else m.content | upper }}"
        "{{ loop.revindex }}{% endfor %}"
    )
    talks = {
        "source": "file",
        "path": str(jsonl([{"messages": thinking("the stream", "the weight")}] * 9, "talks.jsonl")),
    }
    source = get_source({"source": "chat", "of": talks, "template_file": str(file)})
    assert built_of(source, tokenizer).responses is None
    with pytest.raises(
        SettingsError, match=r"talks\.jsonl:\d: part: 'response' needs to know where the responses stand"
    ):
        built_of(source, tokenizer, part="response")


def test_a_conversation_is_rendered_again_only_where_it_is_in_a_set(
    talks: dict[str, Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    plain = type(tokenizer).apply_chat_template

    def counting(self: Any, messages: Any, **values: Any) -> Any:
        rendered.append(messages)
        return plain(self, messages, **values)

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", counting)
    pool = read_pool(chat(talks), tokenizer)
    assert len(rendered) == len(pool.ids) == 30
    built = built_of(chat(talks), tokenizer, nsamples=1)
    assert 30 < len(rendered) - 30 <= 30 + 5 * built.documents < 60

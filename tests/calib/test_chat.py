"""Conversations are rendered as transformers renders them, with one BOS, and refused with the place of a fault."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.build import build, preflight
from calib.settings import SettingsError
from calib.source import Source, get_source
from calib.spec import CalibrationSpec

OWN = (
    "{{ bos_token }}{% if tools %}tools: {{ tools | tojson }}\n{% endif %}{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}"
    "{{ eos_token }}{% endfor %}{% if enable_thinking is defined and not enable_thinking %}no thinking{% endif %}"
)
TALK = [
    {"role": "system", "content": "the model"},
    {"role": "user", "content": "a stream of weight?"},
    {"role": "assistant", "content": "the river"},
]
CALL = [
    {"role": "user", "content": "a window?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "look", "arguments": {"at": "river"}}}],
    },
    {"role": "tool", "content": "stream"},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    """The tokenizer with a chat template that writes BOS itself, uses tools and an argument of its own."""
    with_template = copy.deepcopy(tokenizer)
    with_template.chat_template = OWN
    return with_template


@pytest.fixture
def talks(jsonl: Callable[..., Path]) -> dict[str, Any]:
    path = jsonl([{"messages": TALK, "tools": None}, {"messages": CALL, "tools": TOOLS}], "talks.jsonl")
    return {"source": "file", "path": str(path)}


@pytest.fixture
def words(jsonl: Callable[..., Path]) -> dict[str, Any]:
    """Conversations without tools."""
    return {"source": "file", "path": str(jsonl([{"messages": TALK}], "words.jsonl"))}


def chat(of: Any, **values: Any) -> Source:
    return get_source({"source": "chat", "of": of, **values})


def ids(source: Source, tokenizer: Any) -> list[list[int]]:
    return [document.tokens.tolist() for document in source.token_documents(tokenizer)]


def test_own_template_renders_as_transformers_does(talks: dict[str, Any], chatty: Any) -> None:
    expected = [
        chatty.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)
        for messages, tools in ((TALK, None), ([CALL[0], {**CALL[1], "content": ""}, CALL[2]], TOOLS))
    ]
    found = ids(chat(talks, tools="tools"), chatty)
    assert found == expected
    assert [one.count(chatty.bos_token_id) for one in found] == [1, 1]


def test_arguments_reach_the_template_and_are_part_of_the_identity(talks: dict[str, Any], chatty: Any) -> None:
    plain, quiet = chat(talks), chat(talks, arguments={"enable_thinking": False})
    assert chatty.decode(ids(quiet, chatty)[0]).endswith("no thinking")
    assert "no thinking" not in chatty.decode(ids(plain, chatty)[0])
    assert plain.identity() != quiet.identity()


def test_other_templates_and_none_are_controls(words: dict[str, Any], chatty: Any, tokenizer: Any) -> None:
    texts = {
        template: tokenizer.decode(ids(chat(words, template=template), tokenizer)[0])
        for template in ("none", "chatml", "llama2")
    }
    assert texts["none"] == "the model\n\na stream of weight?\n\nthe river"
    assert texts["chatml"].startswith("<|im_start|>system\nthe model<|im_end|>\n<|im_start|>user\n")
    assert "[INST] a stream of weight? [/INST] the river" in texts["llama2"]
    hashes = {chat(words, template=template).template_id(chatty) for template in ("own", "none", "chatml", "llama2")}  # type: ignore[attr-defined]
    assert len(hashes) == 4


def test_a_template_of_a_file_counts_by_its_content(words: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("{% for message in messages %}<{{ message['content'] }}>{% endfor %}")
    source = chat(words, template_file="mine.txt").located(tmp_path)
    assert tokenizer.decode(ids(source, tokenizer)[0]) == "<the model><a stream of weight?><the river>"
    before = source.revision()
    file.write_text("{{ messages[0]['content'] }}")
    assert source.revision() != before


def test_a_second_bos_is_refused(talks: dict[str, Any], chatty: Any) -> None:
    spec = CalibrationSpec(source=chat(talks), set=0, nsamples=1, seqlen=8, separator="none")
    assert build(spec, chatty).tokens.shape == (1, 8)
    for setting in ("add_bos", "document_bos"):
        values = {"source": chat(talks), "set": 0, "nsamples": 1, "seqlen": 8, "separator": "none", setting: True}
        with pytest.raises(SettingsError, match=f"{setting}: the documents of source .* begin with the BOS id already"):
            build(CalibrationSpec(**values), chatty)
    between = CalibrationSpec(source=chat(talks), set=0, nsamples=1, seqlen=8, separator="bos")
    with pytest.raises(SettingsError, match="separator: the documents of source .* begin with the BOS id already"):
        build(between, chatty)


def test_calls_of_tools_are_never_lost(talks: dict[str, Any], chatty: Any, tokenizer: Any) -> None:
    for template in ("none", "chatml", "llama2"):
        with pytest.raises(SettingsError, match=f"line 2: the template {template} leaves out the call of the tool 'l"):
            chat(talks, template=template).check()
    forgetful = copy.deepcopy(tokenizer)
    forgetful.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(SettingsError, match="line 2: the chat template leaves out the call of the tool 'look'"):
        ids(chat(talks), forgetful)
    with pytest.raises(SettingsError, match="tools: no record has a column 'tolls'"):
        chat(talks, tools="tolls").check()
    assert '"look"' in chatty.decode(ids(chat(talks, tools="tools"), chatty)[1])


def test_the_date_in_a_template_is_always_the_same_one(words: dict[str, Any], tokenizer: Any) -> None:
    dated = copy.deepcopy(tokenizer)
    said = " {{ messages[-1]['content'] }}"
    dated.chat_template = '{% if strftime_now is defined %}{{ strftime_now( "%Y %f" ) }}{% endif %}' + said
    assert dated.decode(ids(chat(words), dated)[0]).startswith("2024 000000 ")
    dated.chat_template = "{{ date_string or strftime_now('%d %b') }}" + said
    assert dated.decode(ids(chat(words, arguments={"date_string": "1 May"}), dated)[0]).startswith("1 May ")
    dated.chat_template = "{% set form = '%f' %}{{ strftime_now(form) }}"
    with pytest.raises(SettingsError, match="the time in a form of its own"):
        ids(chat(words), dated)


def test_prompt_and_response_make_a_conversation(jsonl: Callable[..., Path], tokenizer: Any) -> None:
    path = jsonl([{"question": "a window?", "answer": "the river"}])
    source = chat({"source": "file", "path": str(path)}, prompt="question", response="answer", template="none")
    assert tokenizer.decode(ids(source, tokenizer)[0]) == "a window?\n\nthe river"


def test_sharegpt_records_are_understood(jsonl: Callable[..., Path], tokenizer: Any) -> None:
    talk = [{"from": "human", "value": "a window?"}, {"from": "gpt", "value": [{"type": "text", "text": "the river"}]}]
    source = chat({"source": "file", "path": str(jsonl([{"conversations": talk}]))}, template="chatml")
    assert "<|im_start|>assistant\nthe river" in tokenizer.decode(ids(source, tokenizer)[0])


def test_tokenizer_without_a_template_is_refused(talks: dict[str, Any], tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match="the tokenizer has no chat template; choose template: none"):
        ids(chat(talks), tokenizer)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "line 1: expected a list of messages with role and content, got None"),
        ([], "line 1: expected a list of messages"),
        (["hello"], "line 1, message 1: expected an object with role and content, got 'hello'"),
        ([{"role": "usr", "content": "a"}], "line 1, message 1: unknown role 'usr', did you mean 'user'?"),
        ([{"content": "a"}], "line 1, message 1: unknown role None; choose from system"),
        ([TALK[0], {"role": "user"}], "line 1, message 2: the message of the user has no content"),
        ([{"role": "user", "content": 3}], "line 1, message 1: the content is 3, not text"),
        ([{"role": "user", "content": "\ud800"}], "line 1, message 1: the content: half a surrogate pair"),
        ([{"role": "user", "content": [{"type": "image"}]}], "line 1, message 1: a part of the content is no text"),
    ],
)
def test_what_is_no_conversation_is_found_before_any_work(
    jsonl: Callable[..., Path], messages: Any, message: str
) -> None:
    source = chat({"source": "file", "path": str(jsonl([{"messages": messages}]))})
    with pytest.raises(SettingsError) as caught:
        preflight([CalibrationSpec(source=source, set=0, nsamples=1, seqlen=8)])
    assert message in str(caught.value)
    assert len(caught.value.lines) == 1


def test_what_a_template_refuses_is_named_with_its_record(talks: dict[str, Any], tokenizer: Any) -> None:
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('system comes too late') }}"
    with pytest.raises(SettingsError, match=r"line 1: the chat template refuses it \(system comes too late\)"):
        ids(chat(talks), strict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "a"}, "source.prompt: needs response as well"),
        ({"prompt": "a", "response": "b", "messages": "c"}, "source.messages: leave it out"),
        ({"template": "chatml", "template_file": "x.txt"}, "source.template_file: leave template out"),
        ({"template": "chatml", "tools": "tools"}, "source.tools: the template chatml shows no tools"),
        ({"template": "vicuna"}, "source.template: expected 'own', 'none', 'chatml' or 'llama2'"),
    ],
)
def test_settings_that_contradict_are_refused(talks: dict[str, Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        chat(talks, **values)
    assert str(caught.value).startswith(message)


def test_text_files_have_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the river")
    with pytest.raises(SettingsError, match="is text without records; give JSON or Parquet"):
        chat({"source": "file", "path": str(tmp_path / "a.txt")}).check()
    with pytest.raises(SettingsError, match="source 'books': has no records"):
        chat("books").check()

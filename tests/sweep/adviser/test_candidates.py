"""The arms of a question, and what is seen of their texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calib.settings import MAX_LABEL, SettingsError
from calib.source import Source, get_source
from sweep.adviser.candidates import UNIFORM, TargetIndex, look_at, make_arms
from sweep.adviser.outcomes import Trial
from sweep.adviser.question import Question
from sweep.adviser.targets import make_targets
from sweep.models import load_tokenizer
from tests.sweep.adviser.paper import asked, prepared
from tests.sweep.conftest import write_documents


def arms(*candidates: Any, **settings: Any) -> list[Any]:
    return make_arms(Question("reference-2m", "gptq", candidates, **settings))


def test_the_even_mixture_of_the_candidates_is_an_arm_unless_it_is_not_wanted() -> None:
    found = arms("books", "code", "legal")
    assert [arm.name for arm in found] == ["books", "code", "legal", UNIFORM]
    assert found[-1].shares == pytest.approx({"books": 1 / 3, "code": 1 / 3, "legal": 1 / 3})
    assert [arm.name for arm in arms("books", "code", uniform=False)] == ["books", "code"]


def test_a_named_mixture_takes_candidates_and_other_sources() -> None:
    found = arms("books", "code", mixtures=[{"books": 0.75, "legal": 0.25}], uniform=False)
    assert found[-1].name == "75% books + 25% legal"
    assert [part.label for part, _ in found[-1].source.components()] == ["books", "legal"]


def test_a_candidate_that_is_a_mixture_is_no_part_of_the_even_one() -> None:
    mixed = {"source": "mixture", "parts": {"books": 0.5, "legal": 0.5}}
    assert arms("books", "code", mixed)[-1].shares == {"books": 0.5, "code": 0.5}


def test_files_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    paths = []
    for seed, name in enumerate("xy"):
        (tmp_path / name).mkdir()
        paths.append(str(write_documents(tmp_path / name / "text.jsonl", seed=seed)))
    assert [arm.name for arm in arms(*paths, uniform=False)] == [path[-MAX_LABEL:] for path in paths]


def test_a_look_describes_every_text_and_counts_copies(tiny_model: Path, tmp_path: Path) -> None:
    paths = [write_documents(tmp_path / f"{seed}.jsonl", seed=seed) for seed in range(3)]
    target = tmp_path / "target.jsonl"
    target.write_text("\n".join(paths[1].read_text().splitlines()[:4]))
    question = asked(tiny_model, paths, targets=[str(target)], windows=2)
    ready = prepared(question, tmp_path / "out")
    tokenizer = load_tokenizer(ready.design.studies["full"].models[0])
    sources = make_targets(question).sources
    given = (ready.design.arms, ready.design.specs(), tokenizer, sources)
    looks = look_at(*given, allow_overlap=True)
    assert [(look.arm, look.copied) for look in looks] == [("0", 0), ("1", 4), ("2", 0)]
    assert all(look.descriptors["token_entropy"] for look in looks)
    with pytest.raises(SettingsError, match=r"'1' holds 4 of the 4 documents of the target target: target\.jsonl:0"):
        look_at(*given, allow_overlap=False)


def test_a_task_that_stands_in_a_candidate_refuses_it_unless_it_is_a_trifle(tiny_model: Path, tmp_path: Path) -> None:
    paths = [write_documents(tmp_path / f"{seed}.jsonl", seed=seed) for seed in range(2)]
    ready = prepared(asked(tiny_model, paths), tmp_path / "out")
    tokenizer = load_tokenizer(ready.design.studies["full"].models[0])
    given = (ready.design.arms, ready.design.specs(), tokenizer, {})
    copied = [json.loads(line)["text"] for line in paths[1].read_text().splitlines()[:2]]
    others = [f"question {number} asks for what no candidate has ever said of {number} things" for number in range(300)]
    with pytest.raises(SettingsError, match="'1' holds 2 of the 12 documents of the target quiz: quiz:0"):
        look_at(*given, {"quiz": [*copied, *others[:10]]}, allow_overlap=False)
    looks = look_at(*given, {"quiz": [*copied, *others]}, allow_overlap=False)
    assert [look.copied for look in looks] == [0, 2]


def test_set_phrases_of_disjoint_documents_are_noted_and_a_document_that_is_held_refuses(
    tiny_model: Path, tmp_path: Path
) -> None:
    paths = [write_documents(tmp_path / f"{seed}.jsonl", seed=seed) for seed in range(2)]
    ready = prepared(asked(tiny_model, paths), tmp_path / "out")
    tokenizer = load_tokenizer(ready.design.studies["full"].models[0])
    words = json.loads(paths[1].read_text().splitlines()[0])["text"].split()[:40]

    def target(name: str, share: float, sharing: int, count: int = 60) -> dict[str, Source]:
        """Documents of forty words, of which `sharing` begin with that share of a candidate's."""
        texts = []
        for number in range(count):
            kept = words[: int(share * 40)] if number < sharing else []
            texts.append(" ".join([*kept, *(f"own{number}of{place}" for place in range(40 - len(kept)))]))
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        return {name: get_source({"source": "file", "path": str(path)})}

    given = (ready.design.arms, ready.design.specs(), tokenizer)
    looks = look_at(*given, target("phrases", 0.5, 2), allow_overlap=False)
    assert [look.copied for look in looks] == [0, 2]
    assert looks[1].notes == (
        "note: 1 shares 20 to 39 % of the 8-word runs of 2 of the 60 documents of the target phrases",
    )
    with pytest.raises(SettingsError, match="'1' holds 3 of the 60 documents of the target many"):
        look_at(*given, target("many", 0.5, 3), allow_overlap=False)
    with pytest.raises(SettingsError, match="'1' holds 1 of the 60 documents of the target whole"):
        look_at(*given, target("whole", 1.0, 1), allow_overlap=False)


def test_bundled_sources_may_be_judged_by_the_heldout_text_of_their_own_domain() -> None:
    """The two domains whose disjoint documents share most phrases, as `look_at` reads them."""
    for domain in ("dialogue_qa", "web_docs"):
        heldout = list(get_source({"source": "heldout", "domain": domain}).documents())
        index = TargetIndex(domain, heldout)
        own = list(get_source(domain).documents())
        shares = index.shares(own)[0]
        assert index.count(shares) > 0
        assert not index.refuses(shares)
        assert index.refuses(index.shares([*own, heldout[7]])[0])


def test_a_selected_set_is_an_arm_of_its_own_with_its_own_sets(tiny_model: Path, tmp_path: Path) -> None:
    path = write_documents(tmp_path / "text.jsonl", seed=0)
    plain = {"source": "file", "path": str(path), "label": "mine"}
    rule = {**plain, "select": {"by": "random", "pool": 2}}
    named = {**rule, "label": "chosen"}
    question = replace(asked(tiny_model, [], sets=2), candidates=[plain, named])
    ready = prepared(question, tmp_path / "out")
    assert ready.design.names == ["mine", "chosen"]  # no mixture: one text alone is plain
    specs = ready.design.specs()
    assert [spec.select is None for spec in (specs["mine"][0], specs["chosen"][0])] == [True, False]
    ids = {trial.id for trial in ready.design.trials.values()}
    assert len(ids) == len(ready.design.trials) == 8
    others = replace(
        question,
        candidates=[plain, {**plain, "path": str(write_documents(tmp_path / "b.jsonl", seed=1)), "label": "b"}],
    )
    without = prepared(others, tmp_path / "out")  # a study without a selection is what it was
    assert isinstance(without.design.studies["full"].document["calibration"], dict)
    assert without.design.trials[Trial("mine", 0, "full")].id == ready.design.trials[Trial("mine", 0, "full")].id
    unnamed = make_arms(Question("m", "gptq", ["books", {"source": "books", "select": {"by": "random", "pool": 2}}]))
    assert unnamed[1].name.startswith("books, ") and unnamed[1].select is not None


def test_a_wrong_selection_is_told_from_a_wrong_mixture() -> None:
    chosen = {"source": "books", "label": "chosen", "select": {"by": "random", "pool": 2}}
    with pytest.raises(SettingsError, match=r"--candidates\[1\]\.select"):
        arms("code", {**chosen, "select": {"by": "nothing"}})
    with pytest.raises(SettingsError, match="are the same text"):
        arms(chosen, {**chosen, "label": "again"})
    with pytest.raises(SettingsError, match="the windows of 'chosen' are selected"):
        arms("code", chosen, mixtures=[{"chosen": 0.5, "code": 0.5}])


def test_everything_wrong_with_a_candidate_has_a_line_of_its_own_with_its_place() -> None:
    with pytest.raises(SettingsError) as caught:
        arms("code", {"source": "noisy", "of": "boks", "kind": "casin"})
    assert len(caught.value.faults) == 2
    assert all(line.startswith("--candidates[1].") for line in caught.value.lines)


def looked(question: Question, folder: Path) -> list[Any]:
    """The looks at a question's texts, with its targets."""
    ready = prepared(question, folder)
    tokenizer = load_tokenizer(ready.design.studies["full"].models[0])
    return look_at(
        ready.design.arms, ready.design.specs(), tokenizer, make_targets(question).sources, allow_overlap=False
    )


def chats(path: Path, texts: Path, first: int = 0) -> dict[str, Any]:
    """The documents of a file as conversations, from that of number `first` on, as a source."""
    lines = texts.read_text().splitlines()[first:]
    talks = [{"messages": [{"role": "user", "content": json.loads(line)["text"]}]} for line in lines]
    path.write_text("\n".join(map(json.dumps, talks)))
    of = {"source": "file", "path": str(path)}
    return {"source": "chat", "of": of, "template": "chatml", "label": path.stem}


def test_conversations_and_random_tokens_are_candidates_and_conversations_targets(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Their documents are no text before a tokenizer is there."""
    texts, other = (write_documents(tmp_path / f"{seed}.jsonl", seed=seed) for seed in range(2))
    talks = chats(tmp_path / "talks.jsonl", texts)
    asked_of = replace(asked(tiny_model, [], sets=2, windows=2), candidates=[talks, "random_tokens", str(other)])
    assert [look.arm for look in looked(asked_of, tmp_path / "out")] == ["talks", "random_tokens", "1"]
    target = chats(tmp_path / "target.jsonl", texts, first=36)
    with pytest.raises(
        SettingsError, match=r"'talks' holds 4 of the 4 documents of the target target: target\.jsonl:0"
    ):
        looked(replace(asked_of, targets=[target]), tmp_path / "out")


def test_a_part_of_a_mixture_that_no_candidate_is_must_not_hold_the_target_either(
    tiny_model: Path, tmp_path: Path
) -> None:
    one, two, third = (write_documents(tmp_path / f"{name}.jsonl", seed=seed) for seed, name in enumerate("abc"))
    mixed = asked(tiny_model, [one, two], sets=2, windows=2, mixtures=[{"a": 0.5, str(third): 0.5}])
    assert [(look.arm, look.documents) for look in looked(mixed, tmp_path / "out")] == [("a", 40), ("b", 40), ("c", 40)]
    target = tmp_path / "target.jsonl"
    target.write_text("\n".join(third.read_text().splitlines()[:4]))
    with pytest.raises(SettingsError, match="'c' holds 4 of the 4 documents of the target target"):
        looked(replace(mixed, targets=[str(target)]), tmp_path / "out")


def test_the_same_documents_in_another_order_are_no_choice_and_nested_texts_are_noted(
    tiny_model: Path, tmp_path: Path
) -> None:
    whole = write_documents(tmp_path / "whole.jsonl", seed=0)
    lines = whole.read_text().splitlines()
    turned, half = tmp_path / "turned.jsonl", tmp_path / "half.jsonl"
    turned.write_text("\n".join(reversed(lines)))
    half.write_text("\n".join(lines[:30]))
    small = {"sets": 2, "nsamples": 8, "windows": 2}
    with pytest.raises(SettingsError, match="'whole' and 'turned' hold the same 40 documents; leave one out"):
        looked(asked(tiny_model, [whole, turned], **small), tmp_path / "out")
    looks = looked(asked(tiny_model, [whole, half], **small), tmp_path / "out")
    assert looks[1].notes == ("note: 30 of the 30 documents of half stand in whole as well",)


def test_templates_that_differ_in_special_tokens_alone_and_repeated_documents_are_choices(
    tiny_model: Path, tmp_path: Path
) -> None:
    texts = write_documents(tmp_path / "texts.jsonl", seed=0)
    rendered = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    ways = {"bare": rendered, "ended": rendered + "{{ eos_token }}"}
    candidates = []
    for name, template in ways.items():
        (tmp_path / f"{name}.txt").write_text(template)
        way = {"template": "own", "template_file": str(tmp_path / f"{name}.txt"), "label": name}
        candidates.append({**chats(tmp_path / "talks.jsonl", texts), **way})
    small = {"sets": 2, "nsamples": 8, "windows": 2}
    asked_of = replace(asked(tiny_model, [], **small), candidates=candidates)
    assert [look.arm for look in looked(asked_of, tmp_path / "out")] == ["bare", "ended"]
    lines = texts.read_text().splitlines()
    twice = tmp_path / "twice.jsonl"
    twice.write_text("\n".join(lines + lines[:10]))
    looks = looked(asked(tiny_model, [texts, twice], **small), tmp_path / "out")
    assert looks[1].notes == ("note: 40 of the 40 documents of twice stand in texts as well",)

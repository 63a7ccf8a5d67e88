"""The commands ask lm_eval what the trial was asked, in the trial's type."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sweep.evaluation.settings import EvaluationSettings
from sweep.models import ModelRef, resolve_model
from sweep.shipping.lmeval import lm_eval_commands, lm_eval_note


@pytest.fixture
def model(tiny_model: Path) -> ModelRef:
    return resolve_model({"model": str(tiny_model)}, "models[0]")


def flags(command: str) -> dict[str, str]:
    words = shlex.split(command)
    assert words[:3] == ["lm_eval", "--model", "hf"]
    return dict(zip(words[1::2], words[2::2], strict=False))


def test_everything_that_moves_a_number_is_in_the_command(model: ModelRef) -> None:
    asked = EvaluationSettings(
        tasks=["piqa", "arc_easy"], limit=60, num_fewshot=3, fewshot_seed=7, chat_template=True, heldout=["books"]
    )
    own = replace(model, max_length=64, length_given=True, trust_remote_code=True)
    (command,) = lm_eval_commands(own, "float32", asked, Path("shipped"))
    given = flags(command)
    assert given["--model_args"] == "pretrained=.,dtype=float32,max_length=64,trust_remote_code=True"
    assert given["--tasks"] == "piqa,arc_easy"
    assert (given["--limit"], given["--num_fewshot"], given["--seed"]) == ("60", "3", "0,1234,1234,7")
    assert command.endswith(" --apply_chat_template")


def test_half_precision_takes_the_softmax_in_float32_and_says_what_may_differ(model: ModelRef) -> None:
    (command,) = lm_eval_commands(model, "bfloat16", EvaluationSettings(tasks=["piqa"]), Path("shipped"))
    assert flags(command)["--model_args"] == "pretrained=.,dtype=bfloat16,softmax_dtype=float32"
    assert not {"--limit", "--num_fewshot", "--seed", "--include_path"} & flags(command).keys()
    assert "may be decided otherwise" in lm_eval_note("bfloat16")
    assert "decides every answer as the trial did" in lm_eval_note("float32")


def test_tasks_of_another_place_or_number_of_examples_have_a_command_of_their_own(
    model: ModelRef, tiny_tasks: Path
) -> None:
    asked = EvaluationSettings(tasks=["tiny", "reference_piqa", "beware"], task_path=str(tiny_tasks))
    own, bundled, zero_shot, five_shot = lm_eval_commands(model, "float32", asked, tiny_tasks.parent / "shipped")
    start, command = own.strip("()").split(" && ")
    assert start == f"cd ../{tiny_tasks.name}"
    assert (flags(command)["--include_path"], flags(command)["--tasks"]) == (".", "tiny")
    assert "REFERENCE_TASKS" in bundled
    assert "--include_path" not in zero_shot
    assert flags(five_shot)["--tasks"] == "mmlu"
    assert flags(five_shot)["--num_fewshot"] == "5"


def write_task(folder: Path, name: str, data: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kwargs = {} if data is None else {"dataset_kwargs": {"data_files": {"test": data}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, "dataset_path": "json", **kwargs}))


def test_tasks_with_data_beside_their_file_are_asked_where_it_lies(model: ModelRef, tmp_path: Path) -> None:
    """lm_eval looks for relative `data_files` where it is started."""
    mine, out = tmp_path / "my tasks", tmp_path / "out" / "my model"
    write_task(mine, "one", "one.jsonl")
    write_task(mine, "two", "two.jsonl")
    write_task(mine, "elsewhere", "/data/elsewhere.jsonl")
    write_task(mine / "deep", "three", "three.jsonl")
    (mine / "group.yaml").write_text(yaml.safe_dump({"group": "desk", "task": ["one", "two"]}))
    (mine / "mixed.yaml").write_text(yaml.safe_dump({"group": "mixed", "task": ["desk", "three", "elsewhere"]}))

    def typed(*tasks: str) -> list[str]:
        return lm_eval_commands(model, "float32", EvaluationSettings(tasks=[*tasks], task_path=str(mine)), out)

    (desk,) = typed("desk")
    start, command = desk.strip("()").split(" && ")
    assert start == "cd '../../my tasks'"
    given = flags(command)
    assert given["--model_args"] == "pretrained=../out/my model,dtype=float32"
    assert (given["--tasks"], given["--include_path"]) == ("desk", ".")
    deep, here, beside = typed("mixed")
    assert beside.replace("one,two", "desk") == desk
    start, command = deep.strip("()").split(" && ")
    assert (start, flags(command)["--include_path"]) == ("cd '../../my tasks/deep'", "..")
    assert (flags(here)["--tasks"], flags(here)["--model_args"]) == ("elsewhere", "pretrained=.,dtype=float32")

from __future__ import annotations

from typing import Any

from sweep.config import parse_study
from tests.sweep.conftest import changed


def test_list_value_of_a_scalar_setting_expands(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "methods=[{method: gptq, bits: [3, 4], group_size: [16, 32]}, rtn]"))
    settings = [(method.name, method.bits, method.group_size) for method in study.methods]
    assert settings == [("gptq", 3, 16), ("gptq", 3, 32), ("gptq", 4, 16), ("gptq", 4, 32), ("rtn", 4, None)]


def test_list_value_of_a_list_setting_stays_one_value(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "methods=[{method: rtn, linears: ['mlp.*', 'self_attn.*']}]"))
    assert [method.linears for method in study.methods] == [["mlp.*", "self_attn.*"]]


def test_composition_expands_part_by_part(document: dict[str, Any]) -> None:
    entry = "methods=[[{method: wanda, sparsity: 0.5}, {method: gptq, bits: [3, 4]}]]"
    study = parse_study(changed(document, entry))
    assert [[step.name for step in method.steps] for method in study.methods] == [["wanda", "gptq"]] * 2
    assert [method.steps[1].bits for method in study.methods] == [3, 4]


def test_labels_of_a_study_are_distinct(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "methods=[{method: gptq, bits: 3, percdamp: [0.01, 0.1]}]"))
    assert len(set(study.labels)) == 2
    assert any("percdamp 0.1" in label for label in study.labels)

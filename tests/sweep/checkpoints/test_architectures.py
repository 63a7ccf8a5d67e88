"""The tables of transformers as text are those that it uses itself."""

from __future__ import annotations

from sweep.checkpoints.architectures import Architectures, known_architectures
from sweep.checkpoints.config import check_config


def test_tables_are_those_of_transformers() -> None:
    from transformers.models.auto import configuration_auto, modeling_auto

    known = known_architectures()
    assert known.found
    assert known.causal == dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert known.masked == set(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    assert known.seq_to_seq == set(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    assert known.types <= set(configuration_auto.CONFIG_MAPPING_NAMES)


def test_every_decoder_of_transformers_passes_under_its_own_class() -> None:
    from pathlib import Path

    known = known_architectures()
    for name, loaded in known.causal.items():
        if name not in known.masked | known.seq_to_seq:
            check_config({"model_type": name, "architectures": [loaded]}, Path("config.json"), "m")


def test_models_known_by_other_names_pass() -> None:
    from pathlib import Path

    for name, saved in (
        ("llama", "LLaMAForCausalLM"),  # older files
        ("llama", "LlamaModel"),  # without a head
        ("exaone", "ExaoneForCausalLM"),  # transformers loads it as a LLaMA
        ("llama4", "Llama4ForConditionalGeneration"),  # its text model is loaded
        ("qwen3_5", "Qwen3_5ForConditionalGeneration"),
        ("gemma3", "Gemma3ForConditionalGeneration"),
    ):
        check_config({"model_type": name, "architectures": [saved]}, Path("config.json"), "m")


def test_nothing_is_known_of_another_layout() -> None:
    assert not Architectures().found

"""Which model types transformers knows, and which class each is loaded as, without importing it.

Planning must refuse a BERT or a vision model in a second, and importing transformers takes several. Its tables are
literals in its source, so they are read from there as text. The hard case is a version that keeps them elsewhere: then
nothing is known here, and the model is judged by transformers itself while the study is prepared (`model_check.py`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

FILES = ("auto_mappings.py", "modeling_auto.py")
KNOWN = "CONFIG_MAPPING_NAMES"
CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
SEQ_TO_SEQ = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"
IMAGE_TEXT = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"


@dataclass(frozen=True)
class Architectures:
    """Names of model types (`llama`), and the class of each as a causal language model (`LlamaForCausalLM`)."""

    types: frozenset[str] = frozenset()
    causal: Mapping[str, str] = field(default_factory=dict)
    masked: frozenset[str] = frozenset()  # encoders, some of them with a causal class as well
    seq_to_seq: frozenset[str] = frozenset()
    image_text: frozenset[str] = frozenset()

    @property
    def found(self) -> bool:
        """False: transformers is not installed, or keeps its tables in another form."""
        return bool(self.types and self.causal)


@lru_cache(maxsize=1)
def known_architectures() -> Architectures:
    """What the installed transformers knows."""
    tables = _tables()
    return Architectures(
        types=frozenset(tables.get(KNOWN, {})) | frozenset(tables.get(CAUSAL, {})),
        causal=tables.get(CAUSAL, {}),
        masked=frozenset(tables.get(MASKED, {})),
        seq_to_seq=frozenset(tables.get(SEQ_TO_SEQ, {})),
        image_text=frozenset(tables.get(IMAGE_TEXT, {})),
    )


def _tables() -> dict[str, dict[str, str]]:
    spec = PathFinder.find_spec("transformers")
    tables: dict[str, dict[str, str]] = {}
    for place in (spec.submodule_search_locations or []) if spec else []:
        for name in FILES:
            file = Path(place) / "models" / "auto" / name
            if file.is_file():
                tables.update(_assignments(ast.parse(file.read_text(encoding="utf-8"))))
    return tables


def _assignments(module: ast.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, pairs of text) of every `NAME = OrderedDict([("key", "value"), ...])`."""
    for node in module.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if not isinstance(node, ast.Assign) or not isinstance(target, ast.Name) or not isinstance(node.value, ast.Call):
            continue
        if node.value.args and isinstance(node.value.args[0], ast.List):
            yield target.id, dict(_pairs(node.value.args[0]))


def _pairs(items: ast.List) -> Iterator[tuple[str, str]]:
    for item in items.elts:
        parts = item.elts if isinstance(item, ast.Tuple) else []
        words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if len(words) == 2:
            yield words[0], words[1]

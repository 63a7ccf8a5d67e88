"""Tokenizers by name, and the fingerprint that stands for one in the id of a calibration set.

A folder counts by the content of its tokenizer files, wherever it lies; a tokenizer of the Hugging Face hub by its
repository and revision, `org/name@main`, which is known without fetching anything. A branch can come to mean other
files under the same fingerprint, so a revision that is a commit is the surer name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.settings import SettingsError, suggestion

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


@dataclass(frozen=True)
class TokenizerRef:
    """A tokenizer known without loading it."""

    path: str  # a folder, or a hub id
    revision: str | None  # of a hub id
    id: str


def find_tokenizer(name: str, shipped: Mapping[str, Path] | None = None, place: str = "--tokenizer") -> TokenizerRef:
    """The tokenizer that a folder, `org/name` or `org/name@revision` means; `shipped` has folders by further names.

    Raises SettingsError for any other name, and for a folder without a tokenizer; nothing is looked up on the hub.
    """
    shipped = shipped or {}
    folder = shipped.get(name, Path(name).expanduser())
    if folder.is_dir():
        if not any((folder / file).is_file() for file in TOKENIZER_FILES):
            raise SettingsError(f"{place}: {folder} holds no tokenizer; save it there with save_pretrained")
        return TokenizerRef(str(folder), None, tokenizer_id(folder))
    location, _, revision = name.partition("@")
    if not HUB_ID.match(location):
        raise SettingsError(
            f"{place}: there is no tokenizer '{name}'{suggestion(name, shipped)} (give a folder, or a hub id such as "
            f"org/name{'' if shipped else '; python -m sweep.export knows the models that ship'})"
        )
    return TokenizerRef(location, revision or "main", hub_tokenizer_id(location, revision or "main"))


def tokenizer_id(folder: Path) -> str:
    """16 hex digits over the tokenizer files of a folder."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def hub_tokenizer_id(name: str, revision: str) -> str:
    return f"{name}@{revision}"


def load_tokenizer(ref: TokenizerRef, place: str = "--tokenizer") -> Any:
    """The transformers tokenizer. Raises SettingsError when it is neither here nor reachable."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(ref.path, revision=ref.revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(f"{place}: cannot load '{ref.path}': {reason}") from None

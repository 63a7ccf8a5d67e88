"""Tokenizers by name, and the fingerprint that stands for one in the id of a calibration set.

A folder counts by the content of its tokenizer files, wherever it lies; a tokenizer of the Hugging Face hub by its
repository and revision, `org/name@main`, which is known without fetching anything. A branch can come to mean other
files under the same fingerprint, so a revision that is a commit is the surer name. The hard case is a folder whose
files are no tokenizer: what their JSON gives away is told without loading it, all else in one line when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from calib.settings import SettingsError, one_line, suggestion

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
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of which a tokenizer cannot do without
READ_NOW = (
    8 * 2**20
)  # bytes of a JSON file that is parsed while planning; a tokenizer of 32 MB would take half a second
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
            f"org/name{'' if shipped else '; calibsweep calib knows the models that ship'})"
        )
    return TokenizerRef(location, revision or "main", hub_tokenizer_id(location, revision or "main"))


def tokenizer_id(folder: Path, *, with_code: bool = False) -> str:
    """16 hex digits over the tokenizer files of a folder; `with_code`: over its Python files as well, which may run."""
    code = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.py")) if with_code else []
    digest = hashlib.sha256()
    for name in (*TOKENIZER_FILES, *code):
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def hub_tokenizer_id(name: str, revision: str, *, with_code: bool = False) -> str:
    return f"{name}@{revision}{'+code' if with_code else ''}"


def check_tokenizer_files(folder: Path, place: str) -> None:
    """Refuse a folder without a tokenizer, or with files that are none. Loads nothing.

    Raises SettingsError naming `place`, where somebody named the folder, and the file.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise SettingsError(f"{place}: {folder} holds no tokenizer; save the tokenizer beside the model")
    for name in TOKENIZER_FILES:
        file = folder / name
        if not name.endswith(".json") or not file.is_file() or file.stat().st_size > READ_NOW:
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise SettingsError(f"{place}: {file} is not valid JSON ({reason}); {SAVE_AGAIN}") from None
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise SettingsError(f"{place}: {file} holds a {kind}, expected a mapping; {SAVE_AGAIN}")
        if name == "tokenizer.json" and not isinstance(content.get("model"), dict):
            raise SettingsError(f"{place}: {file} holds no `model` of a tokenizer; {SAVE_AGAIN}")


def has_chat_template(folder: Path) -> bool:
    """Whether a tokenizer's folder may have a chat template: false where its files have no room for one."""
    if any(folder.glob("chat_template*")) or any(folder.glob("*chat_templates")):
        return True
    file = folder / "tokenizer_config.json"
    if not file.is_file():  # what transformers makes of other files is known when it has
        return True
    stat = file.stat()
    return _names_template(str(file), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _names_template(path: str, size: int, mtime_ns: int) -> bool:
    """Size and time of change are part of the key, so an edited file is read again."""
    return "chat_template" in Path(path).read_text(encoding="utf-8", errors="replace")


SAVE_AGAIN = "save the tokenizer again with save_pretrained"


def load_tokenizer(ref: TokenizerRef, place: str = "--tokenizer", *, trust_remote_code: bool = False) -> Any:
    """The transformers tokenizer. Raises SettingsError when it is neither here nor reachable, or is none.

    `trust_remote_code`: the Python files of the tokenizer may run. They are never asked for at the terminal.
    """
    from transformers import AutoTokenizer

    where = f"{place}: the tokenizer of {ref.path}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(ref.path, revision=ref.revision, trust_remote_code=trust_remote_code)
        tokenizer("a")
    except BaseException as error:  # tokenizers raises bare Exceptions for what its files hold, and panics of Rust
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason and not trust_remote_code:
            raise SettingsError(
                f"{where} runs code of its own; read it, and allow it for this model with `trust_remote_code: true`"
            ) from None
        reason = reason[:300] or type(error).__name__
        remedy = "save it again with save_pretrained" if Path(ref.path).is_dir() else "check the name and the network"
        raise SettingsError(f"{where} cannot be loaded: {reason}; {remedy}") from None
    if not hasattr(tokenizer, "decode") or not len(tokenizer):
        raise SettingsError(f"{where} has no tokens; save it again with save_pretrained")
    return tokenizer


def called(tokenizer: Any) -> str:
    """The tokenizer as an error names it: of the several of a study, which."""
    name = one_line(str(getattr(tokenizer, "name_or_path", "") or ""))
    return f"the tokenizer {name}" if name else "the tokenizer"

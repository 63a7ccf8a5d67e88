"""The tokenizer's special tokens in a set: what stands between documents, and a BOS that must not be there twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib.sampling import Pool
from calib.settings import SettingsError
from calib.source import Source
from calib.spec import CalibrationSpec
from calib.tokenizer import called

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def separator_ids(spec: CalibrationSpec, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that stand between two documents."""
    if spec.separator == "none":
        return []
    if spec.separator in ("eos", "bos"):
        return [special_id(tokenizer, spec.separator, f"separator '{spec.separator}'")]
    return list(tokenizer([spec.separator], add_special_tokens=False)["input_ids"][0])


def refuse_second_bos(spec: CalibrationSpec, source: Source) -> None:
    """Refuse a BOS id beside that of documents which are known to begin with one before any of them is there."""
    if source.begins_with_bos and (setting := _bos_setting(spec)):
        raise SettingsError(_twice(setting, source))


def check_bos(spec: CalibrationSpec, source: Source, pool: Pool, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a second BOS id beside that of a chat template."""
    setting = _bos_setting(spec)
    if setting and (pool.tokens[pool.offsets[:-1]] == special_id(tokenizer, "bos", setting)).any():
        raise SettingsError(_twice(setting, source))


def _bos_setting(spec: CalibrationSpec) -> str:
    """The setting that puts BOS before documents; empty without one."""
    given = {
        "add_bos": spec.add_bos and spec.first_token == "bos",
        "document_bos": spec.document_bos,
        "separator": spec.separator == "bos" and spec.sampling != "long_documents",  # whose windows have no separator
    }
    return next((name for name, puts in given.items() if puts), "")


def _twice(setting: str, source: Source) -> str:
    return f"{setting}: the documents of source '{source.label}' begin with the BOS id already; leave {setting} out"


def special_id(tokenizer: PreTrainedTokenizerBase, name: str, setting: str) -> int:
    """The id of `bos` or `eos`, which the `setting` asks for. Raises SettingsError when the tokenizer has none."""
    value = getattr(tokenizer, f"{name}_token_id", None)
    if value is None:
        raise SettingsError(f"{setting}: {called(tokenizer)} has no {name.upper()} token; choose another setting")
    return int(value)

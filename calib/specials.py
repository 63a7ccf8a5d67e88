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


def check_bos(spec: CalibrationSpec, source: Source, pool: Pool, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a second BOS id beside that of a chat template."""
    given = {
        "add_bos": spec.add_bos and spec.first_token == "bos",
        "document_bos": spec.document_bos,
        "separator": spec.separator == "bos" and spec.sampling != "long_documents",  # whose windows have no separator
    }
    setting = next((name for name, twice in given.items() if twice), "")
    if setting and (pool.tokens[pool.offsets[:-1]] == special_id(tokenizer, "bos", setting)).any():
        raise SettingsError(
            f"{setting}: the documents of source '{source.label}' begin with the BOS id already; leave {setting} out"
        )


def special_id(tokenizer: PreTrainedTokenizerBase, name: str, setting: str) -> int:
    """The id of `bos` or `eos`, which the `setting` asks for. Raises SettingsError when the tokenizer has none."""
    value = getattr(tokenizer, f"{name}_token_id", None)
    if value is None:
        raise SettingsError(f"{setting}: {called(tokenizer)} has no {name.upper()} token; choose another setting")
    return int(value)

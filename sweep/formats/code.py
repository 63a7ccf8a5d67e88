"""The Python files of a model that brings its own, which a folder needs beside its weights.

config.json names them in `auto_map`: `modeling_mine.MineForCausalLM` stands beside it, `org/name--modeling_mine...` is
fetched from the hub by whoever loads the model, and needs no copy. The hard case is a file that imports another one,
which nothing lists: all Python files of the folder go along.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.formats.format import FormatError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ON_HUB = "--"  # in front of it stands the repository


def find_code(config: PretrainedConfig) -> Path | None:
    """The folder with the code that `config` names; None when it names none. Raises FormatError when it is gone."""
    modules = {name.partition(".")[0] for name in _names(getattr(config, "auto_map", None)) if ON_HUB not in name}
    if not modules:
        return None
    folder = Path(getattr(config, "_name_or_path", "") or "")
    missing = sorted(f"{module}.py" for module in modules if not (folder / f"{module}.py").is_file())
    if missing:
        raise FormatError(
            f"--out: the model runs code of its own, and {', '.join(missing)} is not in {folder or 'its folder'}; load "
            "it from a folder that has its Python files"
        )
    return folder


def copy_code(config: PretrainedConfig, out: Path) -> None:
    """Copy all Python files of the model's folder to `out`, where it runs code of its own."""
    folder = find_code(config)
    for file in () if folder is None else sorted(folder.rglob("*.py")):
        target = out / file.relative_to(folder or file.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _names(auto_map: Any) -> Iterator[str]:
    """Every class that `auto_map` names; a tokenizer has two, or one and None."""
    for value in auto_map.values() if isinstance(auto_map, dict) else ():
        yield from (name for name in (value if isinstance(value, list | tuple) else [value]) if isinstance(name, str))

"""All formats by name. A format is added by its file and one line here."""

from __future__ import annotations

from calib.settings import SettingsError
from sweep.formats.awq import AWQFormat
from sweep.formats.compressed_tensors import CompressedTensors
from sweep.formats.format import Format
from sweep.formats.gptq import GPTQFormat

DENSE = "dense"  # weights as they are: pruned models, and what no packed format holds
PACKED: dict[str, Format] = {kind.name: kind for kind in (CompressedTensors(), GPTQFormat(), AWQFormat())}
NAMES = (*PACKED, DENSE)


def find_format(name: str) -> Format | None:
    """The packed format of this name, None for `dense`. Raises SettingsError for an unknown name."""
    if name not in NAMES:
        raise SettingsError(f"--format: unknown format {name!r}; expected one of {', '.join(NAMES)}")
    return PACKED.get(name)

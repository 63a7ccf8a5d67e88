"""Under which licence a shipped model and its calibration text stand, as far as their files say so.

A model's licence is the line `license` at the head of its README.md, as on the hub, or what a GGUF file says of itself;
the models that ship with the project are under its own. Sources say the licence of their text where they know it; other
text is the user's to look up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from calib.settings import SettingsError
from calib.source import Source, SourceSettings
from calib.yamltext import read_yaml
from sweep.checkpoints.gguf_file import read_gguf
from sweep.models import MODELS, ModelRef, cached_snapshot

BUNDLED = "apache-2.0"  # of the models in sweep/reference/models
FENCE = "---"
GGUF_LICENCE = "general.license"  # of the metadata


def model_licence(ref: ModelRef) -> str | None:
    """The identifier of the model's licence, such as `apache-2.0`; None when its files do not say."""
    if ref.gguf:
        found = read_gguf(Path(ref.path), f"models: {ref.name}").fields.get(GGUF_LICENCE)
        return found if isinstance(found, str) and found else None
    folder = cached_snapshot(ref.path, ref.revision or "main") if ref.on_hub else Path(ref.path)
    if folder is None:
        return None
    if folder.resolve().parent == MODELS.resolve():
        return BUNDLED
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        header = read_yaml(_front_matter(card.read_text(encoding="utf-8", errors="replace")))
    except SettingsError:  # a card of another kind
        return None
    found = header.get("license") if isinstance(header, Mapping) else None
    return found if isinstance(found, str) else None


def text_licences(source: Source | None) -> list[str]:
    """The licences of a source's text, sorted; empty where the source does not know all of them."""
    found = [] if source is None else source.licences()
    return [] if SourceSettings.licence in found else found


def _front_matter(text: str) -> str:
    """The YAML between the first two lines `---`; nothing where the text does not begin with one."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != FENCE:
        return ""
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == FENCE), 0)
    return "\n".join(lines[1:end])

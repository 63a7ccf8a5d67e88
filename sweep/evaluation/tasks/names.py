"""Names of lm-eval's tasks, groups and tags: who defines one, told from the text of files alone.

lm-eval's full index parses fourteen thousand files and takes ten seconds in every process. Names are therefore looked
up in the text of the files, without importing lm-eval, and only the folders that hold what was asked for are indexed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from sweep.evaluation.tasks.lmeval import tasks_folder

REFERENCE_TASKS = Path(__file__).resolve().parents[2] / "reference" / "tasks"
LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # a `dataset_path` that reads files
_KEY = re.compile(r"""^["']?(task|group|tag)["']?[ \t]*:[ \t]*(.*)$""", re.MULTILINE)
_ITEM = re.compile(r"\n[ \t]*-[ \t]*([^\n:]+)(?=\n|$)")


def local_folders(task_path: str | None) -> list[Path]:
    """The folders with tasks that are ours or the user's, in lm-eval's order (a later one wins)."""
    folders = [REFERENCE_TASKS] if REFERENCE_TASKS.is_dir() else []
    return folders + ([Path(task_path)] if task_path is not None else [])


def trusted(file: Path | None) -> bool:
    """Whether a task's file is lm-eval's own or one of ours, which are taken as they are."""
    if file is None:
        return False
    return any(file.resolve().is_relative_to(folder.resolve()) for folder in (tasks_folder(), REFERENCE_TASKS))


def builtin_folders(name: str) -> set[Path]:
    """lm-eval's own folders that define `name`; empty when none does."""
    root = tasks_folder()
    parts = re.split(r"[_\-]", name)
    for length in range(len(parts), 0, -1):  # most tasks live in a folder of their name or its beginning
        beginning = "_".join(parts[:length])
        if not re.fullmatch(r"\w+", beginning) or not (root / beginning).is_dir():
            continue
        if name in _names_in(root / beginning, kinds=("task", "group")):
            return {root / beginning}
    return set(all_builtin().get(name, ()))


@lru_cache(maxsize=1)
def all_builtin() -> dict[str, set[Path]]:
    """Every name of lm-eval and the folders that define it; reads all files once (about a second)."""
    found: dict[str, set[Path]] = {}
    for folder in sorted(item for item in tasks_folder().iterdir() if item.is_dir()):
        for name in _names_in(folder):
            found.setdefault(name, set()).add(folder)
    return found


def names_of(text: str, kinds: Sequence[str] = ("task", "group", "tag")) -> Iterator[str]:
    """The names that one YAML file defines, read without parsing it."""
    keys = {match.group(1): match for match in _KEY.finditer(text)}
    for kind, match in keys.items():
        if kind not in kinds or (kind == "task" and "group" in keys):  # then `task:` lists a group's members
            continue
        value = match.group(2).split(" #")[0].strip()
        if value:
            yield from (part.strip().strip("'\"") for part in value.strip("[]").split(","))
            continue
        position = match.end()
        while item := _ITEM.match(text, position):
            yield item.group(1).split(" #")[0].strip().strip("'\"")
            position = item.end()


def closest(name: str, known: Iterable[str], otherwise: str) -> str:
    """`, did you mean 'x'?` or else `otherwise`: a list of thousands helps nobody."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else otherwise


def _names_in(folder: Path, kinds: Sequence[str] = ("task", "group", "tag")) -> set[str]:
    """Names of tasks, groups and tags in the YAML text under `folder` (templates have no suffix, but may hold tags)."""
    names: set[str] = set()
    for file in folder.rglob("*"):
        if file.suffix == ".yaml" or (file.suffix == "" and file.name.endswith("_yaml")):
            names.update(names_of(text_of(file), kinds))
    return names


def text_of(file: Path) -> str:
    """The file's text as far as it can be read; nothing for a folder, a dead link, or a file of someone else."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

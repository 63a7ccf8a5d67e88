"""Which files decide what a task asks, found without importing lm-eval: the tasks' part of a trial's identity.

Of a folder of tasks only what the named tasks use counts: their YAML files with includes and members of groups, the
local data they read, and the Python files behind `!function`. Another file in the folder changes no id. The hard case
is data that only code names, so text in the YAML or in such a Python file that is the name of a file beside it counts
as a use of that file. lm-eval's own tasks count by the whole folder that defines them, which only a release changes.
"""

from __future__ import annotations

import ast
import glob
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from calib.files import GLOB_CHARACTERS, content_hash
from calib.settings import SettingsError, identity
from sweep.evaluation.tasks import absolute_files, builtin_folders, local_folders, names_of

DATA_KEYS = ("dataset_path", "dataset_kwargs")  # their texts may name folders, patterns and files elsewhere


def task_hashes(names: Sequence[str], task_path: str | None) -> list[str]:
    """Hashes of the files that define the tasks `names`, sorted. Raises SettingsError for a task file that is broken.

    lm-eval's own folders have one hash each, all files of ours and of the folder `task_path` have one together.
    """
    if not names:
        return []
    index = _Index.read(local_folders(task_path))
    used: set[tuple[str, str]] = set()
    folders: set[Path] = set()
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in index.broken:
            raise SettingsError(f"evaluation.tasks: '{name}' stands in a file that is broken: {index.broken[name]}")
        if name not in index.files and name not in index.tags:
            folders |= builtin_folders(name)
            continue
        todo += index.tags.get(name, ())
        if name in index.files:
            config, files = _read(index.files[name])
            todo += _members(config, index)
            used.update(_uses(index, files))
    local = [identity(sorted(used))] if used else []
    return sorted([*(hash_files(folder) for folder in folders), *local])


def hash_files(folder: Path) -> str:
    """16 hex digits over names and content of all files under a folder, wherever it lies."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


@dataclass
class _Index:
    """What the YAML files of some folders define; a later folder wins, as in lm-eval."""

    roots: list[Path]
    files: dict[str, Path] = field(default_factory=dict)  # of tasks and groups
    tags: dict[str, list[str]] = field(default_factory=dict)  # the tasks that carry one
    broken: dict[str, str] = field(default_factory=dict)  # what is wrong with the file that seems to define a name

    @classmethod
    def read(cls, roots: Sequence[Path]) -> _Index:
        index = cls(list(roots))
        for root in roots:
            found: dict[str, Path] = {}
            for file in sorted(root.rglob("*.yaml"), key=Path.as_posix):
                if not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts):
                    index._add(file, found)
            index.files.update(found)
        for name in set(index.broken) & set(index.files):
            del index.broken[name]
        return index

    def _add(self, file: Path, found: dict[str, Path]) -> None:
        try:
            config, _ = _read(file)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = f"{file}: {' '.join(str(error).split())}"
            self.broken.update(dict.fromkeys(names_of(file.read_text(errors="replace")), reason))
            return
        name = config.get("group") or config.get("task")
        if not isinstance(name, str) or name in found:
            return
        found[name] = file
        for tag in _listed(config.get("tag")) if "group" not in config else ():
            self.tags.setdefault(tag, []).append(name)

    def place(self, file: Path) -> str:
        """The file's name within its folder of tasks, which is the same wherever that folder lies."""
        inside = [file.relative_to(root) for root in self.roots if file.is_relative_to(root)]
        return inside[-1].as_posix() if inside else file.name


@dataclass(frozen=True)
class _Function:
    """`!function module.name` in a YAML file."""

    module: str


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML with `!function` unresolved."""


_Loader.add_constructor("!function", lambda loader, node: _Function(str(node.value).rpartition(".")[0]))


def _read(file: Path) -> tuple[dict[str, Any], dict[Path, Any]]:
    """A YAML file as lm-eval reads it, with its includes merged; and the content of each file that takes part."""
    parts: dict[Path, Any] = {}
    return _merged(file, parts), parts


def _merged(file: Path, parts: dict[Path, Any]) -> dict[str, Any]:
    own = yaml.load(file.read_bytes(), _Loader)
    if not isinstance(own, dict):
        raise yaml.YAMLError("not a mapping")
    if file in parts:
        raise yaml.YAMLError(f"{file} includes itself")
    parts[file] = own
    merged: dict[str, Any] = {}
    for include in _listed(own.get("include")):
        merged.update(_merged(file.parent / include, parts))
    return {**merged, **{key: value for key, value in own.items() if key != "include"}}


def _members(config: Mapping[str, Any], index: _Index) -> Iterator[str]:
    """Names of tasks and groups that a group refers to, also in groups that are defined in place."""
    members = config.get("task")
    for item in members if isinstance(members, list) else ():
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            named = [item[key] for key in ("task", "group") if isinstance(item.get(key), str)]
            yield from (name for name in named if "dataset_path" not in item or name in index.files)
            yield from _members(item, index)


def _uses(index: _Index, parts: Mapping[Path, Any]) -> Iterator[tuple[str, str]]:
    """(name, content hash) of the YAML files `parts` and of everything that they use.

    Text of an included file is looked up beside it and beside the first of them, the task's own file.
    """
    task_folder = next(iter(parts)).parent
    for file, config in parts.items():
        place = index.place(file)
        yield place, content_hash([file])
        for folder in dict.fromkeys((file.parent, task_folder)):
            for reference, used in (*_named(config, folder), *_data(config, folder)):
                yield f"{place} > {reference}", content_hash([used])
        for module in {item.module for item in _leaves(config) if isinstance(item, _Function)}:
            for reference, used in _python(file.parent, f"{module.replace('.', '/')}.py", set()):
                yield f"{place} > {reference}", content_hash([used])


def _named(config: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files beside the YAML whose names stand anywhere in it."""
    for text in _texts(config):
        if _is_file(folder, text):
            yield text, folder / text


def _data(config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """Files, also those in folders and behind patterns, that the data set is read from."""
    for text in _texts([part.get(key) for part in _mappings(config) for key in DATA_KEYS]):
        if "://" in text or "\0" in text:
            continue
        path = Path(absolute_files(text, folder))
        if path.is_file():
            yield text, path
        elif path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != "."):
                yield f"{text}/{file.relative_to(path).as_posix()}", file
        elif GLOB_CHARACTERS & set(text):
            for match in sorted(glob.glob(str(path), recursive=True)):
                if Path(match).is_file():
                    yield f"{text}: {Path(match).name}", Path(match)


def _python(folder: Path, name: str, seen: set[Path]) -> Iterator[tuple[str, Path]]:
    """A Python file, the modules beside it that it imports, and the files beside it that it names."""
    file = folder / name
    if file in seen or not _is_file(folder, name):  # not beside the YAML: an installed package
        return
    seen.add(file)
    yield name, file
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except SyntaxError as error:
        raise SettingsError(f"evaluation.tasks: {file}, line {error.lineno}: {error.msg}") from None
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_file(file.parent, node.value):
            yield f"{name} > {node.value}", file.parent / node.value
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for module in modules:
            yield from _python(file.parent, f"{module.replace('.', '/')}.py", seen)


def _is_file(folder: Path, text: str) -> bool:
    if not text or len(text) > 255 or "\n" in text or "\0" in text:
        return False
    try:
        return (folder / text).is_file()
    except OSError:  # a name that is too long
        return False


def _texts(value: Any) -> Iterator[str]:
    return (leaf for leaf in _leaves(value) if isinstance(leaf, str))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _mappings(config: Any) -> Iterator[Mapping[str, Any]]:
    """A task's configuration, and those of tasks defined in place within a group."""
    if isinstance(config, Mapping):
        yield config
        members = config.get("task")
        for item in members if isinstance(members, list) else ():
            yield from _mappings(item)


def _listed(value: Any) -> Iterable[str]:
    return [] if value is None else [value] if isinstance(value, str) else value

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.files import GLOB_CHARACTERS, absolute_files, content_hash
from calib.settings import SettingsError, identity
from sweep.evaluation.tasks.names import builtin_folders, local_folders
from sweep.evaluation.tasks.yamlfiles import Function, Index, leaves, mappings

DATA_KEYS = ("dataset_path", "dataset_kwargs")  # their texts may name folders, patterns and files elsewhere


def task_hashes(names: Sequence[str], task_path: str | None) -> list[str]:
    """Hashes of the files that define the tasks `names`, sorted. Raises SettingsError for a task file that is broken.

    lm-eval's own folders have one hash each, all files of ours and of the folder `task_path` have one together.
    """
    if not names:
        return []
    index = Index.read(local_folders(task_path))
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
        task = index.get(name)
        if task is None and name not in index.tags:
            folders |= builtin_folders(name)
            continue
        todo += index.tags.get(name, ())
        if task is not None:
            todo += index.members(task.config)
            used.update(_uses(index, task.parts))
    local = [identity(sorted(used))] if used else []
    return sorted([*(hash_files(folder) for folder in folders), *local])


def hash_files(folder: Path) -> str:
    """16 hex digits over names and content of all files under a folder, wherever it lies."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


def _uses(index: Index, parts: Mapping[Path, Any]) -> Iterator[tuple[str, str]]:
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
        for module in {item.file for item in leaves(config) if isinstance(item, Function)}:
            for reference, used in code_files(file.parent, module):
                yield f"{place} > {reference}", content_hash([used])


def _named(config: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files beside the YAML whose names stand anywhere in it."""
    for text in _texts(config):
        if _is_file(folder, text):
            yield text, folder / text


def _data(config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """Files, also those in folders and behind patterns, that the data set is read from."""
    for text in _texts([part.get(key) for part in mappings(config) for key in DATA_KEYS]):
        if "://" in text or "\0" in text or len(text) > 1000:
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


def code_files(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """A Python file in `folder`, the modules beside it that it imports, and the files beside it that it names.

    Nothing when there is none: the module is one of an installed package. Raises SettingsError for a syntax error.
    """
    return _python(folder, name, set())


def _python(folder: Path, name: str, seen: set[Path]) -> Iterator[tuple[str, Path]]:
    file = folder / name
    if file in seen or not _is_file(folder, name):  # not beside the YAML: an installed package
        return
    seen.add(file)
    yield name, file
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_file(file.parent, node.value):
            yield f"{name} > {node.value}", file.parent / node.value
        for module in _imported(node):
            yield from _python(file.parent, f"{module.replace('.', '/')}.py", seen)
            yield from _python(file.parent, f"{module.replace('.', '/')}/__init__.py", seen)


def _imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports; `from a import b` may mean the module `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names]
        return [*([node.module] if node.module else []), *names]
    return []


def parsed(file: Path) -> ast.Module:
    """The syntax tree of a Python file. Raises SettingsError that names the line when it has none."""
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SettingsError(f"evaluation.tasks: {file}{line}: {reason}; this is no Python that can be run") from None


def _is_file(folder: Path, text: str) -> bool:
    if not text or len(text) > 255 or "\n" in text or "\0" in text:
        return False
    try:
        return (folder / text).is_file()
    except (OSError, ValueError):  # a name that is too long, or holds half a surrogate pair
        return False


def _texts(value: Any) -> Iterator[str]:
    return (leaf for leaf in leaves(value) if isinstance(leaf, str))

"""Task files as lm-eval reads them, but without lm-eval and without running anything.

A task is a YAML file merged with the files that it includes; a group lists members, by name or defined in place; a tag
is carried by its members. `!function module.name` stays a reference. Words mean here what they mean to lm-eval (`010`
is 8 and `2:4` is 124), other than in a study, where both are text (`calib/yamltext.py`): that is why there are two
readers. The hard case is a file that is made to hurt: a few lines of aliases can mean billions of values, so a document
is measured before it is built.

Words of this room: *trusted* files are lm-eval's own and ours; the *parts* of a task are the files that it is merged
from; *leaves* are the values that are no lists and no mappings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from sweep.evaluation.tasks.names import names_of, text_of, trusted

MOST_VALUES = 1_000_000  # in one file with its aliases written out; lm-eval's largest has a few thousand


class TaskFileError(ValueError):
    """A task's file cannot be read as one. The message names the file, and the line where there is one."""


@dataclass(frozen=True)
class Function:
    """`!function module.name` in a YAML file."""

    text: str  # as it stands there

    @property
    def module(self) -> str:
        return self.text.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.text.rpartition(".")[2]

    @property
    def file(self) -> str:
        """Where the module is looked for first, relative to the folder of the YAML file."""
        return f"{self.module.replace('.', '/')}.py"


@dataclass(frozen=True)
class TaskFile:
    """A task or group: `config` merged, and the content of each file that takes part, its own file first."""

    name: str
    file: Path
    config: dict[str, Any]
    parts: dict[Path, dict[str, Any]]

    @property
    def is_group(self) -> bool:
        return "group" in self.config and "class" not in self.config


@dataclass
class Index:
    """What the YAML files of some folders define; a later folder wins, as in lm-eval."""

    roots: list[Path]
    files: dict[str, Path] = field(default_factory=dict)  # of tasks and groups
    tags: dict[str, list[str]] = field(default_factory=dict)  # the tasks that carry one
    broken: dict[str, str] = field(default_factory=dict)  # what is wrong with the file that seems to define a name
    twice: dict[str, Path] = field(default_factory=dict)  # a second file of the same folder that defines a name
    unreadable: dict[Path, str] = field(default_factory=dict)  # what is wrong with any file

    @classmethod
    def read(cls, roots: Sequence[Path]) -> Index:
        index = cls(list(roots))
        for root in roots:
            found: dict[str, Path] = {}
            for file in sorted(root.rglob("*.yaml"), key=Path.as_posix):
                if not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts) and not file.is_dir():
                    index._add(file, found)
            index.files.update(found)
        for name in set(index.broken) & set(index.files):
            del index.broken[name]
        return index

    def _add(self, file: Path, found: dict[str, Path]) -> None:
        try:
            config, _ = read_task(file)
            name = _name(config, file)
        except TaskFileError as error:
            self.unreadable[file] = str(error)
            self.broken.update(dict.fromkeys(names_of(text_of(file)), str(error)))
            return
        if name is None:
            return
        if name in found:
            self.twice.setdefault(name, file)
            return
        self.twice.pop(name, None)  # what an earlier folder says twice is not asked for
        found[name] = file
        for tag in listed(config.get("tag")) if "group" not in config else ():
            if isinstance(tag, str):
                self.tags.setdefault(tag, []).append(name)

    def get(self, name: str) -> TaskFile | None:
        """The task or group `name` of these folders; None when they have none."""
        if name not in self.files:
            return None
        return TaskFile(name, self.files[name], *read_task(self.files[name]))

    def place(self, file: Path) -> str:
        """The file's name within its folder of tasks, which is the same wherever that folder lies."""
        inside = [file.relative_to(root) for root in self.roots if file.is_relative_to(root)]
        return inside[-1].as_posix() if inside else file.name

    def members(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Names of tasks and groups that a group refers to, also in groups that are defined in place."""
        members = config.get("task")
        for item in members if isinstance(members, list) else ():
            if isinstance(item, str):
                yield item
            elif isinstance(item, Mapping):
                named = [item[key] for key in ("task", "group") if isinstance(item.get(key), str)]
                yield from (name for name in named if "dataset_path" not in item or name in self.files)
                yield from self.members(item)


def read_task(file: Path) -> tuple[dict[str, Any], dict[Path, Any]]:
    """A YAML file with its includes merged, and the content of each file that takes part. Raises TaskFileError."""
    parts: dict[Path, Any] = {}
    return _merged(file, parts, set()), parts


def _merged(file: Path, parts: dict[Path, Any], seen: set[Path]) -> dict[str, Any]:
    if file.resolve() in seen:
        raise TaskFileError(f"{file}: includes itself; leave that `include` out")
    seen.add(file.resolve())
    own = _load(file)
    parts[file] = own
    merged: dict[str, Any] = {}
    for include in listed(own.get("include")):
        if not isinstance(include, str):
            raise TaskFileError(f"{file}: include: expected the name of a file, got {include!r}")
        if not (file.parent / include).is_file():
            raise TaskFileError(f"{file}: include: no file {include!r} beside it; correct the name")
        merged.update(_merged(file.parent / include, parts, seen))
    return {**merged, **{key: value for key, value in own.items() if key != "include"}}


def _load(file: Path) -> dict[str, Any]:
    try:
        found = file.stat()
    except (OSError, ValueError) as error:
        raise TaskFileError(f"{file}: cannot be read: {_one_line(error)}") from None
    return _parsed(file, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=20_000)
def _parsed(file: Path, _changed: int, _size: int) -> dict[str, Any]:
    """The content of a file, parsed once for as long as it stays the same: checks, ids and loading all read it."""
    loader = _Loader if trusted(file) else _StrictLoader
    try:
        own = yaml.load(file.read_bytes(), loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise TaskFileError(f"{file}{line}: {_one_line(error.problem or error.context)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, OverflowError) as error:  # a date that is none, a number
        raise TaskFileError(f"{file}: not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise TaskFileError(f"{file}: nested too deeply; write it flatter") from None
    except OSError as error:
        raise TaskFileError(f"{file}: cannot be read: {error.strerror}") from None
    if not isinstance(own, dict):
        raise TaskFileError(f"{file}: expected a mapping of settings (`task: name`, ...), got {_kind(own)}")
    return own


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "nothing" if value is None else f"{str(value)[:60]!r}"


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:300]


def _name(config: Mapping[str, Any], file: Path) -> str | None:
    """The name of the task or group that a file defines; None when it is there to be included."""
    name = config.get("group") or config.get("task")
    if name is None or isinstance(name, list):
        return None
    if not isinstance(name, str):
        raise TaskFileError(
            f"{file}: {'group' if config.get('group') else 'task'}: {name!r} is no text; quote the name"
        )
    if not name.isprintable() or name != name.strip():
        raise TaskFileError(f"{file}: the name {name!r} holds spaces or signs that cannot be shown; choose another")
    return name


def leaves(value: Any) -> Iterator[Any]:
    """All values in nested mappings and lists."""
    return (leaf for _, leaf in leaves_with_places(value, ""))


def leaves_with_places(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """(`metric_list[0].metric`, value) for every value in nested mappings and lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves_with_places(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves_with_places(inner, f"{place}[{number}]")
    else:
        yield place, value


def mappings(config: Any) -> Iterator[Mapping[str, Any]]:
    """A task's configuration, and those of tasks defined in place within a group."""
    if isinstance(config, Mapping):
        yield config
        members = config.get("task")
        for item in members if isinstance(members, list) else ():
            yield from mappings(item)


def listed(value: Any) -> Iterable[Any]:
    return [] if value is None else value if isinstance(value, list | tuple) else [value]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML with `!function` unresolved, measured before it is built."""

    def construct_document(self, node: yaml.Node) -> Any:
        _count(node, {}, set())
        return super().construct_document(node)


class _StrictLoader(_Loader):
    """The same, where a key that is given twice is an error: lm-eval silently takes the last."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> Any:
        keys = [key.value for key, _ in getattr(node, "value", ()) if key.tag == "tag:yaml.org,2002:str"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _count(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """Values of a node with its aliases written out. Raises YAMLError when they are too many, or without end."""
    if id(node) in open_nodes:
        raise yaml.composer.ComposerError(None, None, "an alias stands within its own anchor", node.start_mark)
    if id(node) not in known:
        open_nodes.add(id(node))
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_count(part, known, open_nodes) for part in parts)
        open_nodes.discard(id(node))
        if known[id(node)] > MOST_VALUES:
            raise yaml.composer.ComposerError(
                None, None, f"more than {MOST_VALUES:,} values with its aliases written out", node.start_mark
            )
    return known[id(node)]


_Loader.add_constructor("!function", lambda loader, node: Function(str(node.value)))

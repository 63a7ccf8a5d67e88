"""What can be told to be wrong with tasks from the text of their files, before anything is loaded.

Every task, group and tag that a study names is followed to its members and read as lm-eval would read it: its keys,
templates and references to code. Tasks of lm-eval's own and ours are taken as they are. Code beside a task file is
looked at, never run; whether it may run later is the study's to say.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from calib.settings import SettingsError
from sweep.evaluation.tasks import lmeval
from sweep.evaluation.tasks.files import parsed
from sweep.evaluation.tasks.keys import check_group, check_task
from sweep.evaluation.tasks.names import all_builtin, builtin_folders, closest, local_folders, trusted
from sweep.evaluation.tasks.presets import PRESETS, expand_tasks
from sweep.evaluation.tasks.yamlfiles import Function, Index, TaskFile, leaves_with_places, listed

LIST_THEM = "; `lm_eval ls tasks` lists them, `task_path` adds your own"
MEAN = "mean"  # the task of a mean over tasks or texts, in every table of the analysis
MOST_GROUPS = 50  # that hold one another; lm-eval's own are three deep
ALLOW = "`allow_code: true` in the study's `evaluation` lets it run; read it first"


def check_tasks(names: Sequence[str], task_path: str | None, path: str, *, allow_code: bool | None) -> set[str]:
    """The tasks `names` and the members of those that are groups or tags, as far as files here tell.

    Raises SettingsError for the first thing that is wrong with one of them; reads file text only. `path` is where the
    names stand. Code of a task file that is not trusted is refused when `allow_code` is False;
    None is a caller of this package, who runs Python anyway.
    """
    index = Index.read(local_folders(task_path))
    check = _Check(index, task_path, allow_code, path)
    for number, name in enumerate(names):
        for task in expand_tasks([name]):
            check.follow(task, f"{path}[{number}]", ())
    return check.done


def refuse_labels(labels: Sequence[str], tasks: Collection[str], path: str) -> None:
    """Raise SettingsError for a held-out text that is called like one of the tasks, whose rows would have its keys, or
    like the mean."""
    for number, label in enumerate(labels):
        taken = "tables call the mean over texts so" if label == MEAN else "this is also the name of a task"
        if label == MEAN or label in tasks:
            raise SettingsError(f"{path}.heldout[{number}]: '{label}': {taken}; give the text another `label`")


@dataclass
class _Check:
    index: Index
    task_path: str | None
    allow_code: bool | None
    path: str

    def __post_init__(self) -> None:
        self.done: set[str] = set()

    def follow(self, name: str, place: str, above: tuple[str, ...]) -> None:
        """Check `name` and everything that it leads to; `above` are the groups that lead to it."""
        index = self.index
        if name in above:
            circle = " > ".join([*above[above.index(name) :], name])
            raise SettingsError(f"{self.path}: the group '{name}' holds itself ({circle}); leave it out of one of them")
        if len(above) > MOST_GROUPS:
            raise SettingsError(f"{self.path}: more than {MOST_GROUPS} groups hold one another, from '{above[0]}' on")
        if name in self.done:
            return
        if name in index.broken:
            raise SettingsError(f"{self.path}: '{name}' stands in a file that is broken: {index.broken[name]}")
        task = index.get(name)
        if task is None and name not in index.tags and not builtin_folders(name):
            self._unknown(name, place)
        if name in index.twice:
            raise SettingsError(
                f"{self.path}: '{name}' is defined twice, in {index.files[name]} and in {index.twice[name]}; "
                "rename one of them"
            )
        for member in index.tags.get(name, ()):
            self.follow(member, place, above)
        if task is not None:
            self._look(task)
            for member in _references(task.config, index):
                self.follow(member, f"{self.path}: group '{name}' ({task.file})", (*above, name))
        self.done.add(name)

    def _unknown(self, name: str, place: str) -> NoReturn:
        for file, reason in self.index.unreadable.items():
            if name in (file.stem, file.name):
                raise SettingsError(f"{place}: unknown task '{name}': {reason}")
        known = set(PRESETS) | set(self.index.files) | set(self.index.tags) | set(all_builtin())
        raise SettingsError(f"{place}: unknown task '{name}'{closest(name, known, LIST_THEM)}")

    def _look(self, task: TaskFile) -> None:
        if trusted(task.file):
            return
        self._look_at_code(task)
        called = f"{self.path}: {'group' if task.is_group else 'task'} '{task.name}'"
        if task.name == MEAN:
            raise SettingsError(f"{called} ({task.file}): tables call the mean over tasks so; give it another name")
        (check_group if task.is_group else check_task)(task, called)

    def _look_at_code(self, task: TaskFile) -> None:
        """Everything in the task's files that runs, or would run, code."""
        called = f"{self.path}: task '{task.name}'"
        for file, own in task.parts.items():
            if trusted(file):
                continue
            for key, value in leaves_with_places(own, ""):
                if isinstance(value, Function):
                    where = f"{called} ({file}): {key}: `!function {value.text}`"
                    check_function(value, file.parent, where)
                    self._refuse(where, "runs Python code")
            for key, reason in _other_code(own, task):
                self._refuse(f"{called} ({file}): {key}", reason)

    def _refuse(self, where: str, reason: str) -> None:
        if self.allow_code is False:
            raise SettingsError(f"{where} {reason}, and the study does not allow it; {ALLOW}")


def _references(config: dict[str, Any], index: Index) -> Iterator[str]:
    """Members by name, and those of groups that are defined in place; not what is itself defined in place."""
    for item in config.get("task") if isinstance(config.get("task"), list) else ():  # type: ignore[union-attr]
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            in_place = "dataset_path" in item or isinstance(item.get("task"), list)
            for key in ("task", "group"):
                named = item.get(key)
                if isinstance(named, str) and (not in_place or named in index.files):
                    yield named
            yield from _references(item, index)


def _other_code(own: dict[str, Any], task: TaskFile) -> Iterator[tuple[str, str]]:
    """(key, what it does) for the ways to code that are no `!function`, in one of the task's files.

    A task that scores itself loads none of the metrics that it names. A metric that lm-eval does not have is looked
    for in the package `evaluate`, whether `hf_evaluate` is said or not; in a task's own file its name is refused.
    """
    scores_itself = task.config.get("process_results") is not None
    for config, place in _configurations(own, ""):
        arguments = config.get("dataset_kwargs")
        if isinstance(arguments, dict) and arguments.get("trust_remote_code"):
            yield f"{place}dataset_kwargs.trust_remote_code", "asks for the data set's own code"
        if config.get("dataset_path") == "pandas":
            yield f"{place}dataset_path", "reads pickles, which run code when they are opened"
        for number, entry in enumerate(listed(config.get("metric_list"))):
            if not isinstance(entry, dict) or scores_itself:
                continue
            unknown = task.is_group and entry.get("metric") not in lmeval.registered("metric")
            if entry.get("hf_evaluate") or (unknown and not isinstance(entry.get("metric"), Function)):
                program = f"downloads and runs the program {entry.get('metric')!r}"
                yield f"{place}metric_list[{number}].metric", program


def _configurations(config: dict[str, Any], place: str) -> Iterator[tuple[dict[str, Any], str]]:
    yield config, place
    members = config.get("task")
    for number, item in enumerate(members if isinstance(members, list) else ()):
        if isinstance(item, dict):
            yield from _configurations(item, f"{place}task[{number}].")


def check_function(function: Function, folder: Path, where: str) -> None:
    """Raise SettingsError when there is no such function beside a YAML file in `folder`, nor an installed module."""
    if not function.module or not all(part.isidentifier() for part in function.text.split(".")):
        raise SettingsError(f"{where}: expected `!function module.name`")
    file = folder / function.file
    if not file.is_file():
        top = function.module.partition(".")[0]
        if not _installed(top):
            raise SettingsError(f"{where}: no file {function.file} beside it, and no installed module '{top}'")
        return
    names = _defined(parsed(file))
    if names is not None and function.name not in names:
        raise SettingsError(f"{where}: {file} has no '{function.name}'{closest(function.name, names, '')}")


def _installed(name: str) -> bool:
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return True
    return any(finder.find_spec(name, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))


def _defined(tree: ast.Module) -> set[str] | None:
    """Names that a module may have; None when that cannot be told (`from x import *`, `globals()`, `__getattr__`)."""
    names: set[str] = set()
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what stands inside is no name of the module, save for `global`
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        todo += ast.iter_child_nodes(node)
    declared = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    unknown = "*" in names or "__getattr__" in names or {"globals", "vars", "setattr", "exec"} & called
    return None if unknown else names | declared

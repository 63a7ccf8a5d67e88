"""Finding and loading lm-eval tasks: by name, group, tag or preset, from lm-eval itself, ours, or a local folder.

lm-eval's full index parses fourteen thousand files and takes ten seconds in every process. Names are therefore looked
up in the text of the files first, without importing lm-eval, and only the folders that hold what was asked for are
indexed. The hard case is a group whose members live in another folder than the group: lm-eval would take an unknown
member for an inline task, so members are looked up as well until nothing is missing.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from sweep.evaluation.presets import PRESETS, expand_tasks, fewshot_of

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

    from sweep.evaluation.settings import EvaluationSettings

REFERENCE_TASKS = Path(__file__).parent.parent / "reference" / "tasks"
_KEY = re.compile(r"""^["']?(task|group|tag)["']?[ \t]*:[ \t]*(.*)$""", re.MULTILINE)
LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # a `dataset_path` that reads files
_ITEM = re.compile(r"\n[ \t]*-[ \t]*([^\n:]+)(?=\n|$)")


def missing_tasks(names: Sequence[str], task_path: str | None, path: str) -> None:
    """Raise SettingsError for the first name that no file defines; reads file text only."""
    local = local_names(task_path)
    for number, name in enumerate(names):
        for task in expand_tasks([name]):
            if task not in local and not builtin_folders(task):
                known = set(PRESETS) | local | set(_all_builtin())
                raise SettingsError(f"{path}[{number}]: unknown task '{task}'{_suggestion(task, known)}")


def local_folders(task_path: str | None) -> list[Path]:
    """The folders with tasks that are ours or the user's, in lm-eval's order (a later one wins)."""
    folders = [REFERENCE_TASKS] if REFERENCE_TASKS.is_dir() else []
    return folders + ([Path(task_path)] if task_path is not None else [])


def builtin_folders(name: str) -> set[Path]:
    """lm-eval's own folders that define `name`; empty when none does."""
    root = _builtin_root()
    parts = re.split(r"[_\-]", name)
    for length in range(len(parts), 0, -1):  # most tasks live in a folder of their name or its beginning
        folder = root / "_".join(parts[:length])
        if folder.is_dir() and name in _names_in(folder, kinds=("task", "group")):
            return {folder}
    return set(_all_builtin().get(name, ()))


def load_tasks(settings: EvaluationSettings, path: str = "evaluation") -> tuple[dict[str, Task], dict[str, Group]]:
    """lm-eval's task and group objects, with their data sets, few-shot settings and few-shot seeds in place.

    Raises SettingsError naming the task when it is unknown, its data cannot be had, or a split is missing.
    """
    if not settings.tasks:
        return {}, {}
    names = settings.task_names
    missing_tasks(settings.tasks, settings.task_path, f"{path}.tasks")
    manager = _manager(names, settings.task_path)
    tasks: dict[str, Task] = {}
    groups: dict[str, Group] = {}
    shots = fewshot_of(settings.tasks)
    for name in names:
        found_tasks, found_groups = _load_one(manager, name, f"{path}.tasks")
        for task_name, task in found_tasks.items():
            if task_name in tasks:
                raise SettingsError(f"{path}.tasks: '{task_name}' is asked for twice, the second time by '{name}'")
            tasks[task_name] = task
            _set_fewshot(task, shots.get(name, settings.num_fewshot), settings.fewshot_seed)
        groups.update(found_groups)
    return tasks, groups


def _load_one(manager: Any, name: str, path: str) -> tuple[dict[str, Task], dict[str, Group]]:
    from datasets.exceptions import DatasetsError

    try:
        loaded = manager.load([name])
    except SettingsError:
        raise
    except KeyError as error:
        raise SettingsError(
            f"{path}: {manager._factory.loading(name)} reads {error}, which its data set does not have (a split or a "
            "column); correct the task's file"
        ) from error
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:  # what datasets and the hub client raise
        remedy = "" if manager._factory.latest.get("dataset_path") in LOCAL_FORMATS else _remedy(error)
        raise SettingsError(
            f"{path}: {manager._factory.loading(name)} cannot be loaded: {_one_line(error)}{remedy}"
        ) from error
    return dict(loaded["tasks"]), dict(loaded.get("groups") or {})


LOCAL_COPY = "give a local copy in a task file under `task_path`, or leave the task out"


def _remedy(error: BaseException) -> str:
    """What to do about a data set that cannot be had, told from the whole chain of errors."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    text = " ".join(f"{type(link).__name__} {link}" for link in chain).lower()
    if "gated" in text or re.search(r"\b40[13]\b", text):
        return f"; the data set is gated: accept its terms on the hub and log in (`hf auth login`), {LOCAL_COPY}"
    if "manual" in text or "scripts are no longer supported" in text:
        return f"; the hub has no data for it: download it by hand and {LOCAL_COPY}"
    if any(sign in text for sign in ("connect", "offline", "couldn't reach", "timeout", "timed out")):
        return f"; the hub cannot be reached: go online once, {LOCAL_COPY}"
    if "not found" in text or "notfound" in text or "doesn't exist" in text:
        return f"; if it is private, log in (`hf auth login`); otherwise correct its name, {LOCAL_COPY}"
    return f"; {LOCAL_COPY}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _set_fewshot(task: Task, num_fewshot: int | None, seed: int) -> None:
    """lm-eval's `simple_evaluate` does this between loading and building: its rule, its order."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def _manager(names: Sequence[str], task_path: str | None) -> Any:
    """A TaskManager over the folders that hold `names` and, for groups, all of their members."""
    from lm_eval.tasks import TaskManager

    local = local_folders(task_path)
    in_local = local_names(task_path)
    builtin: set[Path] = set()
    for name in names:
        if name not in in_local:
            builtin |= builtin_folders(name)
    while True:
        manager = TaskManager(include_path=[*sorted(builtin), *local], include_defaults=False)
        missing = set(_missing_members(manager.task_index, names))
        more = {folder for name in missing for folder in builtin_folders(name)} - builtin
        if not more:
            break
        builtin |= more
    manager._factory = _path_aware_factory()
    return manager


def _missing_members(index: dict[str, Any], names: Iterable[str]) -> Iterator[str]:
    """Names that the groups among `names` refer to and the index does not have."""
    for name in names:
        entry = index.get(name)
        if entry is None:
            yield name
        elif entry.kind.name == "GROUP":
            yield from _missing_members(index, _members(entry.cfg or {}))


def _members(config: dict[str, Any]) -> Iterator[str]:
    for item in config.get("task") or []:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict) and isinstance(item.get("task"), list):  # a group defined in place
            yield from _members(item)
        elif isinstance(item, dict) and "dataset_path" not in item:
            yield item.get("task") or item["group"]


def _path_aware_factory() -> Any:
    from lm_eval.tasks._factory import TaskFactory

    class PathAwareFactory(TaskFactory):
        """Reads relative `data_files` relative to the task's own YAML file, whatever the working directory."""

        latest: Mapping[str, Any] = {}

        def loading(self, name: str) -> str:
            """The task that was being loaded for `name`, and its data set, as an error calls them."""
            task, data = self.latest.get("task"), self.latest.get("dataset_path")
            called = f"task '{task}'" if isinstance(task, str) else f"task '{name}'"
            called += f" of '{name}'" if isinstance(task, str) and task != name else ""
            return called + (f" (data set {data})" if data and data not in LOCAL_FORMATS else "")

        def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
            config = super()._load_full_config(entry, overrides)
            self.latest = config
            arguments = config.get("dataset_kwargs")
            if entry.yaml_path and isinstance(arguments, dict) and "data_files" in arguments:
                folder = Path(entry.yaml_path).parent
                config["dataset_kwargs"] = {**arguments, "data_files": absolute_files(arguments["data_files"], folder)}
            return config

    return PathAwareFactory()


def absolute_files(files: Any, folder: Path) -> Any:
    """`data_files` of a task whose YAML lies in `folder`, read relative to it; addresses stay as they are."""
    if isinstance(files, dict):
        return {split: absolute_files(value, folder) for split, value in files.items()}
    if isinstance(files, (list, tuple)):
        return [absolute_files(value, folder) for value in files]
    if not isinstance(files, str) or "://" in files or Path(files).is_absolute():
        return files
    beside = folder / files
    return str(beside.absolute()) if beside.exists() or not Path(files).exists() else files


def _builtin_root() -> Path:
    spec = importlib.util.find_spec("lm_eval")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError("lm-eval is not installed: pip install 'lm-eval[hf]'")
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


@lru_cache(maxsize=1)
def _all_builtin() -> dict[str, set[Path]]:
    """Every name of lm-eval and the folders that define it; reads all files once (about a second)."""
    found: dict[str, set[Path]] = {}
    for folder in sorted(item for item in _builtin_root().iterdir() if item.is_dir()):
        for name in _names_in(folder):
            found.setdefault(name, set()).add(folder)
    return found


def local_names(task_path: str | None) -> set[str]:
    return {name for folder in local_folders(task_path) for name in _names_in(folder)}


def _names_in(folder: Path, kinds: Sequence[str] = ("task", "group", "tag")) -> set[str]:
    """Names of tasks, groups and tags in the YAML text under `folder` (templates have no suffix, but may hold tags)."""
    names: set[str] = set()
    for file in folder.rglob("*"):
        if file.suffix == ".yaml" or (file.suffix == "" and file.name.endswith("_yaml")):
            names.update(names_of(file.read_text(errors="replace"), kinds))
    return names


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


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Only close names: a list of thousands helps nobody."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else "; `lm_eval ls tasks` lists them, `task_path` adds your own"

"""Loading lm-eval tasks: by name, group, tag or preset, from lm-eval itself, ours, or a local folder.

Only what was asked for is indexed: the folders of lm-eval that hold it, and of other folders the very files. The hard
case is a group whose members live in another folder than the group: lm-eval would take an unknown member for an inline
task, so members are looked up as well until nothing is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from calib.files import absolute_files
from calib.settings import SettingsError
from sweep.evaluation.questions.asked import Asked
from sweep.evaluation.questions.code import imported_from_folders
from sweep.evaluation.questions.examine import bad_json, code_line, examine, explain, one_line
from sweep.evaluation.tasks.check import check_tasks, refuse_labels
from sweep.evaluation.tasks.names import LOCAL_FORMATS, builtin_folders, local_folders, trusted
from sweep.evaluation.tasks.presets import fewshot_of
from sweep.evaluation.tasks.yamlfiles import Index

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task


def load_tasks(settings: Asked, path: str = "evaluation") -> tuple[dict[str, Task], dict[str, Group]]:
    """lm-eval's task and group objects, with their data sets, few-shot settings and few-shot seeds in place.

    Raises SettingsError naming the task when it is unknown, its file or its data are wrong, or a split is missing.
    """
    if not settings.tasks:
        return {}, {}
    names = settings.task_names
    check_tasks(settings.tasks, settings.task_path, f"{path}.tasks", allow_code=settings.allow_code)
    tasks: dict[str, Task] = {}
    groups: dict[str, Group] = {}
    asked_by: dict[str, str] = {}  # by task: the name that was asked for and holds it
    shots = fewshot_of(settings.tasks)
    with imported_from_folders(local_folders(settings.task_path)):
        manager = _manager(names, settings.task_path)
        for name in names:
            found_tasks, found_groups = _load_one(manager, name, f"{path}.tasks", settings)
            for task_name, task in found_tasks.items():
                if task_name in tasks:
                    first = asked_by[task_name]
                    raise SettingsError(
                        f"{path}.tasks: '{task_name}' is asked for twice, the first time by '{first}', the second time "
                        f"by '{name}'; leave one out"
                    )
                tasks[task_name], asked_by[task_name] = task, name
                _set_fewshot(task, shots.get(name, settings.num_fewshot), settings.fewshot_seed)
            groups.update(found_groups)
    refuse_labels([spec.source.label for spec in settings.heldout_specs(path)], tasks, path)
    return tasks, groups


def source_of(task: Any) -> Path | None:
    """The task's own YAML file; None for one that is defined within a group."""
    metadata = getattr(task.config, "metadata", None)
    source = metadata.get("config_source") if isinstance(metadata, Mapping) else None
    return Path(source) if isinstance(source, str) and source != "inline" else None


def called(task: Any, path: str) -> str:
    """`evaluation.tasks: task 'mine' (mine.yaml)`, as messages call a task."""
    source = source_of(task)
    return f"{path}.tasks: task '{task.task_name}'" + (f" ({source})" if source and not trusted(source) else "")


def check_examples(task: Any, path: str, limit: int | None) -> None:
    """Raise SettingsError for the first example of a task of the user's own that cannot be asked or judged."""
    from lm_eval.api.task import ConfigurableTask

    if trusted(source_of(task)) or type(task) is not ConfigurableTask:
        return
    source = source_of(task)
    try:
        examine(task, called(task, path), limit)
        _try_filters(task)
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # templates and code of a task may raise anything
        raise SettingsError(explain(error, called(task, path), source.parent if source else None)) from error


def _try_filters(task: Any) -> None:
    """Make each filter once: lm-eval does it when the answers are there, which is too late for a wrong setting."""
    for pipeline in task._filters:
        for make in pipeline.filters:
            make()


def _load_one(manager: Any, name: str, path: str, settings: Asked) -> tuple[dict[str, Task], dict[str, Group]]:
    factory = manager._factory
    try:
        loaded = manager.load([name])
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # data sets, the hub, templates and code of a task raise anything
        _refuse(error, f"{path}: {factory.loading(name)}", factory, settings)
    for task in loaded["tasks"].values():
        unknown = [metric for metric, rule in getattr(task, "_metric_fn_list", {}).items() if rule is None]
        if unknown and getattr(task.config, "process_results", None) is None:
            raise SettingsError(f"{path}: {factory.loading(name)}: metric_list: no metric {unknown[0]!r} can be had")
    return dict(loaded["tasks"]), dict(loaded.get("groups") or {})


def _refuse(error: BaseException, called: str, factory: Any, settings: Asked) -> NoReturn:
    """Raise the SettingsError that says best why a task cannot be loaded."""
    folder = Path(factory.file).parent if factory.file else None
    task = _task_under_way(error)
    if task is not None and not trusted(factory.file) and task.config.doc_to_text is not None:
        try:
            examine(task, called, settings.limit)
        except SettingsError as better:
            raise better from error
        except (Exception, SystemExit) as same:  # explained below as well as the first one
            error = same
    told = code_line(error, folder) or task is not None
    message = explain(error, called, folder) if told else _data_problem(error, called, factory.latest)
    raise SettingsError(message or explain(error, called, folder)) from error


def _data_problem(error: BaseException, called: str, config: Mapping[str, Any]) -> str | None:
    """What is wrong with a data set that could not be read; None when it is something else."""
    from datasets.exceptions import DatasetsError

    if isinstance(error, KeyError) and _is_split(error, config):
        return f"{called} reads {error}, which its data set does not have; correct the split"
    if isinstance(error, AttributeError) and "'features'" in str(error):
        return f"{called}: process_docs: expected a `datasets.Dataset` from it; {one_line(error)}"
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") == "json" and (broken := bad_json(files)):
        return f"{called}: {broken}; correct the data"
    if isinstance(error, ValueError | OSError | RuntimeError | DatasetsError):
        remedy = "" if config.get("dataset_path") in LOCAL_FORMATS else _remedy(error)
        return f"{called} cannot be loaded: {one_line(_first(error))}{remedy}"
    return None


def _is_split(error: KeyError, config: Mapping[str, Any]) -> bool:
    keys = ("training_split", "validation_split", "test_split", "fewshot_split")
    return bool(error.args) and error.args[0] in [config.get(key) for key in keys]


def _task_under_way(error: BaseException) -> Any:
    """The task in whose making an error was raised, when its documents are there already."""
    trace = error.__traceback__
    while trace is not None:
        task = trace.tb_frame.f_locals.get("self")
        if trace.tb_frame.f_code.co_name == "__init__" and hasattr(task, "task_docs") and hasattr(task, "features"):
            return task
        trace = trace.tb_next
    return None


LOCAL_COPY = "give a local copy in a task file under `task_path`, or leave the task out"


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _first(error: BaseException) -> BaseException:
    """What says most: the cause of `An error occurred while generating the dataset`, otherwise the error itself."""
    return _chain(error)[-1] if "generating the dataset" in str(error) else error


def _remedy(error: BaseException) -> str:
    """What to do about a data set that cannot be had, told from the whole chain of errors."""
    text = " ".join(f"{type(link).__name__} {link}" for link in _chain(error)).lower()
    if "gated" in text or re.search(r"\b40[13]\b", text):
        return f"; the data set is gated: accept its terms on the hub and log in (`hf auth login`), {LOCAL_COPY}"
    if "manual" in text or "scripts are no longer supported" in text:
        return f"; the hub has no data for it: download it by hand and {LOCAL_COPY}"
    if any(sign in text for sign in ("connect", "offline", "couldn't reach", "timeout", "timed out")):
        return f"; the hub cannot be reached: go online once, {LOCAL_COPY}"
    if "not found" in text or "notfound" in text or "doesn't exist" in text:
        return f"; if it is private, log in (`hf auth login`); otherwise correct its name, {LOCAL_COPY}"
    return f"; {LOCAL_COPY}"


def _set_fewshot(task: Task, num_fewshot: int | None, seed: int) -> None:
    """lm-eval's `simple_evaluate` does this between loading and building: its rule, its order."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def _manager(names: Sequence[str], task_path: str | None) -> Any:
    """A TaskManager over the folders and files that hold `names` and, for groups, all of their members."""
    from lm_eval.tasks import TaskManager

    local = Index.read(local_folders(task_path))
    entries = _entries(local, names)
    builtin = {folder for name in names if name not in entries for folder in builtin_folders(name)}
    while True:
        manager = TaskManager(include_path=sorted(builtin), include_defaults=False)  # type: ignore[arg-type]
        manager._index.update(entries)
        missing = set(_missing_members(manager.task_index, names))
        more = {folder for name in missing for folder in builtin_folders(name)} - builtin
        if not more:
            break
        builtin |= more
    manager._factory = path_aware_factory()
    return manager


def _entries(local: Index, names: Sequence[str]) -> dict[str, Any]:
    """lm-eval's entries of the local files that define `names`, and their members; no other file is read by lm-eval."""
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    entries: dict[str, Any] = {}
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        task = local.get(name)
        if name in seen or (task is None and name not in local.tags):
            continue
        seen.add(name)
        todo += local.tags.get(name, ())
        if task is not None:
            TaskIndex.process_cfg(load_yaml(task.file, resolve_func=False), task.file, entries)
            todo += local.members(task.config)
    return {name: entry for name, entry in entries.items() if name in local.files or name in local.tags}


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


def path_aware_factory() -> Any:
    """lm-eval's maker of tasks, with `data_files` beside their YAML file and a memory of what it made last."""
    from lm_eval.tasks._factory import TaskFactory

    class PathAwareFactory(TaskFactory):
        """Reads relative `data_files` relative to the task's own YAML file, whatever the working directory."""

        latest: Mapping[str, Any] = {}
        file: Path | None = None

        def loading(self, name: str) -> str:
            """The task that was being loaded for `name`, and its data set, as an error calls them."""
            task, data = self.latest.get("task"), self.latest.get("dataset_path")
            called = f"task '{task}'" if isinstance(task, str) else f"task '{name}'"
            called += f" of '{name}'" if isinstance(task, str) and task != name else ""
            called += f" ({self.file})" if self.file and not trusted(self.file) else ""
            return called + (f" (data set {data})" if data and data not in LOCAL_FORMATS else "")

        def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
            self.file, self.latest = entry.yaml_path, {"task": entry.name}
            config = super()._load_full_config(entry, overrides)
            self.latest = config
            return _with_files(config, Path(entry.yaml_path)) if entry.yaml_path else config

    return PathAwareFactory()


def _with_files(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """The configuration in a task's file with absolute `data_files`; also those of tasks defined in place."""
    arguments, members = config.get("dataset_kwargs"), config.get("task")
    if isinstance(arguments, dict) and "data_files" in arguments:
        files = absolute_files(arguments["data_files"], file.parent)
        config["dataset_kwargs"] = {**arguments, "data_files": files}
    if isinstance(members, list):
        config["task"] = [_member(item, file) if isinstance(item, dict) else item for item in members]
    return config


def _member(item: dict[str, Any], file: Path) -> dict[str, Any]:
    """An entry of a group; a task that is defined there says where it stands, as lm-eval makes others say."""
    if "dataset_path" in item:
        item = {**item, "metadata": {**(item.get("metadata") or {}), "config_source": str(file)}}
    return _with_files(item, file)

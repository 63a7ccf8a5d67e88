"""A task of lm-eval as text: where its files lie, its examples, what each of them asks and what is expected.

The hard case is what a task may do: its files may run code, and may read data that lie elsewhere. The id of a
calibration set knows a folder of tasks by its content, so of tasks in a folder both are refused. lm-eval's own tasks
name a data set and seldom its version; `data_revision` says what was found under the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

from calib.files import absolute_files
from calib.hub import plain
from calib.settings import SettingsError, identity, one_line, suggestion

BUNDLED = Path(__file__).resolve().parent / "reference" / "tasks"
COMMIT = re.compile(r"/([0-9a-f]{40})/")  # in CACHE/OWNER___NAME/CONFIG/VERSION/COMMIT/FILE.arrow
READ = (".yaml", ".yml", ".jsonl", ".json", ".parquet")  # what a folder of tasks is known by


@dataclass(frozen=True)
class TaskFiles:
    """A task by its name, and the folder in which it lies: None for lm-eval's own. `place`: for error messages."""

    name: str
    folder: Path | None
    place: str = field(compare=False)

    def read(self) -> list[Path]:
        """The files that a folder is known by: all of them, of the bundled one the task's own. Raises SettingsError."""
        folder = Path(str(self.folder))
        pattern = f"{self.name}.*" if folder == BUNDLED else "*"
        files = sorted(file for file in folder.rglob(pattern) if file.suffix in READ) if folder.is_dir() else []
        if not files:
            raise SettingsError(f"{self.place}: task_path: no such file or folder with tasks: {self.folder}")
        return files

    def refuse_code(self) -> None:
        """Raise SettingsError where a file in the folder runs code of its own."""
        for file in self.read() if self.folder is not None else ():
            if file.suffix in (".yaml", ".yml") and "!function" in file.read_text(encoding="utf-8", errors="replace"):
                raise SettingsError(f"{self.place}: {file} runs code of its own (!function); write the task without")

    def load(self) -> Any:
        """lm-eval's task with its data. Raises SettingsError when there is none, or several, or no data."""
        from lm_eval.tasks import TaskManager

        self.refuse_code()
        folder = None if self.folder is None else str(self.folder)
        try:
            manager = TaskManager(include_path=folder, include_defaults=folder is None)
            manager._factory = beside_their_file()
            if self.name not in manager.all_tasks:
                raise SettingsError(f"{self.place}: there is no such task{suggestion(self.name, manager.all_tasks)}")
            found = manager.load([self.name])["tasks"]
        except SettingsError:
            raise
        except Exception as error:  # data sets, the hub and templates of a task raise anything
            raise SettingsError(f"{self.place}: {one_line(' '.join(str(error).split()))[:300]}") from None
        if list(found) != [self.name]:
            raise SettingsError(f"{self.place}: is a group of {len(found)} tasks; name one of them")
        if self.folder is not None:
            self._refuse_outside(found[self.name], self.folder.resolve())
        return found[self.name]

    def _refuse_outside(self, task: Any, home: Path) -> None:
        """Refuse a task that reads files which the revision does not know."""
        asked = dict(task.config.dataset_kwargs or {})
        for name in _texts([task.config.dataset_path, asked.get("data_files"), asked.get("data_dir")]):
            for found in glob(name):
                file = Path(found).resolve()
                if not file.is_relative_to(home) or (file.is_file() and file.suffix not in READ):
                    raise SettingsError(
                        f"{self.place}: reads {file}, which the id of a set would not know; put it into {home} as "
                        f"one of {', '.join(READ)}"
                    )


def folder_of(name: str, task_path: str | None) -> Path | None:
    """Where a task lies: the folder given, that of the bundled tasks for one of them, None for lm-eval's own."""
    if task_path is not None:
        return Path(task_path)
    return BUNDLED if (BUNDLED / f"{name}.yaml").is_file() else None


def training_examples(task: Any, place: str) -> list[Any]:
    """The training examples of a loaded task in the order of its data, but for those whose prompt is also asked where
    the task is evaluated, whatever its splits are called. Raises SettingsError when there is none."""
    if not task.has_training_docs():
        raise SettingsError(f"{place}: has no training split; calibrate on another task or text")
    evaluated = {_normal(prompt(task, doc)) for doc in task.eval_docs}
    found = [doc for doc in task.training_docs() if _normal(prompt(task, doc)) not in evaluated]
    if not found:
        raise SettingsError(f"{place}: no training example that is not evaluated as well")
    return found


def prompt(task: Any, doc: Any) -> str:
    """What the model is asked; of tasks whose choices are the prompts (WinoGrande), the one of the right answer."""
    text = task.doc_to_text(doc)
    return str(task.doc_to_choice(doc)[text]) if isinstance(text, int) else str(text)


def answer(task: Any, doc: Any) -> str:
    """The right answer as text; the first where there are several."""
    target = task.doc_to_target(doc)
    if isinstance(target, list) and target:
        target = target[0]
    by_number = isinstance(target, int) and task.config.doc_to_choice is not None
    return str(task.doc_to_choice(doc)[target]) if by_number else str(target)


@lru_cache(maxsize=64)  # of the many sets of a task, each says the same
def data_revision(files: TaskFiles) -> str:
    """The commit of the data set behind the task (where its files came from the hub), and a hash of its examples."""
    task = files.load()
    examples = identity([plain(doc) for doc in task.training_docs()])
    return ", ".join([*_commits(getattr(task, "dataset", None) or {}), f"examples {examples}"])


def beside_their_file() -> Any:
    """lm-eval's maker of tasks; relative `data_files` are read relative to the task's own YAML file."""
    from lm_eval.tasks._factory import TaskFactory

    class Beside(TaskFactory):
        def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
            config: dict[str, Any] = super()._load_full_config(entry, overrides)
            arguments = config.get("dataset_kwargs")
            if entry.yaml_path and isinstance(arguments, dict) and "data_files" in arguments:
                files = absolute_files(arguments["data_files"], Path(entry.yaml_path).parent)
                config["dataset_kwargs"] = {**arguments, "data_files": files}
            return config

    return Beside()


def _commits(splits: Mapping[str, Any]) -> list[str]:
    """The commits of the hub that `datasets` names its cached files of the splits after; none for other files."""
    files = [str(file["filename"]) for split in splits.values() for file in getattr(split, "cache_files", ())]
    return sorted({found.group(1) for file in files if (found := COMMIT.search(Path(file).as_posix()))})


def _texts(value: Any) -> Iterator[str]:
    """Every text in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()

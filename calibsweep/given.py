"""What people name for a study, understood: a task by the file that defines it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from calib.settings import SettingsError
from sweep.evaluation.tasks.yamlfiles import TaskFileError, read_task

YAML = (".yaml", ".yml")


def tasks_of(given: Iterable[str]) -> tuple[list[str], str | None]:
    """(names of tasks, the folder of task files): `mytasks/triage.yaml` is the task that the file defines.

    Raises SettingsError for a file that is none, and for files of several folders.
    """
    names, folders = [], dict[str, None]()
    for entry in given:
        if not entry.endswith(YAML):
            names.append(entry)
            continue
        try:
            config, _ = read_task(Path(entry))
        except TaskFileError as error:
            raise SettingsError(f"--tasks: {error}") from None
        name = config.get("group") or config.get("task")
        if not isinstance(name, str):
            raise SettingsError(f"--tasks: {entry} defines no task: it has no line `task: NAME`")
        names.append(name)
        folders[str(Path(entry).parent)] = None
    if len(folders) > 1:
        raise SettingsError(f"--tasks: task files of several folders ({', '.join(folders)}); put them into one")
    return names, next(iter(folders), None)

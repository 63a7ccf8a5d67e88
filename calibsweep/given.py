"""What people name for a study, understood: a task by its file, and the column of a file that holds its text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from calib.files import find_files, format_of, json_records, parquet_records
from calib.settings import SettingsError
from sweep.evaluation.tasks.yamlfiles import TaskFileError, read_task

TEXT = "text"
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


def column_of(path: str) -> str:
    """The column of the file's text: `text`, or the only one that holds text in the first record.

    Where that is not clear it is `text`, and the check of the study says which columns there are.
    """
    try:
        first = _first_record(find_files(path)[0])
    except SettingsError:  # said by the check of the study, with its place
        return TEXT
    texts = [name for name, value in first.items() if isinstance(value, str)] if isinstance(first, dict) else []
    return texts[0] if TEXT not in texts and len(texts) == 1 else TEXT


def _first_record(file: Path) -> object:
    """None of a file of plain text, and of one without records."""
    kind = format_of(file.name)
    if kind == "text":
        return None
    records = json_records(file) if kind == "json" else parquet_records(file, batch_size=1)
    return next((record for _, record in records), None)

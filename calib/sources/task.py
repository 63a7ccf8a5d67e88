"""The training examples of an lm-eval task, as its prompt asks them and its answer follows. Never its test examples.

Task data is what the published studies calibrate on when they ask whether a task's own text helps. The prompt is the
task's own (`doc_to_text`, `doc_to_target`), so the text has the form in which the task is evaluated. The hard case is
leakage: some tasks offer their test split for training, or repeat questions in it, so an example whose prompt is also
asked in the evaluated split is left out, whatever its split is called. lm-eval names the data set of a task and seldom
its version, so what was found under the name is recorded when a set is built: the hub's commit, as far as `datasets`
tells it, and a hash of the training examples. Four tasks come with the project (`calib/reference/tasks`) and need no
network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from calib.files import absolute_files, content_hash
from calib.hub import plain
from calib.sampling import raw_numbers
from calib.settings import INT64_MAX, SettingsError, identity, one_line, settings, suggestion
from calib.source import Document, Source, register
from calib.sources.bundled import REFERENCE

BUNDLED = REFERENCE / "tasks"
COMMIT = re.compile(r"/([0-9a-f]{40})/")  # in CACHE/OWNER___NAME/CONFIG/VERSION/COMMIT/FILE.arrow
READ = (".yaml", ".yml", ".jsonl", ".json", ".parquet")  # what a folder of tasks is known by


@register("task")
@settings
class Task(Source):
    """`task`: its name in lm-eval, of a bundled one, or of a YAML file in the folder `task_path`. `form`: what a
    document is: one example (`zero_shot`), `shots` of them as a few-shot prompt shows them (`in_context`), or one with
    the reasoning of the column `rationale` before its answer (`chain_of_thought`). `seed`: the order of the examples.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"path", "task_path"})
    example: ClassVar[Mapping[str, Any]] = {"task": "arc_easy"}

    task: str
    task_path: str | None = None
    form: Literal["zero_shot", "in_context", "chain_of_thought"] = "zero_shot"
    shots: Annotated[int, Field(ge=2, le=100)] = 5
    rationale: str | None = None
    seed: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0

    def __post_init__(self) -> None:
        if (self.form == "chain_of_thought") != (self.rationale is not None):
            raise ValueError("rationale: the column of the reasoning, needed for form: chain_of_thought and only there")
        super().__post_init__()

    def default_label(self) -> str:
        return self.task if self.form == "zero_shot" else f"{self.task}-{self.form}"

    @property
    def remote(self) -> bool:
        return self._folder is None

    def revision(self) -> str:
        if self._folder is None:
            return f"lm-eval {version('lm-eval')}"
        return content_hash(self._files())

    def resolved_revision(self) -> str:
        """With the commit of the data set and a hash of its training examples, where the revision names neither."""
        return self.revision() if self._folder is not None else f"{self.revision()}, {_data_revision(self.task)}"

    def check(self) -> None:
        if self._folder is not None:
            self._refuse_code()

    def licences(self) -> list[str]:
        """Of a bundled task, those of the documents that its examples are cut from; of others nothing is known."""
        if self._folder != BUNDLED:
            return super().licences()
        rows = (BUNDLED / f"{self.task}.train.jsonl").read_text(encoding="utf-8").splitlines()
        return sorted({json.loads(row)["licence"] for row in rows})

    def documents(self) -> Iterator[Document]:
        task = self._load()
        examples = self._examples(task)
        if not examples:
            raise SettingsError(f"{self._called}: no training example that is not evaluated as well")
        order = np.argsort(raw_numbers(self.seed)(len(examples)), kind="stable")
        size = self.shots if self.form == "in_context" else 1
        between = str(task.config.fewshot_delimiter)
        for first in range(0, len(order) - size + 1, size):
            numbers = [int(number) for number in order[first : first + size]]
            text = between.join(examples[number] for number in numbers)
            yield Document(f"{self.task}:{'+'.join(map(str, numbers))}", text)

    def evaluated(self) -> Iterator[str]:
        """What the task asks and what it expects, of each example that it is evaluated on; to be excluded, not used."""
        task = self._load()
        for doc in task.eval_docs:
            yield f"{_prompt(task, doc)} {_answer(task, doc)}"

    def _examples(self, task: Any) -> list[str]:
        """The training examples in the order of the data, without those that are evaluated."""
        if not task.has_training_docs():
            raise SettingsError(f"{self._called}: has no training split; calibrate on another task or text")
        evaluated = {_normal(_prompt(task, doc)) for doc in task.eval_docs}
        trained = [doc for doc in task.training_docs() if _normal(_prompt(task, doc)) not in evaluated]
        return [self._text(task, doc) for doc in trained]

    def _text(self, task: Any, doc: Mapping[str, Any]) -> str:
        prompt, answer = _prompt(task, doc), _answer(task, doc)
        delimiter = str(task.config.target_delimiter)
        if self.rationale is None:
            return f"{prompt}{delimiter}{answer}"
        reasoning = doc.get(self.rationale)
        if not isinstance(reasoning, str):
            raise SettingsError(
                f"{self._called}: no text in column '{self.rationale}'{suggestion(self.rationale, doc)}"
            )
        return f"{prompt}{delimiter}{reasoning.strip()}\n{answer}"

    def _load(self) -> Any:
        from lm_eval.tasks import TaskManager

        self.check()
        folder = None if self._folder is None else str(self._folder)
        try:
            manager = TaskManager(include_path=folder, include_defaults=folder is None)
            manager._factory = beside_their_file()
            if self.task not in manager.all_tasks:
                raise SettingsError(f"{self._called}: there is no such task{suggestion(self.task, manager.all_tasks)}")
            found = manager.load([self.task])["tasks"]
        except SettingsError:
            raise
        except Exception as error:  # data sets, the hub and templates of a task raise anything
            raise SettingsError(f"{self._called}: {one_line(' '.join(str(error).split()))[:300]}") from None
        if list(found) != [self.task]:
            raise SettingsError(f"{self._called}: is a group of {len(found)} tasks; name one of them")
        if folder is not None:
            self._refuse_outside(found[self.task])
        return found[self.task]

    def _refuse_outside(self, task: Any) -> None:
        """Refuse a task that reads files which the revision does not know."""
        asked = dict(task.config.dataset_kwargs or {})
        home = Path(str(self._folder)).resolve()
        for name in _texts([task.config.dataset_path, asked.get("data_files"), asked.get("data_dir")]):
            for found in glob(name):
                file = Path(found).resolve()
                if not file.is_relative_to(home) or (file.is_file() and file.suffix not in READ):
                    raise SettingsError(
                        f"{self._called}: reads {file}, which the id of a set would not know; put it into {home} as "
                        f"one of {', '.join(READ)}"
                    )

    def _refuse_code(self) -> None:
        for file in self._files():
            if file.suffix in (".yaml", ".yml") and "!function" in file.read_text(encoding="utf-8", errors="replace"):
                raise SettingsError(f"{self._called}: {file} runs code of its own (!function); write the task without")

    @property
    def _folder(self) -> Path | None:
        """Where the task lies: the folder given, that of the bundled tasks for one of them, None for lm-eval's own."""
        if self.task_path is not None:
            return Path(self.task_path)
        return BUNDLED if (BUNDLED / f"{self.task}.yaml").is_file() else None

    def _files(self) -> list[Path]:
        """What the revision is made of: a folder as a whole, of the bundled one the task's own files."""
        folder = Path(str(self._folder))
        pattern = f"{self.task}.*" if folder == BUNDLED else "*"
        files = sorted(file for file in folder.rglob(pattern) if file.suffix in READ) if folder.is_dir() else []
        if not files:
            raise SettingsError(f"{self._called}: task_path: no such file or folder with tasks: {self.task_path}")
        return files

    @property
    def _called(self) -> str:
        return f"source '{self.label}': task '{self.task}'"


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


@lru_cache(maxsize=64)  # of the many sets of a task, each says the same
def _data_revision(name: str) -> str:
    """The commit of the data set behind the task (where its files came from the hub), and a hash of its examples."""
    task = Task(task=name)._load()
    examples = identity([plain(doc) for doc in task.training_docs()])
    return ", ".join([*_commits(getattr(task, "dataset", None) or {}), f"examples {examples}"])


def _commits(splits: Mapping[str, Any]) -> list[str]:
    """The commits of the hub that `datasets` names its cached files of the splits after; none for other files."""
    files = [str(file["filename"]) for split in splits.values() for file in getattr(split, "cache_files", ())]
    return sorted({found.group(1) for file in files if (found := COMMIT.search(Path(file).as_posix()))})


def _prompt(task: Any, doc: Any) -> str:
    """What the model is asked; of tasks whose choices are the prompts (WinoGrande), the one of the right answer."""
    text = task.doc_to_text(doc)
    return str(task.doc_to_choice(doc)[text]) if isinstance(text, int) else str(text)


def _answer(task: Any, doc: Any) -> str:
    """The right answer as text; the first where there are several."""
    target = task.doc_to_target(doc)
    if isinstance(target, list) and target:
        target = target[0]
    by_number = isinstance(target, int) and task.config.doc_to_choice is not None
    return str(task.doc_to_choice(doc)[target]) if by_number else str(target)


def _texts(value: Any) -> Iterator[str]:
    """Every text in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()

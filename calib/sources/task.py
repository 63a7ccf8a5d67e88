"""The training examples of an lm-eval task, as its prompt asks them and its answer follows. Never its test examples.

Task data is what the published studies calibrate on when they ask whether a task's own text helps. The prompt is the
task's own (`doc_to_text`, `doc_to_target`), so the text has the form in which the task is evaluated. The hard case is
leakage: some tasks offer their test split for training, or repeat questions in it, so an example whose prompt is also
asked in the evaluated split is left out, whatever its split is called. Four tasks come with the project
(`calib/reference/tasks`) and need no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from calib.files import content_hash
from calib.sampling import raw_numbers
from calib.settings import INT64_MAX, SettingsError, settings, suggestion
from calib.source import Document, Source, register
from calib.tasks import BUNDLED, TaskFiles, answer, data_revision, folder_of, prompt, training_examples


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
    def files(self) -> TaskFiles:
        """Where the task lies."""
        return TaskFiles(self.task, folder_of(self.task, self.task_path), f"source '{self.label}': task '{self.task}'")

    @property
    def remote(self) -> bool:
        return self.files.folder is None

    def revision(self) -> str:
        return f"lm-eval {version('lm-eval')}" if self.remote else content_hash(self.files.read())

    def resolved_revision(self) -> str:
        """With the commit of the data set and a hash of its training examples, where the revision names neither."""
        return f"{self.revision()}, {data_revision(self.files)}" if self.remote else self.revision()

    def check(self) -> None:
        self.files.refuse_code()

    def licences(self) -> list[str]:
        """Of a bundled task, those of the documents that its examples are cut from; of others nothing is known."""
        if self.files.folder != BUNDLED:
            return super().licences()
        rows = (BUNDLED / f"{self.task}.train.jsonl").read_text(encoding="utf-8").splitlines()
        return sorted({json.loads(row)["licence"] for row in rows})

    def documents(self) -> Iterator[Document]:
        task = self.files.load()
        examples = [self._text(task, doc) for doc in training_examples(task, self.files.place)]
        order = np.argsort(raw_numbers(self.seed)(len(examples)), kind="stable")
        size = self.shots if self.form == "in_context" else 1
        between = str(task.config.fewshot_delimiter)
        for first in range(0, len(order) - size + 1, size):
            numbers = [int(number) for number in order[first : first + size]]
            text = between.join(examples[number] for number in numbers)
            yield Document(f"{self.task}:{'+'.join(map(str, numbers))}", text)

    def evaluated(self) -> Iterator[str]:
        """What the task asks and what it expects, of each example that it is evaluated on; to be excluded, not used."""
        task = self.files.load()
        for doc in task.eval_docs:
            yield f"{prompt(task, doc)} {answer(task, doc)}"

    def _text(self, task: Any, doc: Mapping[str, Any]) -> str:
        asked, delimiter, answered = prompt(task, doc), str(task.config.target_delimiter), answer(task, doc)
        if self.rationale is None:
            return f"{asked}{delimiter}{answered}"
        reasoning = doc.get(self.rationale)
        if not isinstance(reasoning, str):
            raise SettingsError(
                f"{self.files.place}: no text in column '{self.rationale}'{suggestion(self.rationale, doc)}"
            )
        return f"{asked}{delimiter}{reasoning.strip()}\n{answered}"

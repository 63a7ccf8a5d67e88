"""Code beside a task's file gives the same numbers where its folder is not: on a worker of another machine."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.evaluation.questions import code as taskcode
from sweep.evaluation.questions.code import Freezer, load_module
from sweep.evaluation.questions.replay import Scores
from sweep.evaluation.questions.requests import TaskRequests, build_requests
from sweep.evaluation.settings import EvaluationSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves

TASK = (
    "task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: docs.jsonl}}}}\ntest_split: test\n"
    "output_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: 0\ndoc_to_choice: ['yes', 'no']\n"
    "{more}\n"
)
SCORED = (
    "process_results: !function {function}\nmetric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]"
)
MODULES = {
    "reads.py": "from pathlib import Path\n"
    "def rate(doc, answers):\n"
    "    kind = 'words'\n"
    "    return {'acc': float(len(Path(__file__).with_name(f'{kind}.txt').read_text().split()) == 2)}\n",
    "words.txt": "a b",
    "folders.py": "from pathlib import Path\n"
    "def rate(doc, answers):\n"
    "    texts = [file.read_text() for file in (Path(__file__).parent / 'prompts').glob('*/*.txt')]\n"
    "    return {'acc': float(texts == ['c'])}\n",
    "prompts/en/first.txt": "c",
    "closures.py": "import functools\n"
    "def make(value):\n"
    "    def rate(doc, answers):\n"
    "        return {'acc': value}\n"
    "    return rate\n"
    "rate = make(1.0)\n"
    "short = lambda doc, answers: {'acc': 1.0}\n"
    "def plain(doc, answers, value):\n"
    "    return {'acc': value}\n"
    "bound = functools.partial(plain, value=1.0)\n"
    "class Rule:\n"
    "    def __init__(self, value):\n"
    "        self.value = value\n"
    "    def rate(self, doc, answers):\n"
    "        return {'acc': self.value}\n"
    "method = Rule(1.0).rate\n"
    "class Outer:\n"
    "    class Inner:\n"
    "        def __call__(self, doc, answers):\n"
    "            return {'acc': 1.0}\n"
    "inner = Outer.Inner()\n",
    "state.py": "SEEN = []\n"
    "def rate(doc, answers):\n"
    "    SEEN.append(doc['q'])\n"
    "    return {'acc': float(len(SEEN) > 0)}\n",
    "siblings.py": "import helper\n"
    "from helper import VALUE\n"
    "from inner.deep import VALUE as DEEP\n"
    "import inner.deep\n"
    "def rate(doc, answers):\n"
    "    import lazy\n"
    "    return {'acc': helper.VALUE * VALUE * DEEP * lazy.VALUE * inner.deep.VALUE}\n",
    "helper.py": "import another\nVALUE = another.VALUE\n",
    "another.py": "VALUE = 1.0\n",
    "lazy.py": "VALUE = 1.0\n",
    "inner/deep.py": "from ..another import VALUE\n",
    "paths.py": "import sys\n"
    "from pathlib import Path\n"
    "sys.path.insert(0, str(Path(__file__).parent))\n"
    "from helper import VALUE\n"
    "sys.path.pop(0)\n"
    "rate = lambda doc, answers: {'acc': VALUE}\n",
    "means.py": "def most(items):\n    return max(items)\n\ndef rate(doc, answers):\n    return {'acc': 1.0}\n",
}
FUNCTIONS = [
    "reads.rate",
    "folders.rate",
    "closures.rate",
    "closures.short",
    "closures.bound",
    "closures.method",
    "closures.inner",
    "state.rate",
    "siblings.rate",
    "paths.rate",
    "means.rate",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coded")
    (folder / "docs.jsonl").write_text(json.dumps({"q": "Is it?"}) + "\n")
    for name, content in MODULES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    for function in FUNCTIONS:
        name = function.replace(".", "_")
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, more=SCORED.format(function=function)))
    more = SCORED.format(function="means.rate").replace("aggregation: mean", "aggregation: !function means.most")
    (folder / "aggregated.yaml").write_text(TASK.format(name="aggregated", more=more))
    return folder


@pytest.fixture(scope="module")
def requests(folder: Path, tokenizer: Any) -> TaskRequests:
    names = [*(function.replace(".", "_") for function in FUNCTIONS), "aggregated"]
    return build_requests(EvaluationSettings(tasks=names, task_path=str(folder)), tokenizer, 96)


def _in_another_process(requests: TaskRequests, file: Path) -> dict[str, list[float]]:
    """task -> its metrics where every score is zero, by a process that gets the requests as a worker does."""
    file.write_bytes(pickle.dumps(requests))
    script = (
        "import json, pickle, sys\n"
        "import numpy as np\n"
        "from sweep.evaluation.questions.replay import Scores\n"
        "data = pickle.load(open(sys.argv[1], 'rb'))\n"
        "scores = Scores(np.zeros(len(data.requests)), np.zeros(len(data.requests), bool))\n"
        "print(json.dumps({task.name: list(task.metrics(scores).values.values()) for task in data.tasks}))\n"
    )
    command = [sys.executable, "-c", script, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_bundled_tasks_with_code_run_in_another_process(tokenizer: Any, tmp_path: Path) -> None:
    requests = build_requests(EvaluationSettings(tasks=["reference_facts_names"], limit=2), tokenizer, 256)
    (found,) = _in_another_process(requests, tmp_path / "tasks.pickle").values()
    assert found[0] == 0.0 and 0 < found[1] < 1  # all candidates are as likely: the right one is the last


def test_code_of_every_kind_runs_in_a_process_without_its_folder(
    requests: TaskRequests, folder: Path, tmp_path: Path
) -> None:
    assert not list(folder.rglob("__pycache__"))  # nothing is written beside what the user wrote
    away = folder.with_name("moved")
    shutil.move(folder, away)
    try:
        found = _in_another_process(requests, tmp_path / "tasks.pickle")
    finally:
        shutil.move(away, folder)
    assert found == {task.name: [1.0] for task in requests.tasks}


def test_a_folder_travels_once_for_all_of_its_tasks(requests: TaskRequests) -> None:
    folders = {id(code) for task in requests.tasks for code in task.frozen.code}
    assert len(folders) == 1
    assert set(next(iter(requests.tasks[0].frozen.code)).files) >= set(MODULES)


def test_modules_of_the_same_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    values = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "helper.py").write_text(f"VALUE = {place!r}\n")
        (tmp_path / place / "rules.py").write_text("def value():\n    import helper\n    return helper.VALUE\n")
        values.append(load_module(tmp_path / place / "rules.py", tmp_path / place).value)
    assert [value() for value in values] == ["one", "two"]
    assert [Freezer().freeze(value).thaw()() for value in values] == ["one", "two"]


REGISTERING = """from lm_eval.api.registry import register_filter, register_metric
from lm_eval.api.filter import Filter
@register_filter("a_filter_of_a_test")
class Cut(Filter):
    def apply(self, resps, docs):
        return [[text[:1] for text in texts] for texts in resps]
@register_metric(metric="a_metric_of_a_test", higher_is_better=True, aggregation="mean")
def rate(references, predictions, **_):
    return float(len(predictions[0]))
def docs(data):
    return data
"""


@pytest.fixture
def registries_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers with lm-eval is gone afterwards."""
    from lm_eval.api import registry

    for name in ("filter", "metric", "metric_agg", "higher_is_better", "aggregation"):
        table = getattr(registry, f"{name}_registry")
        monkeypatch.setattr(table, "_objs", dict(table._objs))


@pytest.mark.usefixtures("registries_given_back")
def test_code_may_register_filters_and_metrics(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps({"q": "Is it?"}) + "\n")
    (tmp_path / "rules.py").write_text(REGISTERING)
    more = (
        "process_docs: !function rules.docs\nmetric_list: [{metric: a_metric_of_a_test}]\n"
        "filter_list: [{name: cut, filter: [{function: a_filter_of_a_test}, {function: take_first}]}]\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 4}"
    )
    body = TASK.format(name="mine", more=more).replace("multiple_choice", "generate_until")
    (tmp_path / "mine.yaml").write_text(body.replace("doc_to_choice: ['yes', 'no']\n", ""))
    (task,) = build_requests(EvaluationSettings(tasks=["mine"], task_path=str(tmp_path)), tokenizer, 96).tasks
    found = task.metrics(Scores(np.zeros(0), np.zeros(0, bool), ["word"]))
    assert found.values == {("a_metric_of_a_test", "cut"): 1.0}
    (tmp_path / "other.py").write_text(REGISTERING + "# another\n")
    with pytest.raises(ValueError, match="already registered"):
        load_module(tmp_path / "other.py", tmp_path)


def test_code_that_has_no_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("def make():\n    def inner():\n        return 1\n    return inner\n")
    unnamed = load_module(tmp_path / "rules.py", tmp_path).make()
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
        Freezer().freeze(unnamed)


def test_a_folder_that_is_too_large_to_travel_names_its_largest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules.py").write_text("def value():\n    return open('large.bin')\n")
    (tmp_path / "large.bin").write_bytes(bytes(3000))
    monkeypatch.setattr(taskcode, "MOST", 2000)
    with pytest.raises(SettingsError, match=r"the largest is large\.bin"):
        Freezer().freeze(load_module(tmp_path / "rules.py", tmp_path).value)


def test_other_folders_beside_the_code_stay_at_home(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.parquet").write_bytes(b"1")
    (tmp_path / "rules.py").write_text("def value():\n    return 1\n")
    (code,) = Freezer().freeze(load_module(tmp_path / "rules.py", tmp_path).value).code
    assert set(code.files) == {"rules.py"}


def test_a_changed_module_is_imported_again(tmp_path: Path) -> None:
    file = tmp_path / "rules.py"
    file.write_text("VALUE = 1\n")
    assert load_module(file, tmp_path).VALUE == 1
    file.write_text("VALUE = 22\n")
    assert load_module(file, tmp_path).VALUE == 22


def test_folders_of_processes_that_were_killed_are_removed(
    requests: TaskRequests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(taskcode, "_UNPACKED", {})
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f"{taskcode._prefix()}{gone.pid}-abc"
    living = tmp_path / f"{taskcode._prefix()}{os.getpid()}-abc"
    others = tmp_path / "task-code-abc"
    for folder in (left, living, others):
        folder.mkdir()
        (folder / "rate.py").write_text("x = 1")
    requests.tasks[0].frozen.code[0].unpack()
    assert not left.exists() and living.exists() and others.exists()

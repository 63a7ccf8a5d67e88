"""Task folders: files, keys, references, data, templates and code that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bad_inputs.common import Case, write_study

HEAD = "dataset_path: json\ndataset_kwargs: {data_files: {test: docs.jsonl}}\ntest_split: test\n"
CHOICE = HEAD + (
    "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['yes', 'no']\ndoc_to_target: gold\n"
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
)
WORDS = HEAD + "output_type: loglikelihood\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{answer}}'\n"
WRITE = HEAD + "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{answer}}'\n"
DOCS = [{"q": "Is it?", "answer": "yes", "gold": 0}, {"q": "Was it?", "answer": "no", "gold": 1}]
SHELL = "{{ cycler.__init__.__globals__.os.popen('touch made').read() }}"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)


def files(contents: dict[str, str | list[Any]], tasks: str = "mine", **evaluation: Any) -> Callable[[Path], list[str]]:
    """A study of the task `tasks` in a folder with these files; a list is written as JSON lines."""

    def build(folder: Path) -> list[str]:
        for name, content in {"docs.jsonl": DOCS, **contents}.items():
            path = folder / "tasks" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
            path.write_text(text, encoding="utf-8")
        section = {"tasks": [tasks], "task_path": str(folder / "tasks"), **evaluation}
        data_free: dict[str, Any] = {"methods": [{"method": "rtn", "bits": 3}], "calibration": None}
        return [write_study(folder, evaluation=section, **data_free), "--local"]

    return build


def task(body: str, docs: list[Any] | str | None = None, **evaluation: Any) -> Callable[[Path], list[str]]:
    """A study of one task `mine` with this body and these documents."""
    given = {} if docs is None else {"docs.jsonl": docs}
    return files({"mine.yaml": f"task: mine\n{body}", **given}, **evaluation)


def changed(body: str, **keys: str) -> str:
    """The body of a task with other lines for some keys; an empty line leaves a key out."""
    kept = [line for line in body.splitlines() if line.partition(":")[0] not in keys]
    return "".join(f"{line}\n" for line in [*kept, *(f"{key}: {value}" for key, value in keys.items() if value)])


def code(function: str, module: str | None = "def rate(doc, answers):\n    return {'acc': 1.0}\n", **more: Any) -> Any:
    body = changed(CHOICE, process_results=f"!function {function}")
    extra: dict[str, str | list[Any]] = {} if module is None else {"rules.py": module}
    return files({"mine.yaml": f"task: mine\n{body}", **extra}, **more)


MINE = r"task 'mine' \(.*mine\.yaml\)"
CASES: dict[str, Case] = {
    # files
    "no such task": Case(files({"mine.yaml": f"task: mine\n{CHOICE}"}, "mien"), r"unknown task 'mien', did you mean"),
    "broken YAML": Case(task("doc_to_text: [a\n"), r"'mine' stands in a file that is broken: .*mine\.yaml, line \d+:"),
    "a list": Case(files({"mine.yaml": "- task: mine\n"}), r"unknown task 'mine': .*expected a mapping .* got a list"),
    "a key twice": Case(task(CHOICE + "doc_to_text: b\n"), r"mine\.yaml, line 1: the key 'doc_to_text' is there twice"),
    "YAML bomb": Case(task(CHOICE + BOMB), r"mine\.yaml, line \d+: more than 1,000,000 values"),
    "alias in itself": Case(task(CHOICE + "metadata: &a {b: *a}\n"), r"an alias stands within its own anchor"),
    "Python in YAML": Case(
        task(CHOICE + "metadata: !!python/object/apply:os.system [touch made]\n"), r"mine\.yaml, line \d+: could not"
    ),
    "nested too deeply": Case(task(f"metadata: {'[' * 5000}{']' * 5000}\n"), r"stands in a file that is broken"),
    "include of no file": Case(task("include: base.yaml\n"), r"include: no file 'base\.yaml' beside it"),
    "include of a number": Case(task("include: 5\n"), r"include: expected the name of a file, got 5"),
    "include in a circle": Case(
        files({"mine.yaml": "task: mine\ninclude: a.yaml\n", "a.yaml": "include: mine.yaml\n"}), r"includes itself"
    ),
    "name that is a number": Case(files({"mine.yaml": f"task: 12\n{CHOICE}"}, "12"), r"task: 12 is no text; quote"),
    "name with a newline": Case(
        files({"mine.yaml": f'task: "a\\nb"\n{CHOICE}'}, "mine"), r"unknown task 'mine': .* cannot be shown"
    ),
    "name of the mean": Case(
        files({"mean.yaml": f"task: mean\n{CHOICE}"}, "mean"),
        r"task 'mean' \(.*mean\.yaml\): tables call the mean over tasks so; give it another name",
    ),
    "defined twice": Case(
        files({"mine.yaml": f"task: mine\n{CHOICE}", "other.yaml": f"task: mine\n{WORDS}"}),
        r"'mine' is defined twice, in .*mine\.yaml and in .*other\.yaml; rename",
    ),
    # groups
    "a group in itself": Case(files({"g.yaml": "group: g\ntask: [g]\n"}, "g"), r"the group 'g' holds itself \(g > g\)"),
    "a group in a circle": Case(
        files({"g.yaml": "group: g\ntask: [h]\n", "h.yaml": "group: h\ntask: [{group: g}]\n"}, "g"),
        r"the group 'g' holds itself \(g > h > g\)",
    ),
    "a member that is not there": Case(
        files({"g.yaml": "group: g\ntask: [mien]\n", "mine.yaml": f"task: mine\n{CHOICE}"}, "g"),
        r"group 'g' \(.*g\.yaml\): unknown task 'mien', did you mean 'mine'",
    ),
    "a group without tasks": Case(files({"g.yaml": "group: g\ntask: []\n"}, "g"), r"task: expected a list of tasks"),
    "a group's setting of the wrong kind for its tasks": Case(
        files({"g.yaml": "group: g\ntask: [piqa]\nnum_fewshot: two\n"}, "g"),
        r"group 'g' \(.*g\.yaml\): num_fewshot: expected a whole number from 0, got 'two'",
    ),
    "a template over a task of a group": Case(
        files({"g.yaml": "group: g\ntask: [{task: piqa, doc_to_text: '{{q'}]\n"}, "g"),
        r"task\[0\]\.doc_to_text: no template",
    ),
    "a group's unknown mean": Case(
        files({"g.yaml": "group: g\ntask: [piqa]\naggregate_metric_list: [{metric: acc, aggregation: max}]\n"}, "g"),
        r"aggregate_metric_list\[0\]\.aggregation: expected mean, got 'max'",
    ),
    # keys
    "unknown key": Case(
        task(CHOICE + "doc_to_txt: a\n"), MINE + r": unknown key 'doc_to_txt', did you mean 'doc_to_te"
    ),
    "unknown key of an included file": Case(
        files({"mine.yaml": "task: mine\ninclude: base.yaml\n", "base.yaml": CHOICE + "shuffle: true\n"}),
        r"task 'mine' \(.*base\.yaml\): unknown key 'shuffle'; leave it out",
    ),
    "unknown key for the prompt's examples": Case(
        task(CHOICE + "fewshot_config: {samplr: first_n}\n"), r"fewshot_config\.unknown key 'samplr', did you mean"
    ),
    "unknown sampler": Case(task(CHOICE + "fewshot_config: {sampler: frist_n}\n"), r"did you mean 'first_n'"),
    "unknown kind": Case(
        task(changed(CHOICE, output_type="multiple_choices")), r"output_type: .* did you mean 'multip"
    ),
    "unknown metric": Case(task(CHOICE.replace("metric: acc", "metric: accc")), r"unknown metric 'accc', did you mean"),
    "unknown aggregation": Case(task(CHOICE.replace(": mean", ": avg")), r"unknown aggregation 'avg'; choose from"),
    "no aggregation for a metric of one's own": Case(
        task(changed(CHOICE, metric_list="[{metric: mine}]", process_results="!function math.floor"), allow_code=True),
        r"metric_list\[0\]\.aggregation: needed, but not given: 'mine' is no metric",
    ),
    "metrics that are no list": Case(
        task(changed(CHOICE, metric_list="acc")), r"metric_list: expected a list, got 'acc'"
    ),
    "unknown filter": Case(
        task(WRITE + "filter_list: [{name: x, filter: [{function: regx}]}]\n"), r"unknown filter 'regx', did you mean"
    ),
    "broken regular expression": Case(
        task(WRITE + "filter_list: [{name: x, filter: [{function: regex, regex_pattern: '('}]}]\n"),
        r"filter_list\[0\]\.filter\[0\]\.regex_pattern: no regular expression",
    ),
    "until is a number": Case(task(WRITE + "generation_kwargs: {until: [5]}\n"), r"generation_kwargs\.until\[0\]: exp"),
    "tokens are text": Case(
        task(WRITE + "generation_kwargs: {max_gen_toks: many}\n"), r"max_gen_toks: expected a whole"
    ),
    "a split that is not there": Case(
        task(changed(CHOICE, test_split="tset")), r"test_split: no split 'tset'; data_fi"
    ),
    "no split": Case(task(changed(CHOICE, test_split="")), r"test_split: needed, but not given"),
    "no prompt": Case(task(changed(CHOICE, doc_to_text="")), r"doc_to_text: needed, but not given"),
    "no prompt of rolling text": Case(
        task(changed(CHOICE, doc_to_text="", output_type="loglikelihood_rolling")),
        r"doc_to_text: needed, but not given: an empty text \(\"\"\) where nothing stands before",
    ),
    "no such data file": Case(
        task(changed(CHOICE, dataset_kwargs="{data_files: {test: dosc.jsonl}}")),
        r"dataset_kwargs\.data_files\.test: no file 'dosc\.jsonl' beside mine\.yaml",
    ),
    "no data files": Case(
        task(changed(CHOICE, dataset_kwargs="")), r"dataset_kwargs\.data_files: needed, but not given"
    ),
    "few-shot of a word": Case(task(CHOICE + "num_fewshot: three\n"), r"num_fewshot: expected a whole number from 0"),
    "a text for a function": Case(
        task(CHOICE + "process_docs: rules.clean\n"), r"process_docs: expected `!function module\.name`, got 'rules"
    ),
    # templates
    "template syntax": Case(task(changed(CHOICE, doc_to_text="'{{q'")), r"doc_to_text: no template, line 1: "),
    "unknown template filter": Case(
        task(changed(CHOICE, doc_to_text="'{{q|uper}}'")), r"no template, line 1: No filter"
    ),
    "choices that are yes and no": Case(
        task(changed(CHOICE, doc_to_choice="[yes, no]")), r"choice 0 is True, expected"
    ),
    "blank choice": Case(task(changed(CHOICE, doc_to_choice="['yes', '']")), r"doc_to_choice: choice 1 is blank"),
    "no choices": Case(task(changed(CHOICE, doc_to_choice="[]")), r"expected texts to choose from, got none"),
    "the same choice twice": Case(task(changed(CHOICE, doc_to_choice="[a, a]")), r"doc_to_choice: 'a' is there twice"),
    "gold beyond the choices": Case(
        task(changed(CHOICE, doc_to_target="7")), r"doc_to_target: 7 is none of the 2 choic"
    ),
    "negative gold": Case(task(changed(CHOICE, doc_to_target="-1")), r"doc_to_target: -1 is none of the 2 choices"),
    # code
    "code that is not allowed": Case(
        code("rules.rate"), r"process_results: `!function rules\.rate` runs Python code, .* `allow_code: true`"
    ),
    "code of an installed package": Case(code("os.system"), r"`!function os\.system` runs Python code"),
    "code in an included file": Case(
        files(
            {"mine.yaml": f"task: mine\n{CHOICE}include: base.yaml\n", "base.yaml": "doc_to_text: !function os.system"}
        ),
        r"base\.yaml\): doc_to_text: `!function os\.system` runs Python code",
    ),
    "code in a group": Case(
        files({"g.yaml": "group: g\ntask: [{task: piqa, process_docs: !function os.system}]\n"}, "g"),
        r"task\[0\]\.process_docs: `!function os\.system` runs Python code",
    ),
    "a class": Case(task("class: !function os.system\n"), r"class: `!function os\.system` runs Python code"),
    "code of a data set": Case(
        task(changed(CHOICE, dataset_path="a/b", dataset_kwargs="{trust_remote_code: true}")),
        r"dataset_kwargs\.trust_remote_code asks for the data set's own code",
    ),
    "a script for a data set": Case(
        task(changed(CHOICE, dataset_path="load.py")), r"dataset_path: 'load\.py' is a script"
    ),
    "a pickle": Case(task(changed(CHOICE, dataset_path="pandas")), r"dataset_path reads pickles"),
    "a metric that is a program": Case(
        task(CHOICE.replace("metric: acc", "metric: who/knows, hf_evaluate: true")), r"runs the program 'who/knows'"
    ),
    "a metric that is a program, where the task's own scoring is taken back": Case(
        task(CHOICE.replace("metric: acc", "metric: who/knows, hf_evaluate: true") + "process_results: null\n"),
        r"runs the program 'who/knows'",
    ),
    "a metric that is a program, over all tasks of a group": Case(
        files({"g.yaml": "group: g\ntask: [piqa]\nmetric_list: [{metric: who/knows, aggregation: mean}]\n"}, "g"),
        r"\(.*g\.yaml\): metric_list\[0\]\.metric downloads and runs the program 'who/knows'",
    ),
    "a metric that is a program, over one task of a group": Case(
        files(
            {"g.yaml": "group: g\ntask: [{task: piqa, metric_list: [{metric: rules.py, aggregation: mean}]}]\n"}, "g"
        ),
        r"task\[0\]\.metric_list\[0\]\.metric downloads and runs the program 'rules\.py'",
    ),
    "no such module": Case(code("ruls.rate", allow_code=True), r"no file ruls\.py beside it, and no installed module"),
    "no such function": Case(code("rules.rat", allow_code=True), r"rules\.py has no 'rat', did you mean 'rate'"),
    "a module with a syntax error": Case(code("rules.rate", "def rate(:\n", allow_code=True), r"rules\.py, line 1: "),
    "a function without a module": Case(code("rate", allow_code=True), r"expected `!function module\.name`"),
    "allow_code that is text": Case(code("rules.rate", allow_code="sure"), r"evaluation\.allow_code: expected"),
    # what only the data tell
    "missing column": Case(
        task(changed(WORDS, doc_to_target="'{{answr}}'")),
        MINE + r", example 0: doc_to_target: the data have no column 'answr', did you mean 'answer'",
        torch=True,
    ),
    "missing attribute": Case(
        task(changed(WORDS, doc_to_text="'{{q.text}}'")), r"example 0: doc_to_text: .*no attribute 'text'", torch=True
    ),
    "column missing from the prompt's examples": Case(
        task(CHOICE + "fewshot_config: {doc_to_text: '{{question}}', split: test}\nnum_fewshot: 1\n"),
        r"example.*: doc_to_text: the data have no column 'question'",
        torch=True,
    ),
    "misspelt column": Case(
        task(changed(WORDS, doc_to_target="answr")), r"no column 'answr', did you mean 'answer'", torch=True
    ),
    "a shell command in a template": Case(
        task(changed(WORDS, doc_to_text=f'"{SHELL}"')), r"doc_to_text: .*'__init__' .* unsafe", torch=True
    ),
    "a template without end": Case(
        task(changed(WORDS, doc_to_text="'{% for i in range(10**9) %}a{% endfor %}'")), r"[Rr]ange too big", torch=True
    ),
    "a template of much text": Case(
        task(changed(WORDS, doc_to_text="""'{{ "a" * 10**9 }}'""")), r"doc_to_text: the result of '\*' is", torch=True
    ),
    "gold of one example": Case(
        task(CHOICE, [*DOCS, {"q": "So?", "answer": "", "gold": 2}]),
        r"example 2: doc_to_target: 2 is none of the 2 choices, 0 to 1",
        torch=True,
    ),
    "gold that is no choice": Case(
        task(changed(CHOICE, doc_to_target="'{{q}}'")),
        r"doc_to_target: 'Is it\?' is none of \['yes', 'no'\]",
        torch=True,
    ),
    "choices that are no list": Case(
        task(changed(CHOICE, doc_to_choice="'{{q}}'")), r"example 0: doc_to_choice: SyntaxError", torch=True
    ),
    "no examples": Case(task(CHOICE, ""), r"docs\.jsonl is empty", torch=True),
    "a line that is no JSON": Case(
        task(CHOICE, '{"q": "a", "gold": 0}\n{"q": \n'), r"docs\.jsonl, line 2: no JSON", torch=True
    ),
    "an empty answer": Case(
        task(WORDS, [*DOCS, {"q": "So?", "answer": "", "gold": 0}]),
        r"example 2: doc_to_target: expected text",
        torch=True,
    ),
    "empty prompts": Case(
        task(WORDS, [{"q": " ", "answer": "a", "gold": 0}, {"q": "", "answer": "a", "gold": 0}]),
        r"doc_to_text: the prompt is empty in every example",
        torch=True,
    ),
    "more examples than there are": Case(
        task(CHOICE, num_fewshot=5), r"num_fewshot: 5 examples are asked for .* the data have 2", torch=True
    ),
    "code that fails": Case(
        code("rules.rate", "1 / 0\n\ndef rate(doc, answers):\n    return {}\n", allow_code=True),
        r"rules\.py, line 1, in <module>: ZeroDivisionError",
        torch=True,
    ),
    "an unknown argument of generation": Case(
        task(WRITE + "generation_kwargs: {until: [a], max_gen_toks: 4, tmperature: 1}\n"),
        r"generation_kwargs: unknown argument 'tmperature', did you mean 'temperature'",
        torch=True,
    ),
    "an answer longer than the context": Case(
        task(WRITE + "generation_kwargs: {until: [a], max_gen_toks: 99999}\n"),
        r"leaves no room for a prompt",
        torch=True,
    ),
}

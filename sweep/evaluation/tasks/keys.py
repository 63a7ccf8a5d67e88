"""The keys of a task's file and what may stand in them, checked from its text.

lm-eval ignores some mistakes (a metric it does not know, a text where a function belongs) and meets others with an
error of Python in the middle of a trial; here each of them is one sentence that names the file and the key. What only
the data can tell (columns, right answers) is looked at when the requests are built, in `examine.py`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from calib.files import GLOB_CHARACTERS, absolute_files
from calib.settings import SettingsError
from sweep.evaluation.tasks import lmeval
from sweep.evaluation.tasks.files import code_files
from sweep.evaluation.tasks.names import LOCAL_FORMATS, closest
from sweep.evaluation.tasks.templates import syntax_error
from sweep.evaluation.tasks.yamlfiles import Function, TaskFile, leaves, leaves_with_places, listed

PROMPTS = ("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_decontamination_query")
TEMPLATES = ("description", *PROMPTS, "gen_prefix")
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
TEXTS = (*SPLITS, "dataset_name", "description", "target_delimiter", "fewshot_delimiter", "gen_prefix", "use_prompt")
FUNCTIONS = ("custom_dataset", "process_docs", "process_results", "class")
TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens", "max_length")

PROMPT = "a column, a template, or `!function module.name`"


def check_task(task: TaskFile, called: str) -> None:
    """Raise SettingsError for the first key of a task's file that cannot be used; `called` begins the message."""
    look = _Look(task, called)
    if "class" in task.config:  # a class takes what it likes
        look.expect_function("class")
        return
    look.check_keys(task.config, lmeval.task_keys() | lmeval.STRUCTURE)
    look.check_configuration(task.config, "")


def check_group(group: TaskFile, called: str) -> None:
    """The same for a group, with the tasks and groups that are defined in place."""
    look = _Look(group, called)
    look.check_group(group.config, "")


@dataclass(frozen=True)
class _Look:
    """One task's file under examination."""

    task: TaskFile
    called: str

    def wrong(self, key: str, message: str) -> NoReturn:
        raise SettingsError(f"{self.called} ({self._file(key)}): {key}: {message}")

    def _file(self, key: str) -> Path:
        """The file, of those that are merged, that says what `key` is."""
        first = re.split(r"[.\[]", key)[0]
        own, *included = self.task.parts
        holders = [file for file in (own, *reversed(included)) if first in self.task.parts[file]]
        return holders[0] if holders else own

    def known(self, kind: str) -> frozenset[str]:
        """lm-eval's metrics, aggregations or filters, and those that code beside the task's files registers."""
        modules = {
            (file.parent, item.file)
            for file, own in self.task.parts.items()
            for item in leaves(own)
            if isinstance(item, Function)
        }
        code = {used for folder, name in modules for _, used in code_files(folder, name) if used.suffix == ".py"}
        return lmeval.registered(kind) | lmeval.registrations(kind, code)

    def check_keys(self, config: Mapping[str, Any], known: Iterable[str], place: str = "") -> None:
        for key in config:
            if key not in known:
                message = f"unknown key '{key}'{closest(str(key), known, '; leave it out')}"
                raise SettingsError(f"{self.called} ({self._file(place or str(key))}): {place}{message}")

    def check_group(self, config: Mapping[str, Any], place: str) -> None:
        known = lmeval.group_keys() | lmeval.task_keys() | lmeval.STRUCTURE
        self.check_keys(config, known, place)
        self._check_overrides(config, place)
        members = config.get("task")
        if not isinstance(members, list) or not members:
            self.wrong(f"{place}task", f"expected a list of tasks, got {_short(members)}")
        for number, item in enumerate(members):
            here = f"{place}task[{number}]"
            if isinstance(item, Mapping) and "group" in item and isinstance(item.get("task"), list):
                self.check_group(item, f"{here}.")
            elif isinstance(item, Mapping) and "dataset_path" in item:
                self.check_keys(item, known, f"{here}.")
                self.check_configuration({**self.task.config, **item}, f"{here}.")
            elif isinstance(item, Mapping):
                self.check_keys(item, known, f"{here}.")
                self._check_overrides(item, f"{here}.")
                if not isinstance(item.get("task", item.get("group")), str):
                    self.wrong(here, "expected a name, or a mapping with `task` or `group`")
            elif not isinstance(item, str):
                self.wrong(here, f"expected a name, got {_short(item)}; quote it")
        for number, entry in enumerate(listed(config.get("aggregate_metric_list"))):
            self._check_mean(entry, f"{place}aggregate_metric_list[{number}]")

    def _check_mean(self, entry: Any, key: str) -> None:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("metric"), str):
            self.wrong(key, f"expected a mapping with `metric`, got {_short(entry)}")
        self.check_keys(entry, lmeval.mean_keys(), f"{key}.")
        rule = entry.get("aggregation", "mean")
        if rule != "mean" and not isinstance(rule, Function):
            self.wrong(f"{key}.aggregation", f"expected mean, got {_short(rule)}: lm-eval has no other for groups")

    def check_configuration(self, config: Mapping[str, Any], place: str) -> None:
        """A task's settings; `place` is where they stand when they are not the file's own."""
        checks: tuple[Callable[[Mapping[str, Any], str], None], ...] = (
            self._check_kinds,
            self._check_data,
            self._check_prompts,
            self._check_choices,
            self._check_metrics,
            self._check_filters,
            self._check_generation,
        )
        for check in checks:
            check(config, place)

    def _check_overrides(self, config: Mapping[str, Any], place: str) -> None:
        """Settings of tasks that a group, or an entry of it, puts over those of the tasks' own files."""
        for key in TEMPLATES:
            self._check_template(config.get(key), f"{place}{key}")
        self._check_kinds(config, place)
        self._check_metrics({"process_results": True, **config}, place)  # the tasks may make metrics of their own
        self._check_filters(config, place)
        self._check_generation(config, place)

    def _check_kinds(self, config: Mapping[str, Any], place: str) -> None:
        kind = config.get("output_type", "generate_until")
        if kind not in lmeval.OUTPUT_TYPES:
            self.wrong(f"{place}output_type", f"unknown type {_short(kind)}{_among(kind, lmeval.OUTPUT_TYPES)}")
        for key in TEXTS:
            if config.get(key) is not None and not isinstance(config[key], str):
                self.wrong(f"{place}{key}", f"expected text, got {_short(config[key])}; quote it")
        if not all(isinstance(tag, str) for tag in listed(config.get("tag"))):
            self.wrong(f"{place}tag", f"expected text, or a list of texts, got {_short(config['tag'])}")
        for key in FUNCTIONS:
            if config.get(key) is not None:
                self.expect_function(key, config, place)
        for key, least in (("num_fewshot", 0), ("repeats", 1)):
            if config.get(key) is not None and not _is_whole(config[key], least):
                self.wrong(f"{place}{key}", f"expected a whole number from {least}, got {_short(config[key])}")
        prompt = config.get("use_prompt")
        if prompt and ".yaml" in prompt:
            self.wrong(f"{place}use_prompt", f"{prompt!r}: write the templates into doc_to_text and doc_to_target")
        if prompt and prompt.count(":") != 1:
            self.wrong(f"{place}use_prompt", f"expected category:name, got {prompt!r}")

    def expect_function(self, key: str, config: Mapping[str, Any] | None = None, place: str = "") -> None:
        value = (config or self.task.config)[key]
        if not isinstance(value, Function):
            self.wrong(f"{place}{key}", f"expected `!function module.name`, got {_short(value)}")

    def _check_data(self, config: Mapping[str, Any], place: str) -> None:
        if config.get("custom_dataset") is None and not isinstance(config.get("dataset_path"), str):
            self.wrong(f"{place}dataset_path", f"expected text, got {_short(config.get('dataset_path'))}")
        if not any(config.get(key) for key in ("test_split", "validation_split")):
            self.wrong(f"{place}test_split", "needed, but not given; name the split of the data to evaluate")
        arguments = config.get("dataset_kwargs")
        if arguments is not None and not isinstance(arguments, Mapping):
            self.wrong(f"{place}dataset_kwargs", f"expected a mapping, got {_short(arguments)}")
        path = config.get("dataset_path")
        if isinstance(path, str) and (path.endswith(".py") or _some_file(f"{path}/{Path(path).name}.py")):
            self.wrong(f"{place}dataset_path", f"{path!r} is a script; give the data as JSON lines or Parquet")
        in_folder = "data_dir" in (arguments or {})
        if path in LOCAL_FORMATS and config.get("custom_dataset") is None and not in_folder:
            files = (arguments or {}).get("data_files")
            self._check_files(files, f"{place}dataset_kwargs.data_files")
            splits = list(files) if isinstance(files, Mapping) else ["train"]  # as the package datasets calls it
            for key in (key for key in SPLITS if config.get(key) not in (None, *splits)):
                self.wrong(f"{place}{key}", f"no split {config[key]!r}; data_files has {', '.join(map(str, splits))}")

    def _check_files(self, files: Any, key: str) -> None:
        """Local data files exist; they are read relative to the task's own file."""
        if files is None:
            self.wrong(key, "needed, but not given: the files of each split, such as {test: docs.jsonl}")
        for place, name in leaves_with_places(files, key):
            if not isinstance(name, str):
                self.wrong(place, f"expected the name of a file, got {_short(name)}")
            path = absolute_files(name, self.task.file.parent)
            if "://" not in name and not _some_file(path):
                self.wrong(place, f"no file {name!r} beside {self.task.file.name}; correct the name")

    def _check_prompts(self, config: Mapping[str, Any], place: str) -> None:
        for key in ("doc_to_text", "doc_to_target"):
            if config.get(key) is None and not config.get("use_prompt"):
                rolling = key == "doc_to_text" and config.get("output_type") == "loglikelihood_rolling"
                means = 'an empty text ("") where nothing stands before the text' if rolling else PROMPT
                self.wrong(f"{place}{key}", f"needed, but not given: {means}")
        shots = config.get("fewshot_config")
        if shots is not None and not isinstance(shots, Mapping):
            self.wrong(f"{place}fewshot_config", f"expected a mapping, got {_short(shots)}")
        self.check_keys(shots or {}, lmeval.fewshot_keys(), f"{place}fewshot_config.")
        sampler = (shots or {}).get("sampler", "default")
        if sampler not in lmeval.SAMPLERS and not isinstance(sampler, Function):
            message = f"unknown sampler {_short(sampler)}{_among(sampler, lmeval.SAMPLERS)}"
            self.wrong(f"{place}fewshot_config.sampler", message)
        for settings, where in ((config, place), (shots or {}, f"{place}fewshot_config.")):
            for key in TEMPLATES:
                self._check_template(settings.get(key), f"{where}{key}")

    def _check_template(self, value: Any, key: str) -> None:
        name = key.rpartition(".")[2]
        allowed: tuple[type, ...] = (str, Function)
        allowed += (int,) if name in ("doc_to_text", "doc_to_target") else ()
        allowed += (list,) if name in ("doc_to_target", "doc_to_choice") else ()
        allowed += (dict,) if name == "doc_to_choice" else ()
        if value is not None and (not isinstance(value, allowed) or isinstance(value, bool)):
            self.wrong(key, f"expected a column or a template, got {_short(value)}")
        error = syntax_error(value) if isinstance(value, str) else None
        if error:
            self.wrong(key, f"no template, {error}; correct {_short(value)}")

    def _check_choices(self, config: Mapping[str, Any], place: str) -> None:
        """Choices and the right one, where both are the same for all examples."""
        choices, gold = config.get("doc_to_choice"), config.get("doc_to_target")
        if choices is None and config.get("output_type") == "multiple_choice" and not config.get("use_prompt"):
            self.wrong(f"{place}doc_to_choice", "needed for multiple_choice, but not given: the answers to choose from")
        if not isinstance(choices, list | dict):
            return
        texts = list(choices.values()) if isinstance(choices, dict) else choices
        if problem := choices_problem(texts):
            self.wrong(f"{place}doc_to_choice", problem)
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            self.wrong(f"{place}doc_to_choice", f"{_short(twice)} is there twice; leave one of them out")
        if isinstance(gold, int) and not 0 <= gold < len(texts) and config.get("process_results") is None:
            self.wrong(f"{place}doc_to_target", f"{gold} is none of the {len(texts)} choices, 0 to {len(texts) - 1}")

    def _check_metrics(self, config: Mapping[str, Any], place: str) -> None:
        metrics = config.get("metric_list")
        if metrics is not None and not isinstance(metrics, list):
            self.wrong(f"{place}metric_list", f"expected a list, got {_short(metrics)}")
        for number, entry in enumerate(metrics or ()):
            key = f"{place}metric_list[{number}]"
            if not isinstance(entry, Mapping) or not isinstance(entry.get("metric"), str | Function):
                self.wrong(key, f"expected a mapping with `metric`, got {_short(entry)}")
            self._check_metric(entry, key, own=config.get("process_results") is not None)

    def _check_metric(self, entry: Mapping[str, Any], key: str, *, own: bool) -> None:
        metric, rule = entry["metric"], entry.get("aggregation")
        known, rules = self.known("metric"), self.known("aggregation")
        if isinstance(metric, str) and metric not in known and not own and not entry.get("hf_evaluate"):
            hint = closest(metric, known, "; one of the package `evaluate` needs `hf_evaluate: true`")
            self.wrong(f"{key}.metric", f"unknown metric '{metric}'{hint}")
        if rule is None and metric not in known:
            self.wrong(f"{key}.aggregation", f"needed, but not given: {_short(metric)} is no metric of lm-eval")
        if rule is not None and rule not in rules and not isinstance(rule, Function):
            self.wrong(f"{key}.aggregation", f"unknown aggregation {_short(rule)}{_among(rule, rules)}")

    def _check_filters(self, config: Mapping[str, Any], place: str) -> None:
        pipelines = config.get("filter_list")
        if pipelines is not None and not isinstance(pipelines, list):
            self.wrong(f"{place}filter_list", f"expected a list, got {_short(pipelines)}")
        for number, pipeline in enumerate(pipelines or ()):
            key = f"{place}filter_list[{number}]"
            steps = pipeline.get("filter") if isinstance(pipeline, Mapping) else None
            if not isinstance(steps, list) or not isinstance(pipeline.get("name"), str):
                self.wrong(key, f"expected a mapping with `name` and a list `filter`, got {_short(pipeline)}")
            for position, step in enumerate(steps):
                self._check_filter(step, f"{key}.filter[{position}]")

    def _check_filter(self, step: Any, key: str) -> None:
        function = step.get("function") if isinstance(step, Mapping) else None
        if not isinstance(function, str | Function):
            self.wrong(key, f"expected a mapping with `function`, got {_short(step)}")
        known = self.known("filter")
        if isinstance(function, str) and function not in known:
            self.wrong(f"{key}.function", f"unknown filter {function!r}{_among(function, known)}")
        for name, pattern in step.items():
            if name.startswith("regex") and isinstance(pattern, str):
                try:
                    re.compile(pattern)
                except re.error as error:
                    self.wrong(f"{key}.{name}", f"no regular expression: {error}")

    def _check_generation(self, config: Mapping[str, Any], place: str) -> None:
        arguments, key = config.get("generation_kwargs"), f"{place}generation_kwargs"
        if arguments is None:
            return
        if not isinstance(arguments, Mapping):
            self.wrong(key, f"expected a mapping, got {_short(arguments)}")
        until = arguments.get("until")
        for number, text in enumerate(listed(until)):
            if not isinstance(text, str) or not text:
                where = f"[{number}]" if isinstance(until, list) else ""
                self.wrong(f"{key}.until{where}", f"expected text that ends the answer, got {_short(text)}; quote it")
        for name in TOKENS:
            if arguments.get(name) is not None and not _is_whole(arguments[name], 1):
                self.wrong(f"{key}.{name}", f"expected a whole number from 1, got {_short(arguments[name])}")
        if not isinstance(arguments.get("do_sample", False), bool):
            self.wrong(f"{key}.do_sample", f"expected true or false, got {_short(arguments['do_sample'])}")
        temperature = arguments.get("temperature", 0)
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature < 1e9:
            self.wrong(f"{key}.temperature", f"expected a number from 0, got {_short(temperature)}")


def choices_problem(choices: Any) -> str | None:
    """Why these answers cannot be chosen from; None when they can."""
    if not isinstance(choices, list | tuple):
        return f"expected a list of texts, got {_short(choices)}"
    if not choices:
        return "expected texts to choose from, got none"
    for number, choice in enumerate(choices):
        if not isinstance(choice, str):
            return f"choice {number} is {_short(choice)}, expected text; quote it"
        if not choice.strip():
            return f"choice {number} is blank; leave it out"
    return None


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _some_file(path: str) -> bool:
    if "\0" in path:
        return False
    try:
        if GLOB_CHARACTERS & set(path) and any(glob.iglob(path, recursive=True)):
            return True
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _among(name: Any, known: Iterable[str]) -> str:
    choices = sorted(known)
    return closest(str(name), choices, f"; choose from {', '.join(choices)}")


def _short(value: Any) -> str:
    text = f"`!function {value.text}`" if isinstance(value, Function) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

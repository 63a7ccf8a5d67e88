"""What the installed lm-eval has, read from the text of its files: importing it takes seconds, planning has none.

Names of settings, metrics, aggregations and filters are taken from lm-eval's own sources and not listed here, so they
are those of the version that will build the requests.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from calib.settings import SettingsError

OUTPUT_TYPES = ("loglikelihood", "multiple_choice", "loglikelihood_rolling", "generate_until")
STRUCTURE = {"tag", "group", "task_list", "class", "include"}  # keys of a task's file that are no settings of the task
SAMPLERS = ("default", "first_n")
_REGISTERED = re.compile(r"""@register_(metric|aggregation|filter)\(\s*(?:\w+\s*=\s*)?["']([^"']+)["']""")


@lru_cache(maxsize=1)
def package() -> Path:
    """The folder of lm-eval. Raises SettingsError when it is not installed."""
    for finder in sys.meta_path:  # not importlib.util.find_spec, which asks the modules that are loaded first
        spec = finder.find_spec("lm_eval", None) if hasattr(finder, "find_spec") else None
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    raise SettingsError("lm-eval is not installed: pip install 'lm-eval[hf]'")


def tasks_folder() -> Path:
    return package() / "tasks"


@lru_cache(maxsize=1)
def task_keys() -> frozenset[str]:
    """Settings of a task."""
    return _fields("config/task.py", "TaskConfig")


@lru_cache(maxsize=1)
def fewshot_keys() -> frozenset[str]:
    """Settings in a task's `fewshot_config`."""
    return _fields("config/task.py", "FewshotConfig")


@lru_cache(maxsize=1)
def group_keys() -> frozenset[str]:
    return _fields("config/group.py", "GroupConfig")


@lru_cache(maxsize=1)
def mean_keys() -> frozenset[str]:
    """Settings in a group's `aggregate_metric_list`."""
    return _fields("config/group.py", "AggMetricConfig")


@lru_cache(maxsize=3)
def registered(kind: str) -> frozenset[str]:
    """Names of lm-eval's own metrics, aggregations or filters (`kind` is the singular)."""
    return registrations(kind, [package() / "api" / "metrics.py", *sorted((package() / "filters").glob("*.py"))])


def registrations(kind: str, files: Iterable[Path]) -> frozenset[str]:
    """Names of metrics, aggregations or filters that Python files register with lm-eval when they are imported."""
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    found = (match for text in texts for match in _REGISTERED.finditer(text))
    return frozenset(match.group(2) for match in found if match.group(1) == kind)


def _fields(file: str, name: str) -> frozenset[str]:
    """The annotated names in the body of a class."""
    tree = ast.parse((package() / file).read_bytes())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    targets = (node.target for node in body if isinstance(node, ast.AnnAssign))
    return frozenset(target.id for target in targets if isinstance(target, ast.Name))

"""`python -m sweep.advise MODEL --method gptq --bits 4 --candidates a.jsonl b.jsonl c4`: which text to calibrate with.

A full study compares every candidate with every set of it; this asks only for the trials that can change the answer,
round by round, and stops by what another trial is worth. What it leaves is an ordinary results folder: the same trials
that the full study has, with the study file that runs the rest of them. From Python:

    from sweep.advise import advise
    advice = advise("my-model", {"method": "gptq", "bits": 4}, ["a.jsonl", "b.jsonl", "c4"])
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from typing import Any

import typer

from calib.settings import SettingsError, one_line
from sweep.adviser import flags
from sweep.adviser.advice import Advice, Prepared, prepare, run
from sweep.adviser.question import NSAMPLES, SETS, Question, seconds_of
from sweep.launch import BAD_INPUT, FAILED, INTERRUPTED, OK, OneLine, make_runner, report
from sweep.results import ResultsError
from sweep.runs.bounds import bounded_exit
from sweep.runs.interrupts import interruptible
from sweep.runs.progress import Reporter
from sweep.runs.runner import RunnerError, RunOptions
from sweep.runs.session import find_results, hold
from sweep.shipping.entries import typed_method, typed_source

LISTS = ("--candidates", "--target", "--tasks", "--mixture", "--matters")


def advise(
    model: str | Mapping[str, Any],
    method: str | Mapping[str, Any] | Sequence[Any],
    candidates: Sequence[Any],
    *,
    budget: str | float | None = None,
    results: str | None = None,
    local: bool = False,
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    retry_failed: bool = False,
    reporter: Reporter | None = None,
    **asked: Any,
) -> Advice:
    """Say which of the candidate texts to calibrate with, and how sure that is.

    method: as in `sweep.compress.compress`; candidates: files, names of sources, or entries of a study; budget: seconds
    or a text such as "2h"; `asked`: the other fields of `sweep.adviser.question.Question` (targets, tasks, share,
    matters, guarantee, criterion, ...). The same call goes on where an earlier one was ended. Raises SettingsError for
    what cannot be asked, RunnerError when the trials cannot go on.
    """
    seconds = seconds_of(budget) if isinstance(budget, str) else budget
    question = Question(model, method, candidates, budget=seconds, **asked)
    options = RunOptions(local, address, workers, gpus_per_worker)
    return answer(prepare(question, results, options), reporter or Reporter(), retry_failed=retry_failed)


class ManyValues(OneLine):
    """`--candidates a b c`: flags that take everything up to the next one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(arguments: Sequence[str]) -> list[str]:
    """`--candidates a b` as `--candidates a --candidates b`, for the flags that take several values."""
    found: list[str] = []
    flag = ""
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument if argument in LISTS else ""
        elif flag and found[-1] != flag:
            found.append(flag)
        found.append(argument)
    return found


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=ManyValues)
def main(
    model: flags.Model,
    method: flags.MethodName,
    candidates: flags.Candidates,
    set_: flags.Settings = None,
    bits: flags.Bits = None,
    target: flags.Targets = None,
    tasks: flags.Tasks = None,
    measure: flags.Measure = "accuracy",
    budget: flags.Budget = None,
    share: flags.Share = None,
    matters: flags.Matters = None,
    guarantee: flags.Guarantee = False,
    criterion: flags.Criterion = "mean",
    uniform: flags.Uniform = True,
    mixture: flags.Mixtures = None,
    search_mixture: flags.SearchMixture = False,
    sets: flags.Sets = SETS,
    nsamples: flags.Nsamples = NSAMPLES,
    seqlen: flags.Seqlen = None,
    windows: flags.Windows = None,
    limit: flags.Limit = None,
    task_path: flags.TaskPath = None,
    seed: flags.Seed = 0,
    allow_overlap: flags.AllowOverlap = False,
    results: flags.ResultsFolder = None,
    dry_run: flags.DryRun = False,
    local: flags.Local = False,
    address: flags.Address = None,
    retry_failed: flags.RetryFailed = False,
    workers: flags.Workers = None,
    gpus_per_worker: flags.GpusPerWorker = None,
) -> None:
    """Say which calibration text to use for one model and method, from as few trials as that takes.

    What is done already is not run again, so after an interruption give the same command.

    Exit codes: 0 there is an answer, 1 there is none, since trials, the disk or the cluster failed, 2 it cannot be
    asked like this, 130 interrupted.
    """
    typed = locals()
    reporter = Reporter()
    answered = True

    def lines() -> Sequence[str]:
        nonlocal answered
        options = RunOptions(local, address, workers, gpus_per_worker)
        prepared = prepare(typed_question(typed), results, options)
        if dry_run:
            return prepared.plan_lines()
        advice = answer(prepared, reporter, retry_failed=retry_failed)
        answered = advice.verdict.arm is not None
        return advice.lines

    code = said(lines, reporter)
    raise typer.Exit(code if answered else FAILED)


def said(lines: Callable[[], Sequence[str]], reporter: Reporter) -> int:
    """Say what comes of it, or what is wrong; returns the exit code."""
    try:
        with interruptible():
            for line in lines():
                reporter.console.print(line, markup=False)  # a line that is continued ends in a backslash
        return OK
    except (SettingsError, ResultsError) as error:
        report(error)
        return BAD_INPUT
    except (RunnerError, OSError) as error:  # an OSError: a disk that is full, a store that is away
        print(
            f"stopped: {one_line(str(error))}; what is finished is kept, and the same command goes on", file=sys.stderr
        )
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
        return INTERRUPTED


def answer(prepared: Prepared, reporter: Reporter, *, retry_failed: bool) -> Advice:
    """Conduct a question in its folder, which other launches are kept out of."""
    with ExitStack() as held:
        store = find_results(prepared.results)
        lease = hold(store, held)
        runner = partial(make_runner, options=prepared.options, reporter=reporter)
        return run(prepared, store, lease, runner, reporter, retry_failed=retry_failed)


def typed_question(typed: Mapping[str, Any]) -> Question:
    """The question that the flags spell. Raises SettingsError."""
    alike = {field.name for field in fields(Question)} & set(typed)
    read = {
        "method": typed_method(typed["method"], typed["set_"] or [], typed["bits"]),
        "candidates": [typed_source(text) for text in typed["candidates"]],
        "targets": [typed_source(text) for text in typed["target"] or []],
        "tasks": typed["tasks"] or [],
        "budget": None if typed["budget"] is None else seconds_of(typed["budget"]),
        "matters": tuple(typed["matters"] or ()),
        "mixtures": [typed_mixture(text) for text in typed["mixture"] or []],
    }
    return Question(**{**{name: typed[name] for name in alike}, **read})


def typed_mixture(text: str) -> dict[str, float]:
    """`books=0.7,code=0.3` as shares by name. Raises SettingsError."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.rpartition("=")
        if name.strip() in shares:
            raise SettingsError(f"--mixture {text!r}: names {name.strip()!r} twice; leave one out")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise SettingsError(f"--mixture {text!r}: expected shares by name, such as books=0.7,code=0.3")
    return shares


if __name__ == "__main__":
    bounded_exit(app)

"""`python -m sweep.advise MODEL --method gptq --bits 4 --candidates a.jsonl b.jsonl c4`: which text to calibrate with.

A full study compares every candidate with every set of it; this asks only for the trials that can change the answer,
round by round, and stops by what another trial is worth. What it leaves is an ordinary results folder: the same trials
that the full study has, with the study file that runs the rest of them. From Python:

    from sweep.advise import advise
    advice = advise("my-model", {"method": "gptq", "bits": 4}, ["a.jsonl", "b.jsonl", "c4"])
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import typer

from calib.settings import SettingsError
from calib.yamltext import read_yaml
from sweep.adviser.advice import Advice, prepare, run
from sweep.adviser.question import NSAMPLES, SETS, Question, seconds_of
from sweep.launch import BAD_INPUT, FAILED, INTERRUPTED, OK, OneLine, make_runner, report
from sweep.results import ResultsError
from sweep.runs.interrupts import interruptible, undisturbed_from_now_on
from sweep.runs.progress import Reporter
from sweep.runs.runner import RunnerError, RunOptions
from sweep.runs.session import find_results, hold
from sweep.shipping.entries import typed_settings

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
    gpus_per_worker: float = 1.0,
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
    reporter = reporter or Reporter()
    prepared = prepare(question, results, options)
    with ExitStack() as held:
        store = find_results(prepared.results)
        lease = hold(store, held)
        runner = partial(make_runner, options=options, reporter=reporter)
        return run(prepared, store, lease, runner, reporter, retry_failed=retry_failed)


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
    model: Annotated[str, typer.Argument(help="A bundled name, a folder, or a hub id.")],
    method: Annotated[str, typer.Option(help="gptq, awq, wanda, sparsegpt, ...")],
    candidates: Annotated[list[str], typer.Option(help="Text or JSONL files, and names of sources, two or more.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, such as bits=4.")] = None,
    bits: Annotated[int | None, typer.Option(help="Short for --set bits=.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Text that the model shall do well on: files, or bundled held-out texts [default: all]."),
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="lm-eval tasks, a target together.")] = None,
    measure: Annotated[str, typer.Option(help="Of tasks: accuracy or loglikelihood.")] = "accuracy",
    budget: Annotated[str | None, typer.Option(help="Wall time of all workers, such as 90s, 20m or 2h.")] = None,
    share: Annotated[
        float | None, typer.Option(help="Instead: share of the full study's time [default: 0.25].")
    ] = None,
    matters: Annotated[
        list[float] | None,
        typer.Option(help="The difference that matters, in the target's unit [default: 0.1 SD of a draw]."),
    ] = None,
    guarantee: Annotated[
        bool,
        typer.Option(
            "--guarantee",
            help="Race on full draws that errs at most one time in ten; a quarter of a study can then tell only leads "
            "of about 2.7 SD of a draw.",
        ),
    ] = False,
    criterion: Annotated[str, typer.Option(help="mean, or lower-quantile: what one draw in ten exceeds.")] = "mean",
    uniform: Annotated[bool, typer.Option(help="Whether the even mixture of the candidates takes part.")] = True,
    mixture: Annotated[list[str] | None, typer.Option(help="A mixture that takes part: books=0.7,code=0.3.")] = None,
    sets: Annotated[int, typer.Option(help="Calibration sets of each candidate in the full study.")] = SETS,
    nsamples: Annotated[int, typer.Option(help="Calibration windows.")] = NSAMPLES,
    seqlen: Annotated[int | None, typer.Option(help="Tokens of a window [default: 2048, or the context].")] = None,
    windows: Annotated[int | None, typer.Option(help="Windows of each target text [default: 32].")] = None,
    limit: Annotated[int | None, typer.Option(help="Examples of each task [default: all].")] = None,
    task_path: Annotated[str | None, typer.Option(help="Folder with task YAML of one's own.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the calibration sets.")] = 0,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Go on although a candidate holds text of the target.")
    ] = False,
    results: Annotated[
        str | None, typer.Option(help="Folder or s3:// gs:// URI of the results [default: results/advise-...].")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be asked, and stop.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster (auto, or host:port).")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    workers: Annotated[int | None, typer.Option(help="Workers [default: as many as there is room for].")] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(help="GPUs of a worker; 0.5 lets two share one, 0 runs on CPUs.")
    ] = 1.0,
) -> None:
    """Say which calibration text to use for one model and method, from as few trials as that takes.

    What is done already is not run again, so after an interruption give the same command.

    Exit codes: 0 there is an answer, 1 the dense model or the cluster failed, 2 it cannot be asked like this, 130
    interrupted.
    """
    reporter = Reporter()
    try:
        entry = {"method": method, **typed_settings(set_ or []), **({} if bits is None else {"bits": bits})}
        question = Question(
            model=model,
            method=entry,
            candidates=[typed_source(text) for text in candidates],
            targets=[typed_source(text) for text in target or []],
            tasks=tasks or [],
            budget=None if budget is None else seconds_of(budget),
            share=share,
            matters=tuple(matters or ()),
            guarantee=guarantee,
            criterion=criterion,
            uniform=uniform,
            mixtures=[typed_mixture(text) for text in mixture or []],
            allow_overlap=allow_overlap,
            sets=sets,
            nsamples=nsamples,
            seqlen=seqlen,
            windows=windows,
            limit=limit,
            task_path=task_path,
            measure=measure,
            seed=seed,
        )
        options = RunOptions(local, address, workers, gpus_per_worker)
        with interruptible(), ExitStack() as held:
            prepared = prepare(question, results, options)
            store = find_results(prepared.results)
            if dry_run:
                lines = prepared.plan_lines(store)
            else:
                lease = hold(store, held)
                runner = partial(make_runner, options=options, reporter=reporter)
                lines = list(run(prepared, store, lease, runner, reporter, retry_failed=retry_failed).lines)
            for line in lines:
                reporter.say(line)
        code = OK
    except (SettingsError, ResultsError) as error:
        report(error)
        code = BAD_INPUT
    except RunnerError as error:
        print(f"stopped: {error}; what is finished is kept, and the same command goes on", file=sys.stderr)
        code = FAILED
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
        code = INTERRUPTED
    raise typer.Exit(code)


def typed_source(text: str) -> Any:
    """A name or a path as it is; `{source: file, path: my.jsonl, column: body}` as the entry that it spells."""
    return read_yaml(text) if text.lstrip().startswith("{") else text


def typed_mixture(text: str) -> dict[str, float]:
    """`books=0.7,code=0.3` as shares by name. Raises SettingsError."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.rpartition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise SettingsError(f"--mixture {text!r}: expected shares by name, such as books=0.7,code=0.3")
    return shares


if __name__ == "__main__":
    try:
        app()
    finally:
        undisturbed_from_now_on()

"""The answer for a terminal: at most 24 lines of 80 columns.

What to use comes first, then how sure that is and what it gains, then the arms, then what to type next. An answer names
its target and its unit, since text and tasks can order sources in opposite ways.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from sweep.adviser.conduct import Conclusion
from sweep.adviser.outcomes import FULL
from sweep.adviser.policy import spent
from sweep.adviser.study import Design
from sweep.adviser.verdict import Gain, Standing, Verdict
from sweep.runs.progress import duration

WIDTH, LINES = 80, 24
ARMS = 7  # rows of the table
NAME = 30  # columns of an arm's name
CONTINUED = " \\"


def answer_lines(ended: Conclusion, design: Design, root: str, trial: str | None, full_study: float) -> list[str]:
    """The answer. `trial` is the id of the draw to ship, `full_study` the seconds of a worker for all of it."""
    verdict = ended.verdict
    study = design.studies[FULL]
    head = [f"{study.models[0].name} with {study.labels[-1]}, {_judged(ended, design)}:"]
    said = [_use(verdict, ended, design), *_how_sure(verdict, design), *_gains(verdict, design)]
    said += _disagree(verdict)
    seconds = spent([outcome for step in ended.steps for outcome in step.outcomes], ended.costs)
    count = sum(len(step.outcomes) for step in ended.steps)
    cost = (
        f"{count} trials and the controls took {duration(seconds)} of one worker, {_percent(seconds / full_study)} of "
        f"the full study's {duration(full_study)}; {ended.stop.reason}"
    )
    tail = [*_more(verdict, design), cost]
    commands = _commands(root, trial)
    text = [line for sentence in (*head, *said) for line in _wrap(sentence)]
    after = [line for sentence in tail for line in _wrap(sentence)]
    rows = max(0, min(ARMS, LINES - len(text) - len(after) - len(commands) - 2))
    return [*text, *_table(verdict.standings, rows), *after, *commands][:LINES]


def _judged(ended: Conclusion, design: Design) -> str:
    """`judged on evaluation (32 windows)`."""
    kinds = {"text": "windows"}
    named = [
        f"{target.name} ({count} {kinds.get(target.measure, 'examples')})"
        for target, count in zip(design.targets, ended.examples, strict=True)
    ]
    return f"judged on {' and '.join(named)}"


def _unit(design: Design) -> str:
    """Of the loss: that of the targets, where they share one."""
    units = {target.unit for target in design.targets}
    return units.pop() if len(units) == 1 else "units of each target"


def _use(verdict: Verdict, ended: Conclusion, design: Design) -> str:
    control = _control(design)
    others = _listed([arm for arm in verdict.tie if arm != verdict.arm])
    if verdict.kind == "cannot matter":
        return f"Use any: data cannot matter here. {_sentence(ended.stop.reason)}"
    if verdict.kind == "failed" or verdict.arm is None:
        return (
            f"There is no answer: {ended.stop.reason}; without data, {control} works."
            if control
            else (f"There is no answer: {ended.stop.reason}.")
        )
    if verdict.kind == "winner":
        return f"Use {verdict.arm}."
    if verdict.kind == "tie":
        return f"Use {verdict.arm}, or {others}: they differ by less than what matters, {_size(verdict.matters)}."
    return f"It cannot be told which is best: {verdict.arm} leads; {others or 'others'} may be as good."


def _how_sure(verdict: Verdict, design: Design) -> list[str]:
    if verdict.arm is None or verdict.regret is None:
        return []
    return [
        f"Expected regret {_size(verdict.regret)} {_unit(design)}, with a probability of 80 % at most "
        f"{_size(verdict.regret_upper)} (SD of a draw {_size(verdict.sd)}, what matters {_size(verdict.matters)})."
    ]


def _gains(verdict: Verdict, design: Design) -> list[str]:
    if verdict.arm is None:
        return []
    parts = []
    if verdict.gain_random is not None:
        parts.append(f"over a random candidate {_gain(verdict.gain_random)}")
    if verdict.gain_control is not None:
        parts.append(f"over {_control(design)}, without data, {_gain(verdict.gain_control)}")
    return [f"Gain {' and '.join(parts)} (80 % intervals)."] if parts else []


def _disagree(verdict: Verdict) -> list[str]:
    return [
        f"Targets disagree: {found.first} is served best by {found.best_first}, {found.second} by {found.best_second}."
        for found in verdict.disagreements[:1]
    ]


def _more(verdict: Verdict, design: Design) -> list[str]:
    more = verdict.more
    if more is None or verdict.kind in ("failed", "cannot matter"):
        return []
    if more.trials < 1:
        return ["One more hour buys nothing: no draw is left that could change the answer."]
    return [
        f"One more hour buys {more.trials} trials and lowers the expected regret from {_size(more.regret_now)} to "
        f"{_size(more.regret_then)} {_unit(design)}."
    ]


def _table(standings: Sequence[Standing], rows: int) -> list[str]:
    """The best arms, one a line."""
    if not standings or rows < 2:
        return []
    shown = standings[: rows if len(standings) <= rows else rows - 1]
    width = min(NAME, max(len("loss over dense"), *(len(one.arm) for one in shown)))
    lines = [f"{'loss over dense':<{width}}  {'mean':>8}  {'80 % interval':>17}  {'P best':>6}  draws"]
    for one in shown:
        between = f"{_size(one.low)} to {_size(one.high)}"
        lost = f", {one.failures} failed" if one.failures else ""
        draws = f"{one.fulls} (+{one.screens}){lost}"
        lines.append(
            f"{_cut(one.arm, width):<{width}}  {_size(one.loss):>8}  {between:>17}  {_percent(one.p_best):>6}  {draws}"[
                :WIDTH
            ]
        )
    if len(shown) < len(standings):
        lines.append(f"and {len(standings) - len(shown)} more")
    return lines


def _commands(root: str, trial: str | None) -> list[str]:
    """What to type next; long lines are continued."""
    commands = []
    if trial is not None:
        commands.append(f"python -m sweep.export {trial} --results {root} --out exported")
    commands.append(f"python -m analysis.report {root}")
    return [line for command in commands for line in _broken(command)]


def _broken(command: str) -> list[str]:
    """A command on lines that a shell joins."""
    lines = [""]
    for word in command.split(" "):
        if len(lines[-1]) + 1 + len(word) + len(CONTINUED) > WIDTH and lines[-1]:
            lines[-1] += CONTINUED
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def _wrap(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, break_long_words=True, break_on_hyphens=False)


def _control(design: Design) -> str:
    controls = design.controls[FULL]
    return controls[1].label if len(controls) > 1 else ""


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return " or ".join(shown)


def _gain(gain: Gain) -> str:
    return f"{_size(gain.mean)} ({_size(gain.low)} to {_size(gain.high)})"


def _size(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "?"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 3]}..."


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."

"""The answer for a terminal: 24 lines of 80 columns.

What to use comes first, then how sure that is and what it gains, then the arms, then what to type next. An answer names
its target and its unit, since text and tasks can order sources in opposite ways.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from calib.settings import counted
from sweep.adviser.conduct import Conclusion
from sweep.adviser.outcomes import FULL
from sweep.adviser.policy import least_budget
from sweep.adviser.study import Design
from sweep.adviser.targets import Target
from sweep.adviser.verdict import HOUR, NO_MATTER, TIE, WINNER, Gain, Standing, Verdict
from sweep.runs.progress import duration

WIDTH, LINES = 80, 24
ARMS = 7  # rows of the table
FEW = 4  # rows that other sentences make room for
NAME = 30  # columns of an arm's name
CONTINUED = " \\"
KINDS = {"text": "window"}
FAR_FROM = 2.0  # times too many or too few examples that are worth a word
PIECE = 60  # characters of a broken word in quotes
STOPPED = {  # why, by the kind of the end
    "settled": "another trial is not worth its time",
    "budget": "the budget is spent",
    "draws": "every set was tried",
    "guaranteed": "the race is decided",
    "cannot matter": "no text was tried",
}


def answer_lines(ended: Conclusion, design: Design, root: str, trial: str | None, full_study: float) -> list[str]:
    """The answer. `trial` is the id of the draw to ship, `full_study` the seconds of a worker for all of it.

    It has more than `LINES` lines where names and paths are so long: a command that is cut off is none.
    """
    verdict = ended.verdict
    study = design.studies[FULL]
    unit = _unit(ended, design)
    gains, more, examples = _gains(verdict, design), _more(verdict, unit), _examples(ended, design)
    said = [
        f"{study.models[0].name} with {study.labels[-1]}, {_judged(ended, design)}:",
        _use(verdict, design),
        *([f"Guaranteed: {ended.stop.reason}."] if ended.stop.kind == "guaranteed" else []),
        *_how_sure(verdict, unit),
        *gains,
        *_disagree(verdict),
    ]
    seconds = ended.steps[-1].spent if ended.steps else ended.costs.spent
    count = sum(len(step.outcomes) for step in ended.steps)
    cost = (
        f"{counted(count, 'trial')} and the controls took {duration(seconds)} of one worker, "
        f"{_percent(seconds / full_study)} of the full study's {duration(full_study)}; "
        f"{STOPPED.get(ended.stop.kind, ended.stop.reason)}."
    )
    tail = [*(more or _needed(ended, design)), cost, *examples, *_draw(verdict, design, trial)]
    commands = _commands(root, trial)
    spare = [*examples, *gains[1:], *more]  # what makes room for the arms, the first one first
    for gone in range(len(spare) + 1):
        text, after = (
            [line for sentence in part if sentence not in spare[:gone] for line in _wrap(sentence)]
            for part in (said, tail)
        )
        rows = LINES - len(text) - len(after) - len(commands) - 2
        if rows >= min(len(verdict.standings), FEW):
            break
    title = "worst regret" if len(design.targets) > 1 else "loss over dense"
    return [*text, *_table(verdict.standings, min(max(rows, 0), ARMS), title), *after, *commands]


def _examples(ended: Conclusion, design: Design) -> list[str]:
    """How many windows or examples would have told more for the time, where that is far from what was asked."""
    off = [
        (target, asked, wanted)
        for target, asked, wanted in zip(design.targets, ended.examples, ended.wanted, strict=True)
        if wanted is not None and not 1 / FAR_FROM < wanted / asked < FAR_FROM
    ]
    return [
        f"Next time: about {_count(wanted, target)} of {target.name} in place of {asked} would tell most for the time."
        for target, asked, wanted in off[:1]
    ]


def _count(number: int, target: Target) -> str:
    """`32 windows`, `1 example`."""
    return counted(number, KINDS.get(target.measure, "example"))


def _judged(ended: Conclusion, design: Design) -> str:
    """`judged on evaluation (32 windows)`."""
    named = [
        f"{target.name} ({_count(count, target)})" for target, count in zip(design.targets, ended.examples, strict=True)
    ]
    return f"judged on {' and '.join(named)}"


def _unit(ended: Conclusion, design: Design) -> str:
    """Of the loss. With several targets it is the worst regret, in multiples of what makes the targets comparable."""
    matters, units = ended.rules.matters, {target.unit for target in design.targets}
    if len(design.targets) == 1:
        return units.pop()
    if matters is None:
        return "SD of a draw"
    if isinstance(matters, tuple):
        return "times what matters"
    return units.pop() if len(units) == 1 else "units"


def _use(verdict: Verdict, design: Design) -> str:
    """What to use, and why not another."""
    control = _control(design)
    if verdict.arm is None:
        return f"There is no answer: {verdict.reason}." + (f" {control} needs no text." if control else "")
    others = _listed([arm for arm in verdict.named if arm != verdict.arm])
    if verdict.kind == NO_MATTER:
        return f"Use any: data cannot matter here; {verdict.reason}."
    if verdict.kind == TIE and verdict.any_will_do:
        return f"Use any: all {len(verdict.named)} will do, {verdict.arm} leads; {verdict.reason}."
    if verdict.kind == WINNER:
        return f"Use {verdict.arm}."
    if verdict.kind == TIE:
        return f"Use {verdict.arm}; {others} will do as well: {verdict.reason}."
    return f"It cannot be told which is best. {verdict.arm} leads" + (f"; so may be {others}." if others else ".")


def _how_sure(verdict: Verdict, unit: str) -> list[str]:
    if verdict.regret is None:
        return []
    sd = f"; SD of a draw {_size(verdict.sd[0])}" if verdict.sd and len(verdict.sd) == 1 else ""
    return [
        f"Expected regret {_size(verdict.regret)} {unit}, with 80 % probability at most {_size(verdict.regret_upper)} "
        f"(what matters: {_size(verdict.matters)}{sd})."
    ]


def _gains(verdict: Verdict, design: Design) -> list[str]:
    """Over a random candidate and over the data-free control, target by target."""
    several = len(design.targets) > 1
    units = {target.name: target.unit for target in design.targets}
    found = []
    for number, random in enumerate(verdict.gain_random):
        where = f" on {random.target}" if several else ""
        parts = f"{_gain(random)} over a random candidate"
        if verdict.gain_control:
            parts += f", {_gain(verdict.gain_control[number])} over {_control(design)}"
        found.append(f"Gain{where}: {parts}, {units[random.target]} (80 % intervals).")
    return found[:2]


def _disagree(verdict: Verdict) -> list[str]:
    return [
        f"Targets disagree ({_percent(found.probability)}): {found.first} wants {found.best_first}, {found.second} "
        f"wants {found.best_second}; the answer is what loses least on the worse of them."
        for found in verdict.disagreements[:1]
    ]


def _more(verdict: Verdict, unit: str) -> list[str]:
    more = verdict.more
    if more is None or verdict.kind == NO_MATTER:
        return []
    if more.trials < 1:
        return ["One more hour buys no trial that could change the answer."]
    trials = counted(more.trials, "trial")
    if more.seconds < HOUR:
        bought = f"All that is left of what may be best, {trials}, takes {duration(more.seconds)}"
    else:
        bought = f"One more hour buys {trials}"
    return [f"{bought}; expected regret {_size(more.now)} would be {_size(more.then)} {unit}."]


def _needed(ended: Conclusion, design: Design) -> list[str]:
    """What an answer takes, where the budget bought no trial."""
    if ended.steps or ended.stop.kind != "budget":
        return []
    seconds = least_budget(design.names, ended.costs)
    return [f"An answer for {len(design.arms)} arms takes at least {duration(seconds)} of one worker."]


def _draw(verdict: Verdict, design: Design, trial: str | None) -> list[str]:
    """Which calibration set to ship."""
    if verdict.kind == NO_MATTER and verdict.ship is None:
        return [f"Ship {_control(design)}, which needs no text:"] if trial else []
    if verdict.ship is None or trial is None:
        return (
            ["No full draw of it was tried yet, so there is none to ship."] if verdict.arm and verdict.standings else []
        )
    ship = verdict.ship
    said = f"Ship {ship.arm} set {ship.draw} (a new set of it is better with {_percent(ship.p_fresh)}"
    if ship.better is not None:
        said += f"; {ship.better[0]} set {ship.better[1]} may be better still"
    return [f"{said}):"]


def _table(standings: Sequence[Standing], rows: int, title: str) -> list[str]:
    """The best arms, one a line."""
    if not standings or rows < 2:
        return []
    shown = standings[: rows if len(standings) <= rows else rows - 1]
    width = min(NAME, max(len(title), *(cell_len(one.arm) for one in shown)))
    lines = [f"{title:<{width}}  {'mean':>8}  {'80 % interval':>17}  {'P best':>6}  draws"]
    for one in shown:
        between = f"{_size(one.low)} to {_size(one.high)}"
        lost = f", {one.failures} failed" if one.failures else ""
        draws = f"{one.fulls} (+{one.screens}){lost}"
        name = set_cell_size(_cut(one.arm, width), width)
        line = f"{name}  {_size(one.loss):>8}  {between:>17}  {_percent(one.p_best):>6}  {draws}"
        lines.append(line[:WIDTH])
    if len(shown) < len(standings):
        lines.append(f"and {len(standings) - len(shown)} more")
    return lines


def _commands(root: str, trial: str | None) -> list[str]:
    """What to type next; long lines are continued."""
    commands = [["python", "-m", "analysis.report", root]]
    if trial is not None:
        commands.insert(0, ["python", "-m", "sweep.export", trial, "--results", root, "--out", "exported"])
    return [line for command in commands for line in _broken(command)]


def _broken(words: Sequence[str]) -> list[str]:
    """A command on lines that a shell joins: between words where that is enough, else within one. A word in quotes is
    broken into several that touch, since nothing is joined within quotes."""
    lines = [""]
    for plain in words:
        word = shlex.quote(plain)
        if word != plain and len(word) > WIDTH - len(CONTINUED):
            parts = [shlex.quote(plain[first : first + PIECE]) for first in range(0, len(plain), PIECE)]
            lines[-1] += CONTINUED if lines[-1] else ""
            lines += [f"{part}\\" for part in parts[:-1]] + [parts[-1]]
            continue
        if lines[-1] and len(lines[-1]) + 1 + len(word) + len(CONTINUED) > WIDTH:
            lines[-1] += CONTINUED
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
        while len(lines[-1]) > WIDTH - len(CONTINUED):
            lines[-1:] = [f"{lines[-1][: WIDTH - 1]}\\", lines[-1][WIDTH - 1 :]]
    return lines


def _wrap(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, break_long_words=True, break_on_hyphens=False)


def _control(design: Design) -> str:
    controls = design.controls[FULL]
    return controls[1].label if len(controls) > 1 else ""


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return " or ".join([*([", ".join(shown[:-1])] if len(shown) > 1 else []), *shown[-1:]])


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
    """A name in so many columns, of which some letters take two."""
    return name if cell_len(name) <= width else f"{set_cell_size(name, width - 3).rstrip()}..."

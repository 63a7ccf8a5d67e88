"""`calibsweep completion SHELL`: the script that lets a shell complete commands, flags and names.

    source <(calibsweep completion bash)        # in ~/.bashrc; zsh and fish alike

The script asks `calibsweep completion words -- WORD ...` for what can stand next. Flags come from the command's own
application, so they are those that it takes; names are those of the studies that ship. Files complete as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from calibsweep.commands import commands
from calibsweep.console import HOUSE, application

FLAGS_OF = {"run": ("sweep.launch", "app"), "export": ("sweep.export", "app")}  # whose flags a plain command takes
KINDS = ("methods", "sources", "tasks", "studies", "models")
SETS = ("build", "show", "diff", "export", "verify")  # what `calibsweep calib` can do
SCRIPTS = {
    "bash": """_calibsweep() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen -W "$(calibsweep completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" \\
    -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _calibsweep calibsweep""",
    "zsh": """#compdef calibsweep
_calibsweep() {
  local -a found
  found=("${(@f)$(calibsweep completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found
  _files
}
compdef _calibsweep calibsweep""",
    "fish": """complete -c calibsweep \\
  -a '(calibsweep completion words -- (commandline -opc)[2..] (commandline -ct))'""",
}


class Shell(str, Enum):
    """The shells, and the question that their scripts ask."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"
    words = "words"


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words, which may be empty, can become."""
    known = commands()
    if len(words) < 2:
        return [*known, "--help", "--version"]
    command, last = words[0], words[-1]
    if command not in known:
        return []
    if last.startswith("-") and (command in FLAGS_OF or not known[command].plain):
        entry = known[command]
        module, attribute = FLAGS_OF.get(command, (entry.module, entry.attribute))
        target = application(getattr(import_module(module), attribute))
        return sorted({flag for parameter in target.params for flag in parameter.opts if flag.startswith("--")})
    if len(words) == 2 and command in ("run", "plan"):
        return sorted(path.stem for path in Path(HOUSE, "sweep", "studies").glob("*.yaml"))
    if len(words) == 2 and command == "ls":
        return list(KINDS)
    if len(words) == 2 and command == "completion":
        return list(SCRIPTS)
    if len(words) == 2 and command == "calib":
        return list(SETS)
    return ["--help"] if last.startswith("-") else []


def main(
    shell: Annotated[Shell, typer.Argument(help="The shell whose script to print.")],
    words: Annotated[list[str] | None, typer.Argument(help="What stands on the line so far.", hidden=True)] = None,
) -> None:
    """Print the script that completes commands: source <(calibsweep completion bash)."""
    if shell is Shell.words:
        typer.echo("\n".join(candidates(words or [])))
    else:
        typer.echo(SCRIPTS[shell.value])

"""The parser of our argparse commands: help and errors that read as those of the commands that typer parses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

BAD_INPUT = 2


class Parser(argparse.ArgumentParser):
    """`Usage:`, `Arguments:` and `Options:` in the help; an error is one line, with where to look.

    Flags are not shortened, so that a new one never changes what an old command line means.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, "allow_abbrev": False, "add_help": False, **settings})
        self._positionals.title, self._optionals.title = "Arguments", "Options"
        self.add_argument("--help", "-h", action="help", help="Show this message and exit.")

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:  # type: ignore[override]
        """As ever; the help says the type of a value, as typer's does, and what is required."""
        flag, kind = names[0].startswith("-"), getattr(settings.get("type"), "__name__", "str").strip("_")
        if "action" not in settings:
            settings.setdefault("metavar", f"<{kind}>" if flag else names[0])
        if flag and settings.get("required"):
            settings["help"] = f"{settings.get('help', '')}  [required]"
        return super().add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        print(f"error: {' '.join(message.split())}; {self.prog} --help lists all flags", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


class _Help(argparse.RawDescriptionHelpFormatter):
    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        words = [str(action.metavar or action.dest) for action in actions if not action.option_strings]
        told = " ".join(["%(prog)s [OPTIONS]", *(word if word.isupper() else f"{{{word}}}" for word in words)])
        super().add_usage(usage or told, actions, groups, "Usage: ")

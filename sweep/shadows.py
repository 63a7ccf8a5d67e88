"""Whose packages are found: a folder `methods/` where a command is started is not ours, and Python would take it.

`python -m` puts the working directory before everything that is installed. `sweep.launch` imports this first, so that
what follows is either the project's own or one line that says whose it is. The console script needs no such care: it
takes the working directory off the path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("calib", "methods", "analysis")
HOUSE = Path(__file__).resolve().parents[1]


def foreign(names: Iterable[str] = PACKAGES) -> list[tuple[str, str]]:
    """The packages that would be imported from elsewhere: (name, the place where Python finds it)."""
    found = []
    for name in names:
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or [spec.origin or "nowhere"]) if spec else ["nowhere"]
        if str(HOUSE / name) not in {str(Path(place).resolve()) for place in places}:
            found.append((name, places[0]))
    return found


def refuse_foreign() -> None:
    """End with one line when a package of the project would come from somebody else's folder."""
    for name, place in foreign():
        print(
            f"error: the package '{name}' was found in {place}, which is not this project's ({HOUSE / name}); "
            "start from another folder, or use the command calibsweep, which does not look there",
            file=sys.stderr,
        )
        sys.exit(2)


refuse_foreign()

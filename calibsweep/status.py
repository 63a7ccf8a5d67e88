"""`calibsweep status`: how far a study is, by the folder that it writes."""

from __future__ import annotations

from collections.abc import Sequence

from sweep import results


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    return results.main(["status", *arguments], "calibsweep")

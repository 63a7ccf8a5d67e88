"""What a run is made with: versions of packages and the commit of the code, columns of `trials/`.

They explain a number years later and are no part of a trial's id.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "lm_eval", "ray", "numpy", "calibration-sweep")


def provenance() -> dict[str, Any]:
    """Columns of `trials/` that are the same for the whole run: versions and commit."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            versions[name] = None
    return {"versions": json.dumps(versions, sort_keys=True), "commit": git_commit()}


def git_commit() -> str | None:
    """Commit of the checkout that holds this file, with `+` for local changes; None when it is in none."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{git('rev-parse', 'HEAD')}{'+' if changed else ''}"

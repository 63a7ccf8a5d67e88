"""The links of the documentation: every file and every heading that a page points to is there.

    python -m benchmarks.links

Reads README, CONTRIBUTING, CHANGELOG and docs/; reaches for nothing on the network, so links to the web are not tried.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|\bsrc=\"([^\"]+)\"")
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
GENERATED = "reference/"  # pages that `docs/hooks.py` makes


def pages(project: Path = PROJECT) -> list[Path]:
    """The pages that people read."""
    return [*sorted(project.glob("*.md")), *sorted((project / "docs").rglob("*.md"))]


def dead(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        target = match.group(1) or match.group(2)
        if re.match(r"[a-z]+:", target) or target.startswith(GENERATED):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield f"{page}: {target}: there is no {file}"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            yield f"{page}: {target}: {file.name} has no heading '{anchor}'"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub and the site name them."""
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in HEADING.findall(text)}


def slug(heading: str) -> str:
    words = re.sub(r"[^\w\s-]", "", heading.replace("`", "").lower())
    return re.sub(r"\s", "-", words.strip())


def main() -> int:
    """Prints dead links; returns 1 when there are any."""
    found = [line for page in pages() for line in dead(page)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Every link of the documentation leads somewhere, and the check that says so finds those that do not."""

from __future__ import annotations

from pathlib import Path

from benchmarks import links


def test_no_link_of_the_documentation_is_dead() -> None:
    assert len(links.pages()) > 10
    assert [line for page in links.pages() for line in links.dead(page)] == []


def test_dead_files_and_headings_are_found_and_code_and_the_web_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading: `with` code\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-with-code) [c](nowhere.md) [d](other.md#no-heading) [e](#gone)\n"
        "![f](missing.png) [g](https://example.org/x) `[h](code.md)`\n```\n[i](block.md)\n```\n# Here\n[j](#here)\n"
    )
    found = [line.partition(": ")[2].partition(": ")[0] for line in links.dead(page)]
    assert found == ["nowhere.md", "other.md#no-heading", "#gone", "missing.png"]


def test_the_readme_is_short() -> None:
    assert len((links.PROJECT / "README.md").read_text().splitlines()) <= 120

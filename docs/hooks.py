"""Pages of the site that no person writes: commands, study files, methods and sources, from the code itself."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from calib.source import SOURCES
from calibsweep.commands import GROUPS
from calibsweep.console import main
from calibsweep.schema import settings_schema, study_schema
from methods.base import METHODS


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages of findings in the order of their index, by short names: their titles are sentences."""
    index = Path(config.docs_dir, "findings", "README.md")
    if index.is_file() and config.nav is not None:
        names = re.findall(r"\]\((\w+)\.md\)", index.read_text(encoding="utf-8"))
        pages = [{name.replace("_", " ").capitalize(): f"findings/{name}.md"} for name in names]
        config.nav.append({"Findings": ["findings/README.md", *pages]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The generated pages beside the written ones."""
    written = {
        "commands": commands(),
        "study-file": study_file(),
        "methods": entries("Methods", "method", METHODS),
        "sources": entries("Sources of text", "source", SOURCES),
    }
    for name, lines in written.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines) + "\n"))
    return files


def commands() -> Iterator[str]:
    """Every command with what its `--help` says."""
    yield "# Commands\n"
    for title, group in GROUPS.items():
        yield f"\n## {title}\n"
        for command in group:
            if command.installed:
                told = io.StringIO()
                with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
                    main([command.name, "--help"])
                yield f"\n### {command.name}\n\n```text\n{told.getvalue().strip()}\n```\n"


def study_file() -> Iterator[str]:
    """The keys of a study, section by section."""
    schema = study_schema()
    yield "# Study files\n\nThe same as `calibsweep schema` says to editors.\n"
    yield from _keys("The file", schema)
    model = schema["definitions"]["model"]["anyOf"][1]
    for title, part in (("`models`", model), *((f"`{n}`", schema["definitions"][n]) for n in SECTIONS)):
        yield from _keys(title, part)


SECTIONS = ("calibration", "evaluation")


def entries(title: str, key: str, registry: Any) -> Iterator[str]:
    """What is registered, each with the docstring of its file, of its class, and its settings."""
    yield f"# {title}\n"
    for name in registry.names():
        cls = registry.get(name)
        yield f"\n## {name}\n\n`{key}: {name}`\n"
        yield _text(inspect.getdoc(sys.modules[cls.__module__]))
        yield _text(inspect.getdoc(cls))
        yield from _table(settings_schema(cls))


def _keys(title: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield from _table(schema)


def _table(schema: dict[str, Any]) -> Iterator[str]:
    yield "\n| key | default | meaning |\n|---|---|---|"
    required = schema.get("required", [])
    for key, part in schema["properties"].items():
        default = f"`{part['default']!r}`" if "default" in part else "required" if key in required else ""
        yield f"| `{key}` | {default} | {part.get('description', '').replace('|', chr(92) + '|')} |"
    yield ""


def _text(docstring: str | None) -> str:
    """A docstring as Markdown: its indented lines are code already, and its brackets are no links."""
    return f"\n{(docstring or '').replace('[', chr(92) + '[')}\n"

"""The measures of the house: circles of imports, late imports, long files and functions, tests beside their sources.

    python benchmarks/house.py

Every import counts, also inside functions and under TYPE_CHECKING. A *room* is a folder of a package; a file at the top
of a package is a room of its own. `tests/test_architecture.py` keeps what this prints.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("calib", "methods", "sweep", "analysis", "calibsweep")
FILE_LINES, FUNCTION_LINES, PUBLIC_METHODS = 400, 60, 15

Graph = Mapping[str, Set[str]]
Place = Literal["top", "function", "typing", "name"]


@dataclass(frozen=True)
class Import:
    """A module that a file imports."""

    module: str  # of the project as exactly as it is known: `from a import b` is a.b when that is a module
    place: Place  # `typing`: under TYPE_CHECKING; `name`: as text, by importlib.import_module
    line: int


def sources(project: Path = PROJECT) -> dict[str, Path]:
    """The files of all packages by their module names; `__init__` files stay empty and are left out."""
    files = (file for package in PACKAGES for file in sorted((project / package).rglob("*.py")))
    return {_module(file.relative_to(project)): file for file in files if file.name != "__init__.py"}


def _module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts)


def imports(file: Path, known: Mapping[str, Path]) -> list[Import]:
    """All imports of a file. Raises ValueError for a relative one."""
    return list(_imports(ast.parse(file.read_text()), "top", known))


def _imports(tree: ast.AST, place: Place, known: Mapping[str, Path]) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, place, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"line {node.lineno}: imports are absolute here")
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name if name in known else node.module for name in names}
            yield from (Import(module, place, node.lineno) for module in sorted(modules))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            yield Import(_text(node.args[0]), "name", node.lineno)
        yield from _imports(node, _place(node, place), known)


def _text(node: ast.expr) -> str:
    """The beginning of a text that is known without running the program: `methods.kernels.` of an f-string."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _place(node: ast.AST, place: Place) -> Place:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return "function"
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return "typing"
    return place


def arrows(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which module imports which, within the project; a module that is loaded by its name is no arrow."""
    return {
        module: {found.module for found in imports(file, files) if found.place != "name" and found.module in files}
        - {module}
        for module, file in files.items()
    }


def room_of(module: str) -> str:
    """`calib.spec` stands for itself, `calib.sources.hub` is in the room `calib.sources`."""
    return module if module.count(".") < 2 else module.rpartition(".")[0]


def between_rooms(graph: Graph) -> dict[str, set[str]]:
    """Which room imports which."""
    rooms: dict[str, set[str]] = {room_of(module): set() for module in graph}
    for module, targets in graph.items():
        rooms[room_of(module)] |= {room_of(target) for target in targets} - {room_of(module)}
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """Sets of two or more nodes from each of which the others can be reached."""
    reached = {node: _reached(graph, node) for node in graph}
    together = {frozenset(other for other in reached[node] if node in reached[other]) | {node} for node in graph}
    return sorted(sorted(found) for found in together if len(found) > 1)


def _reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - found
        found |= new
        todo += new
    return found


def long_files(files: Mapping[str, Path]) -> dict[str, int]:
    """Lines of the files with more than FILE_LINES."""
    lines = {module: len(file.read_text().splitlines()) for module, file in files.items()}
    return {module: count for module, count in lines.items() if count > FILE_LINES}


def long_functions(files: Mapping[str, Path]) -> dict[str, int]:
    """Lines of the functions with more than FUNCTION_LINES; Triton kernels, which cannot be cut, are left out."""
    found = {}
    for module, file in files.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_kernel(node):
                found[f"{module}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    return {name: count for name, count in found.items() if count > FUNCTION_LINES}


def _is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("triton.") for decorator in node.decorator_list)


def large_classes(files: Mapping[str, Path]) -> dict[str, int]:
    """Public methods and properties of the classes with more than PUBLIC_METHODS."""
    found = {}
    for module, file in files.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
                found[f"{module}:{node.name}"] = sum(not name.startswith("_") for name in methods)
    return {name: count for name, count in found.items() if count > PUBLIC_METHODS}


def untested(files: Mapping[str, Path], project: Path = PROJECT) -> list[str]:
    """Sources without a test file of their name in the room of the same name."""
    return [module for module in files if not _test_of(module, project).is_file()]


def _test_of(module: str, project: Path) -> Path:
    *rooms, name = module.split(".")
    return project.joinpath("tests", *rooms, f"test_{name.strip('_')}.py")


def late_imports(files: Mapping[str, Path]) -> list[tuple[str, Import]]:
    """(module, import) of everything that is not imported at the top of its file."""
    return [(module, found) for module, file in files.items() for found in imports(file, files) if found.place != "top"]


def _own(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def _report(files: Mapping[str, Path]) -> Iterable[str]:
    graph = arrows(files)
    late = late_imports(files)
    own = [module for module, found in late if _own(found.module) and found.place != "name"]
    named = [found.module for _, found in late if _own(found.module) and found.place == "name"]
    without = untested(files)
    yield f"files {len(files)}, lines {sum(len(file.read_text().splitlines()) for file in files.values()):,}"
    yield f"circles of files: {circles(graph) or 'none'}"
    yield f"circles of rooms: {circles(between_rooms(graph)) or 'none'}"
    yield f"late or type-only imports: {len(late)}, of our own modules {len(own)} {sorted(set(own)) or ''}"
    yield f"own modules loaded by their name as text: {sorted(set(named)) or 'none'}"
    yield f"files above {FILE_LINES} lines: {long_files(files) or 'none'}"
    yield f"functions above {FUNCTION_LINES} lines outside Triton kernels: {long_functions(files) or 'none'}"
    yield f"classes above {PUBLIC_METHODS} public methods: {large_classes(files) or 'none'}"
    yield f"sources with a test file of their name: {len(files) - len(without)} of {len(files)}"
    yield from (f"  without: {module}" for module in without)


if __name__ == "__main__":
    for line in _report(sources()):
        sys.stdout.write(line + "\n")

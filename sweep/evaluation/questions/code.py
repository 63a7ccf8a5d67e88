"""Code beside a task's file: imported from there, and on a worker from a copy of its folder that came with the task.

A worker may be on a machine that has not got the folder, and code may read files beside itself, import modules beside
itself, or be a closure that no pickle can hold. So a frozen task refers to such a function by the name that its module
gives it, and carries the files; every process (also the one that built the task) writes them once into a folder of its
own and imports the module there. The hard case is two folders with a module of the same name: modules are known by
their full path, as in lm-eval, and `import helper` means the file beside the one that says so.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import importlib
import io
import os
import pickle
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib.settings import SettingsError
from sweep.evaluation.tasks import lmeval
from sweep.evaluation.tasks.files import code_files, parsed
from sweep.evaluation.tasks.names import REFERENCE_TASKS, trusted

BUNDLED = "sweep.reference.tasks"  # the modules beside the tasks in REFERENCE_TASKS
SMALL = 2**20  # bytes: a file near the code that it does not name travels up to this size
MOST = 64 * 2**20  # bytes of one folder that travel; they are sent to every worker


@dataclass(frozen=True)
class CodeFolder:
    """The files of a task folder that its code may need, by their path in it."""

    files: Mapping[str, bytes] = field(repr=False)
    id: str

    @classmethod
    def collect(cls, folder: Path, modules: Sequence[Path]) -> CodeFolder:
        """What `modules` in `folder` import and name, and every small file that lies beside them or in such a folder.

        Raises SettingsError when this is more than MOST bytes.
        """
        wanted = {used for module in modules for _, used in code_files(module.parent, module.name)}
        for file in {used for used in wanted if used.suffix == ".py"}:
            wanted |= {near for near in _small_files_near(file) if near.stat().st_size <= SMALL}
        inside = sorted({file.resolve() for file in wanted if file.resolve().is_relative_to(folder)})
        total = sum(file.stat().st_size for file in inside)
        if total > MOST:
            largest = max(inside, key=lambda file: file.stat().st_size)
            raise SettingsError(
                f"{folder} holds {total / 2**20:.0f} MiB that its code may read (the largest is {largest.name}), and "
                f"{MOST // 2**20} MiB can travel to workers; keep the task and its code in a folder of their own"
            )
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in inside}
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{name}:{len(content)}:".encode() + content)
        return cls(files, digest.hexdigest()[:32])

    def unpack(self) -> Path:
        """The folder with these files in this process."""
        if self.id not in _UNPACKED:
            if not _UNPACKED:
                _remove_left()
            home = tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-")  # removed when the process ends
            for name, content in self.files.items():
                place = Path(home.name) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            _UNPACKED[self.id] = home
        return Path(_UNPACKED[self.id].name)


_UNPACKED: dict[str, tempfile.TemporaryDirectory[str]] = {}


def _prefix() -> str:
    """Of the folders of processes that share our numbers: containers have their own, and may share a disk."""
    try:
        return f"task-code-{Path('/proc/self/ns/pid').stat().st_ino}-"
    except OSError:  # no Linux
        return "task-code-"


def _remove_left() -> None:
    """Remove the folders of processes that are gone: Ray kills its workers, which then remove nothing themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        number = folder.name.removeprefix(_prefix()).partition("-")[0]
        if number.isdigit() and not _lives(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


@dataclass(frozen=True)
class Frozen:
    """A pickled object, with the code that it refers to."""

    data: bytes = field(repr=False)
    code: tuple[CodeFolder, ...]

    def thaw(self) -> Any:
        for folder in self.code:
            folder.unpack()
        return pickle.loads(self.data)


@dataclass
class Freezer:
    """Freezes objects that refer to code of task folders; each folder is read once."""

    folders: dict[Path, CodeFolder] = field(default_factory=dict)

    def freeze(self, value: Any) -> Frozen:
        """Raises SettingsError when a folder is too large, and what pickle raises for what cannot be sent."""
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, self._code_of)
        pickler.dump(value)
        return Frozen(buffer.getvalue(), tuple(self.folders[folder] for folder in sorted(pickler.used)))

    def _code_of(self, folder: Path) -> CodeFolder:
        if folder not in self.folders:
            files = [Path(file) for module, file in _MODULES.items() if Path(_ROOTS[module]) == folder]
            self.folders[folder] = CodeFolder.collect(folder, [file for file in files if file.is_file()])
        return self.folders[folder]


class _Pickler(pickle.Pickler):
    """Sends what a module of a task folder has under a name as that name."""

    def __init__(self, buffer: io.BytesIO, code_of: Callable[[Path], CodeFolder]) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self.code_of = code_of
        self.used: set[Path] = set()
        self.names = _names()

    def reducer_override(self, value: Any) -> Any:
        place = self.names.get(id(value)) or self._nested(value)
        if place is None:
            return NotImplemented
        module, name = place
        folder = Path(_ROOTS[module])
        self.used.add(folder)
        inside = Path(_MODULES[module]).relative_to(folder).as_posix()
        return _from_folder, (self.code_of(folder).id, inside, name)

    def _nested(self, value: Any) -> tuple[str, str] | None:
        """A class within a class, or a method of one."""
        if not isinstance(value, types.FunctionType | type) or value.__module__ not in _MODULES:
            return None
        try:
            found = _attribute(sys.modules[value.__module__], value.__qualname__)
        except AttributeError:
            return None
        return (value.__module__, value.__qualname__) if found is value else None


_MODULES: dict[str, str] = {}  # names of the modules of task folders that this process has imported -> their files
_ROOTS: dict[str, str] = {}  # -> the task folder that each of them is imported for


def _names() -> dict[int, tuple[str, str]]:
    """id -> (module, name) of everything that a function can be and a task module has a name for."""
    names: dict[int, tuple[str, str]] = {}
    for module in _MODULES:
        for name, value in vars(sys.modules[module]).items():
            own = getattr(value, "__module__", None) in _MODULES
            bound = callable(value) and not isinstance(value, type | types.BuiltinFunctionType | types.ModuleType)
            if not name.startswith("__") and (own or (bound and not _importable(value))):
                names.setdefault(id(value), (module, name))
    return names


def _importable(value: Any) -> bool:
    """Whether pickle finds it by its own name."""
    try:
        return _attribute(sys.modules[value.__module__], value.__qualname__) is value
    except (AttributeError, KeyError, TypeError):
        return False


def _attribute(module: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), module)


def _from_folder(code: str, inside: str, name: str) -> Any:
    """What a module of an unpacked folder has under a name."""
    folder = Path(_UNPACKED[code].name)
    return _attribute(load_module(folder / inside, folder), name)


def load_module(file: Path, root: Path) -> types.ModuleType:
    """The module in a file of the task folder `root`, imported once for as long as the file stays the same.

    It finds modules beside itself; nothing is written beside it.
    """
    file = file.resolve()
    name = str(file.with_suffix(""))
    stamp = (file.stat().st_mtime_ns, file.stat().st_size)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__stamp__", None) == stamp:
        return known
    source = file.read_bytes()
    _forget_registered(file, name, source)
    module = types.ModuleType(name)
    module.__file__ = str(file)
    module.__dict__["__stamp__"] = stamp
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _Importer(root.resolve())}
    sys.modules[name], _MODULES[name], _ROOTS[name] = module, str(file), str(root.resolve())
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)  # the task author's own code, which the study allows
    except BaseException:
        for table in (sys.modules, _MODULES, _ROOTS):
            table.pop(name, None)  # type: ignore[attr-defined]
        raise
    return module


def _forget_registered(file: Path, name: str, source: bytes) -> None:
    """Make room for what a module registers with lm-eval, where the same module, or a copy of it, has done so before.

    lm-eval refuses a name that is registered twice; so it still does for two modules that are not the same.
    """
    if not any(lmeval.registrations(kind, [file]) for kind in ("filter", "metric", "aggregation")):
        return
    from lm_eval.api import registry

    tables = {
        "filter": (registry.filter_registry,),
        "metric": (registry.metric_registry, registry.metric_agg_registry, registry.higher_is_better_registry),
        "aggregation": (registry.aggregation_registry,),
    }
    for kind, (holder, *others) in tables.items():
        for alias in lmeval.registrations(kind, [file]):
            owner = getattr(holder.get(alias, None), "__module__", "")
            copied = owner in _MODULES and Path(_MODULES[owner]).read_bytes() == source
            for table in (holder, *others) if owner == name or copied else ():
                table._objs.pop(alias, None)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Importer:
    """`import` in the modules of a task folder: a file of the folder comes before an installed package."""

    root: Path

    def __call__(
        self,
        name: str,
        scope: Mapping[str, Any] | None = None,
        local: Any = None,
        names: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        above = Path((scope or {}).get("__file__", self.root / "-")).parents[max(level - 1, 0)]
        parts = name.split(".") if name else []
        first = parts[0] if parts else ""
        if not level and (first in sys.stdlib_module_names or not _is_beside(above, first)):
            return builtins.__import__(name, scope, local, names, level)
        module = self._module(above, parts)
        for wanted in names or ():
            if not hasattr(module, wanted) and _is_beside(above.joinpath(*parts), wanted):
                setattr(module, wanted, self._module(above, [*parts, wanted]))
        return module if names else self._module(above, parts[:1])

    def _module(self, folder: Path, parts: Sequence[str]) -> Any:
        """`a.b.c` from a folder: c, as an attribute of b, which is one of a."""
        module: Any = None
        place = folder
        if not parts:
            return _package(place, self.root)
        for part in parts:
            place = place / part
            file = place.with_suffix(".py")
            if not file.is_file() and not place.is_dir():
                raise ModuleNotFoundError(f"no module '{part}' in {place.parent}", name=part)
            inner = load_module(file, self.root) if file.is_file() else _package(place, self.root)
            if module is not None:
                setattr(module, part, inner)
            module = inner
        return module


def _is_beside(folder: Path, name: str) -> bool:
    place = folder / name
    return place.with_suffix(".py").is_file() or (place.is_dir() and any(place.glob("*.py")))


def _package(folder: Path, root: Path) -> Any:
    """A folder as a package: its `__init__.py`, or nothing but the modules in it."""
    file = folder / "__init__.py"
    if file.is_file():
        return load_module(file, root)
    name = f"{folder}/"  # the module beside a folder of the same name is another one
    return sys.modules.setdefault(name, types.ModuleType(name))


@contextmanager
def imported_from_folders(roots: Sequence[Path]) -> Iterator[None]:
    """lm-eval imports the modules of its own tasks as ever, and those of the folders `roots` by `load_module`.

    Those beside our own tasks are imported by their names in this package, under which a worker finds them.
    """
    from lm_eval.tasks import _yaml_loader

    plain = _yaml_loader._load_module_with_cache
    places = [root.resolve() for root in roots]

    def load(file: Path) -> Any:
        if file.resolve().is_relative_to(REFERENCE_TASKS):
            inside = file.resolve().relative_to(REFERENCE_TASKS).with_suffix("")
            return importlib.import_module(".".join((BUNDLED, *inside.parts)))
        if trusted(file):
            return plain(file)
        return load_module(file, next((place for place in places if file.is_relative_to(place)), file.parent))

    _yaml_loader._load_module_with_cache = load
    try:
        yield
    finally:
        _yaml_loader._load_module_with_cache = plain


def _small_files_near(module: Path) -> Iterator[Path]:
    """Files beside a module, and those in folders beside it that its text names."""
    folder = module.parent
    yield from (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    for node in ast.walk(parsed(module)):
        name = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        parts = Path(name).parts if 0 < len(name) < 256 and name.isprintable() else ()
        if parts and not {"..", "/"} & set(parts) and (folder / name).is_dir():
            yield from _files_in(folder / name)


def _files_in(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in file.relative_to(folder).parts)
        if not hidden and file.is_file():
            yield file

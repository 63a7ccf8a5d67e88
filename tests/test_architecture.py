"""The house keeps its order: arrows go down, between packages, rooms and files; Ray has one room; planning stays light.

Every import counts, also inside functions and under TYPE_CHECKING. `python benchmarks/house.py` prints the measures.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks import house

FILES = house.sources()
ARROWS = house.arrows(FILES)
ROOMS = house.between_rooms(ARROWS)

# The floors of each package, the highest first. A room (a folder, or a file at the top) imports from floors below its
# own and never from its neighbours on the same one. `*` is every file at the top that stands on no other floor.
FLOORS = {
    "calib": """
        __main__
        export  compare
        build  sources  describe  selectors  card
        instructions  overlap  descriptor  reading  conversations
        specials  rendering
        tasks
        hub  spec  ngrams  chat  replies
        select
        source
        writer
        files  registry  sampling  dialogue
        records  tokenizer  yamltext  weights
        settings  commandline
    """,
    "methods": """
        target_error
        *  blockwise
        families
        walk
        base
        protocols
        inputs  kernels
        numerics
        outcome
        lazy
    """,  # `*`: one method a file
    "sweep": """
        advise
        launch  reference  reference.tasks  export  compress
        adviser
        shipping
        remote
        runs
        trial  formats
        plan
        config
        study_file
        describe
        evaluation  features
        evaluation.scorer  generation
        weights
        models  evaluation.questions
        checkpoints  evaluation.tasks
        evaluation.metrics
        results  descriptor
        storage  shadows
    """,
    "analysis": """
        summary  simulate  pick  paper
        report  recommend
        pages
        tables  findings  figures  verdicts
        published
        claims
        evidence  charts
        compare  answers  budget  forgetting
        chosen  described
        variance  ranking  correlation  reliability  shared  advice
        cells
        estimates
        frames
        page  trials
        measures
        checks  domains
    """,
    "calibsweep": """
        __main__  run  completion  init  export
        console  listing  sets  schema  status
        commands  given
    """,
}
PACKAGES_BELOW = {
    "calib": (),
    "methods": ("calib",),
    "sweep": ("calib", "methods"),
    "analysis": ("calib",),
    "calibsweep": ("calib", "methods", "sweep", "analysis"),
}
MEETING_POINT = "sweep.results"  # all that the analysis knows of a sweep: the columns

# Imported where they are used, because planning a study must answer within a second or two.
LATE = {
    "torch": "loading it takes seconds; elsewhere `from methods.lazy import torch`",
    "transformers": "loading it takes seconds, and it loads torch",
    "lm_eval": "loading it takes seconds, and it loads torch, transformers and datasets",
    "datasets": "loading it takes a second, and it loads pandas",
    "huggingface_hub": "needed only for what is on the hub",
    "pyarrow": "its Parquet and data set readers are slow to load, and few commands read Parquet",
    "gguf": "an optional extra",
    "safetensors": "needed only where the tensors of a checkpoint are looked at",
    "typer": "the console answers --help before it loads anything",
    "ray": "types alone: a study that runs here needs no Ray",
}
SHORT = {"trial.py": 180, "launch.py": 180, "remote.py": 320}  # the experiment, the command, Ray: lines at most
# Our own modules that are loaded by their name: Triton's decorators need Triton, which only machines with a GPU have.
KERNELS = ("methods.kernels.", "sweep.evaluation.scorer.kernels")

EXCEPTIONS: frozenset[str] = frozenset()  # `module -> module` that may go up for now, with the reason beside it


def floors(package: str) -> dict[str, int]:
    """Room -> number of its floor, 0 the highest."""
    named = {
        f"{package}.{name}": number
        for number, line in enumerate(FLOORS[package].split("\n"))
        for name in line.split()
        if name != "*"
    }
    others = next((number for number, line in enumerate(FLOORS[package].split("\n")) if "*" in line.split()), None)
    rest = {module for module in ROOMS if module.split(".")[0] == package and module in FILES} - set(named)
    return named if others is None else {**named, **dict.fromkeys(rest, others)}


def listed(broken: Iterable[str]) -> str:
    """All of them, where pytest would show a few."""
    return "\n".join(["", *sorted(broken)])


@pytest.mark.parametrize("package", house.PACKAGES)
def test_every_room_has_a_floor(package: str) -> None:
    rooms = {room for room in ROOMS if room.split(".")[0] == package}
    without, gone = rooms - set(floors(package)), set(floors(package)) - rooms
    assert not without, f"give {sorted(without)} a floor"
    assert not gone, f"{sorted(gone)} are no rooms any more"


@pytest.mark.parametrize("package", house.PACKAGES)
def test_arrows_go_down_between_rooms(package: str) -> None:
    floor = floors(package)
    up = {
        f"{module} -> {target}"
        for module, targets in ARROWS.items()
        for target in targets
        if {module.split(".")[0], target.split(".")[0]} == {package}
        and house.room_of(module) != house.room_of(target)
        and floor[house.room_of(module)] >= floor[house.room_of(target)]
    }
    assert not up - EXCEPTIONS, listed(up - EXCEPTIONS)


def test_arrows_go_down_between_packages() -> None:
    up = {
        f"{module} -> {target}"
        for module, targets in ARROWS.items()
        for target in targets
        if target.split(".")[0] not in (module.split(".")[0], *PACKAGES_BELOW[module.split(".")[0]])
        and not (module.startswith("analysis.") and target == MEETING_POINT)
    }
    assert not up, listed(up)


@pytest.mark.parametrize("package", house.PACKAGES)
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    own = {module for module in ARROWS if module.split(".")[0] == package}
    found = house.circles({module: ARROWS[module] & own for module in own})
    assert not found, listed(" and ".join(circle) for circle in found)


def test_no_rooms_import_each_other_in_a_circle() -> None:
    found = house.circles(ROOMS)
    assert not found, listed(" and ".join(circle) for circle in found)


def test_only_heavy_packages_are_imported_late() -> None:
    wrong = {
        f"{module} imports {found.module} in line {found.line}"
        for module, found in house.late_imports(FILES)
        if found.place != "name" and found.module.split(".")[0] not in LATE
    }
    assert not wrong, listed(wrong)


def test_every_package_that_may_be_imported_late_is_somewhere() -> None:
    late = {found.module.split(".")[0] for _, found in house.late_imports(FILES)}
    assert set(LATE) <= late


def test_only_kernels_are_loaded_by_their_name() -> None:
    named = {found.module for _, found in house.late_imports(FILES) if found.place == "name"}
    own = {name for name in named if name.split(".")[0] in house.PACKAGES}
    assert sorted(name for name in own if not name.startswith(KERNELS)) == []


def test_what_is_long_is_cut() -> None:
    assert not house.long_functions(FILES) and not house.large_classes(FILES)
    assert len(house.long_files(FILES)) <= 3, "and CONTRIBUTING gives the reason of each"


def test_the_pages_that_a_newcomer_reads_first_stay_short() -> None:
    lines = {name: len((house.PROJECT / "sweep" / name).read_text().splitlines()) for name in SHORT}
    assert {name: count for name, count in lines.items() if count > SHORT[name]} == {}


def test_ray_lives_in_one_file() -> None:
    users = {
        module
        for module, file in FILES.items()
        if any(found.module.split(".")[0] == "ray" for found in house.imports(file, FILES))
    }
    assert users == {"sweep.remote"}


def test_packages_do_nothing_on_import() -> None:
    inits = [file for package in house.PACKAGES for file in (house.PROJECT / package).rglob("__init__.py")]
    assert [str(file) for file in inits if file.read_text().strip()] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sweep.results", ("torch", "ray", "transformers", "datasets", "lm_eval")),
        ("sweep.plan", ("torch", "ray", "transformers", "datasets", "lm_eval")),
        ("sweep.evaluation.suite", ("torch", "ray", "transformers", "datasets", "lm_eval")),
        ("sweep.weights.streaming", ("torch", "ray", "transformers", "datasets", "lm_eval")),
        ("analysis.report", ("torch", "ray", "transformers", "datasets", "lm_eval")),
    ],
)
def test_light_modules_import_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=house.PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# the measure itself: what it would miss, the house would lose


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package with one import of each kind."""
    room = tmp_path / "sweep" / "room"
    room.mkdir(parents=True)
    (tmp_path / "sweep" / "top.py").write_text("from sweep.room import one\n")
    (room / "one.py").write_text("def use():\n    from sweep.room import two\n\n    return two\n")
    (room / "two.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sweep.top import something\n"
    )
    return tmp_path


def test_late_and_type_only_imports_close_a_circle(project: Path) -> None:
    files = house.sources(project)
    assert [found.place for _, found in house.late_imports(files)] == ["function", "typing"]
    graph = house.arrows(files)
    assert graph == {
        "sweep.room.one": {"sweep.room.two"},
        "sweep.room.two": {"sweep.top"},
        "sweep.top": {"sweep.room.one"},
    }
    assert house.circles(graph) == [["sweep.room.one", "sweep.room.two", "sweep.top"]]
    assert house.circles(house.between_rooms(graph)) == [["sweep.room", "sweep.top"]]


def test_a_module_that_is_loaded_by_its_name_is_seen(project: Path) -> None:
    (project / "sweep" / "top.py").write_text("import importlib\nroom = importlib.import_module(f'sweep.room.{1}')\n")
    files = house.sources(project)
    assert [found.module for _, found in house.late_imports(files) if found.place == "name"] == ["sweep.room."]


def test_relative_imports_are_refused(project: Path) -> None:
    (project / "sweep" / "top.py").write_text("from .room import one\n")
    with pytest.raises(ValueError, match="line 1: imports are absolute here"):
        house.arrows(house.sources(project))

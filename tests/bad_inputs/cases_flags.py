"""Flags of the launcher that cannot mean what they say, and results folders that cannot take results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.common import Case, flags, overridden, write_study

Build = Callable[[Path], list[str]]


def results(*, dry: bool = False, **files: str | bytes) -> Build:
    """A results folder `out` with these files, `__` in a name standing for a slash and `_dot_` for a dot."""

    def build(folder: Path) -> list[str]:
        for name, content in files.items():
            path = folder / "out" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [write_study(folder), "--dry-run" if dry else "--local", "--results", "out"]

    return build


def taken(folder: Path, *, dry: bool = False) -> list[str]:
    (folder / "out").write_text("a file")
    return [write_study(folder), "--dry-run" if dry else "--local", "--results", "out"]


def inside_a_file(folder: Path) -> list[str]:
    (folder / "out").write_text("a file")
    return [write_study(folder), "--local", "--results", "out/deeper"]


def study_is_a_folder(folder: Path) -> list[str]:
    write_study(folder)
    return [f"{folder}/", "--local"]


GPUS = r"--gpus-per-worker {}: expected 0 \(run on CPUs\), a share of one GPU from 0\.01, or whole ones up to 64"

CASES: dict[str, Case] = {
    "share of GPUs above one": Case(flags("--gpus-per-worker", "1.5"), r"--gpus-per-worker 1\.5: a worker has a share"),
    "infinitely many GPUs": Case(flags("--gpus-per-worker", "inf"), GPUS.format("inf")),
    "no number of GPUs": Case(flags("--gpus-per-worker", "nan"), GPUS.format("nan")),
    "a billionth of a GPU": Case(flags("--gpus-per-worker", "1e-9"), GPUS.format("1e-09")),
    "fewer GPUs than none": Case(flags("--gpus-per-worker=-1"), GPUS.format("-1")),
    "a million GPUs": Case(flags("--gpus-per-worker", "1e6"), GPUS.format(r"1e\+06")),
    "GPUs in words": Case(flags("--gpus-per-worker", "half"), r"'--gpus-per-worker'.*in: .*--gpus-per-worker half"),
    "a billion workers": Case(flags("--workers", "1000000000"), r"--workers 1000000000: expected 1 to 10,000"),
    "no worker": Case(flags("--workers", "0"), r"--workers 0: expected 1 to 10,000"),
    "workers in words": Case(flags("--workers", "two"), r"'--workers'.*in: .*--workers two; --help"),
    "two workers in one process": Case(flags("--workers", "2"), r"--local: runs one worker in this process"),
    "a cluster beside one process": Case(flags("--address", "auto"), r"--local: runs one worker in this process"),
    "an address that is blank": Case(flags("--address", " "), r"--address ' ': expected auto, or host:port"),
    "an unknown flag": Case(flags("--worker", "2"), r"No such option.*--worker 2; --help lists all flags"),
    "a flag without its value": Case(flags("--results"), r"'--results' requires an argument, in: "),
    "two studies": Case(flags("other.yaml"), r"unexpected extra argument.*other\.yaml"),
    "results nowhere": Case(flags("--results", ""), r"--results '': expected a folder, or an s3:// or gs:// URI"),
    "results in blanks": Case(flags("--results", "  "), r"--results '  ': expected a folder"),
    "results in a NUL byte": Case(flags("--results", "a\0b"), r"--results 'a\\x00b': expected a folder"),
    "results in bytes that are no text": Case(flags("--results", "out\udcff"), r"--results 'out\\udcff': expected"),
    "results in another flag": Case(flags("--results", "--dry-run"), r"--results '--dry-run': expected .*write \./"),
    "results of an unknown kind": Case(flags("--results", "gopher://x/y"), r"--results gopher://x/y: cannot be used"),
    "results in a file": Case(taken, r"--results out: cannot be used: it is a file; choose a folder"),
    "results in a file, on paper": Case(lambda folder: taken(folder, dry=True), r"--results out: .* it is a file"),
    "results inside a file": Case(inside_a_file, r"--results out/deeper: cannot be used"),
    "results among other files": Case(
        results(notes_dot_txt="mine"), r"--results out: holds no results but other files \(such as 'notes\.txt'\)"
    ),
    "results of another study": Case(
        results(study_dot_yaml="study: another\n"),
        r"--results out: holds results of the study 'another', not of 'tiny'",
    ),
    "results whose study is a list": Case(
        results(study_dot_yaml="- a\n- b\n"), r"--results out: study\.yaml there is no study file, it names no study"
    ),
    "results whose study is empty": Case(results(study_dot_yaml=""), r"study\.yaml there is no study file"),
    "results whose study is broken": Case(
        results(study_dot_yaml="study: [tiny\n"), r"--results out: study\.yaml there cannot be read: line 2: not valid"
    ),
    "results whose study is broken, on paper": Case(
        results(dry=True, study_dot_yaml="study: [tiny\n"), r"study\.yaml there cannot be read: line 2: not valid YAML"
    ),
    "results whose study is not UTF-8": Case(
        results(study_dot_yaml=b"study: t\xefny\n"), r"--results out: study\.yaml there cannot be read: .*utf-8"
    ),
    "results with a broken trial": Case(
        results(study_dot_yaml="study: tiny\n", trials__x_dot_parquet="no Parquet"),
        r"--results out: trials/x.parquet cannot be read \(.*\), and belongs to no trial of this study; delete it",
    ),
    "results whose study is no name": Case(results(study_dot_yaml="study: [a]"), r"study\.yaml there is no study file"),
    "results with a file for a table": Case(
        results(started="x", study_dot_yaml="study: tiny"), r"out/started'.* folder that can"
    ),
    "results with a file for a table, on paper": Case(results(trials="x", dry=True), r"--results out: cannot be used"),
    "results with a lease that is none": Case(results(lease_dot_json="[" * 99_999), r"lease\.json there says nothing"),
    "a study without a name": Case(lambda folder: ["", "--local"], r"unknown study ''; choose from .*methods, "),
    "a study with a typo": Case(lambda folder: ["refrence", "--local"], r"unknown study 'refrence', did you mean"),
    "a study that is not there": Case(
        lambda folder: [f"{write_study(folder)[:-5]}s.yaml", "--local"], r"studys\.yaml' does not exist, did you mean"
    ),
    "a study that is a folder": Case(study_is_a_folder, r"study '.*/' is a folder; give the study file itself"),
    "a study with a name that no disk takes": Case(
        lambda folder: [f"{'x' * 300}.yaml", "--local"], r"study file 'xxx.*cannot be read: File name too long"
    ),
    "a study of a user that is not there": Case(
        lambda folder: ["~nobody-of-this-name/study.yaml", "--local"],
        r"study: '~nobody-of-this-name/study\.yaml' cannot",
    ),
    "a study named by a NUL byte": Case(lambda folder: ["a\0.yaml", "--local"], r"study: expected a path, got 'a\\x00"),
    "a study that is a device": Case(lambda folder: ["/dev/zero", "--local"], r"study '/dev/zero' is no regular file"),
    "--set without a value": Case(overridden("seed"), r"--set seed: expected key=value, such as calibration\.sets=2"),
    "--set without anything": Case(overridden(""), r"--set : expected key=value"),
    "--set without a key": Case(overridden("=3"), r"--set =3: expected key=value"),
    "--set with an empty step": Case(overridden("calibration..sets=1"), r"--set calibration\.\.sets=1: expected key="),
    "--set with an open bracket": Case(overridden("models[0=x"), r"--set models\[0=x: expected key=value"),
    "--set with a negative number": Case(overridden("models[-1]=x"), r"--set models\[-1\]=x: expected key=value"),
    "--set beyond a list": Case(overridden("models[7]=x"), r"--set models\[7\]=x: models has 1 items, \[0\] to \[0\]"),
    "--set in an empty list": Case(
        overridden("models=[]", "models[0]=x"), r"--set models\[0\]=x: models is empty; \[0\] is none of them"
    ),
    "--set of a number beyond counting": Case(overridden(f"models[{'9' * 5000}]=x"), r"--set .*: expected key=value"),
    "--set of an item of a mapping": Case(overridden("calibration[0]=x"), r"calibration is not a list, so it has no"),
    "--set inside text": Case(
        overridden("study.name=x"), r"--set study\.name=x: study is 'tiny', so it has no key 'name'"
    ),
    "--set of YAML that is broken": Case(overridden("models=[a"), r"--set models=\[a: line 1: not valid YAML"),
    "--set of a tag": Case(
        overridden("seed=!!python/object:os.system {}"),
        r"--set seed=.*: line 1: the tag '!!python/object:os\.system' does",
    ),
    "--set of a bomb": Case(
        overridden(f"models=[&a [{','.join('1' * 400)}], &b [{','.join(['*a'] * 400)}]]"),
        r"--set .*: line 1: more than 100,000 values",
    ),
    "--set of a date": Case(overridden("seed=2024-01-01"), r"seed: expected integer, got '2024-01-01'"),
    "--set of a list that holds itself": Case(
        overridden("models=&a [*a]"), r"the alias \*a stands inside what it names"
    ),
    "--set of two documents": Case(overridden("seed=1\n---\n2"), r"line 2: a second document begins"),
    "--set of half a surrogate pair": Case(overridden("description=a\udcffb"), r"line 1: half a surrogate pair"),
}

"""A calibration set as a file that can be published beside a compressed model: tokens, text, origin, hash.

Studies of calibration data can only be repeated when the very tokens are known. A `.parquet` file has one row a window,
with the columns of the results' `calibration` table (so a file out of a results folder is such a file as well);
`.jsonl` has the same rows, `.json` the same in one document, and a folder is a data set that `datasets` loads, with a
card. Reading verifies the hash: an edited or cut file is refused.

    python -m calib.export --source books --tokenizer MODEL_FOLDER --nsamples 128 --seqlen 2048 --out books.parquet
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calib.build import build, preflight
from calib.card import card
from calib.commandline import Parser
from calib.files import json_records
from calib.reading import told_weights
from calib.settings import SettingsError, one_line, parse, shown
from calib.source import get_source
from calib.spec import CalibrationSet, CalibrationSpec, marks_in, set_hash
from calib.tokenizer import find_tokenizer, load_tokenizer
from calib.writer import AskedModel
from calib.yamltext import read_yaml

FORMAT_VERSION = 1
DATA = "data/train-00000-of-00001.parquet"  # in a folder, where `datasets` looks for it
MEASURED = ("seconds_select",)  # not published: a set that is built again shall give the same file
SHARED = ("calibration_id", "hash", "source", "revision", "spec", "tokenizer", "set")  # equal in all rows of a set


def write_set(calibration_set: CalibrationSet, path: str | os.PathLike[str]) -> Path:
    """Write the set to a `.parquet`, `.jsonl` or `.json` file, or a folder, whole or not at all. Returns the path."""
    target = Path(path)
    writers = {".parquet": _write_parquet, ".json": _write_json, ".jsonl": _write_jsonl, "": _write_folder}
    if target.suffix not in writers:
        raise SettingsError(f"{target}: expected a name that ends in .parquet, .jsonl or .json, or a folder")
    if target.is_dir() and (target.suffix or any(target.iterdir())):
        raise SettingsError(f"{target}: is a folder that is there already; choose another name")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writers[target.suffix](calibration_set, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise SettingsError(f"{target} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(missing_ok=True)
    return target


def read_set(path: str | os.PathLike[str]) -> CalibrationSet:
    """The set of a file that `write_set` or a sweep wrote. Nothing of the set's source is read.

    Raises SettingsError when the file is no calibration set, or its tokens do not have the hash that it states.
    """
    file = Path(path)
    if file.is_dir():
        file = file / DATA
    if not file.is_file():
        raise SettingsError(f"{file}: no such file")
    try:
        return _read_set(file)
    except SettingsError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")[:200]
        raise SettingsError(f"{file}: not a calibration set, or one that was changed ({reason})") from None


def _read_set(file: Path) -> CalibrationSet:
    readers = {".json": _read_json, ".jsonl": _read_jsonl}
    rows, pool = readers.get(file.suffix, _read_parquet)(file)
    if not rows:
        raise SettingsError(f"{file}: holds no window")
    rows.sort(key=lambda row: int(row["window"]))
    first = rows[0]
    for column in SHARED:
        if any(row[column] != first[column] for row in rows):
            raise SettingsError(f"{file}: holds more than one calibration set ({column} differs)")
    spec = _spec(json.loads(first["spec"]), str(file))
    tokens = _tokens(rows, spec, str(file))
    responses = marks_in(rows)
    if (found := set_hash(spec, tokens, responses)) != first["hash"]:
        raise SettingsError(
            f"{file}: the tokens have the hash {found}, the file states {first['hash']}; it was changed"
        )
    return CalibrationSet(
        spec=spec,
        id=first["calibration_id"],
        tokens=tokens,
        documents_in=tuple(tuple(row["documents"]) for row in rows),
        starts=tuple(tuple(row["starts"]) for row in rows),
        lengths=tuple(tuple(row["lengths"]) for row in rows),
        texts=tuple(row["text"] for row in rows),
        revision=first["revision"],
        tokenizer_id=first["tokenizer"],
        pool_documents=pool.get("pool_documents"),
        pool_tokens=pool.get("pool_tokens"),
        excluded_documents=first.get("excluded_documents"),
        responses=responses,
    )


def _spec(values: Mapping[str, Any], path: str) -> CalibrationSpec:
    numbers = {key: value for key, value in values.items() if key not in ("source", "revision")}
    return parse(CalibrationSpec, {"source": get_source(values["source"], f"{path}: source"), **numbers}, path)


def _tokens(rows: Sequence[Mapping[str, Any]], spec: CalibrationSpec, path: str) -> np.ndarray:
    expected = len(rows) if spec.nsamples is None else spec.nsamples
    if [int(row["window"]) for row in rows] != list(range(expected)):
        raise SettingsError(f"{path}: {len(rows)} windows for a set of {expected}; the file is not whole")
    if any(len(row["tokens"]) != spec.seqlen for row in rows):
        raise SettingsError(f"{path}: a window does not have {spec.seqlen} tokens; the file was changed")
    tokens = np.asarray([row["tokens"] for row in rows], dtype=np.int32)
    tokens.setflags(write=False)
    return tokens


def _pool(calibration_set: CalibrationSet) -> dict[str, int | None]:
    return {"pool_documents": calibration_set.pool_documents, "pool_tokens": calibration_set.pool_tokens}


def _write_parquet(calibration_set: CalibrationSet, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = pa.list_(pa.int32())
    kinds = {"set": pa.int32(), "window": pa.int32(), "tokens": numbers, "starts": numbers, "lengths": numbers}
    kinds["documents"] = pa.list_(pa.string())
    kinds |= {"distinct": pa.int32(), "document_bos": pa.bool_(), "exclude_overlap": pa.int32()}
    kinds |= {"excluded_documents": pa.int64(), "responses": pa.list_(pa.bool_())}
    rows = _rows(calibration_set)
    schema = pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in rows[0]])
    about = {"calibration_set_version": str(FORMAT_VERSION), "pool": json.dumps(_pool(calibration_set))}
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.with_metadata(about)), path, compression="zstd")


def _rows(calibration_set: CalibrationSet) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in calibration_set.rows()]


def _read_parquet(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = one_line(" ".join(str(error).split()))[:200]
        raise SettingsError(f"{path}: not a Parquet file, or a damaged one ({reason})") from None
    _check_columns(table.column_names, path)
    about = table.schema.metadata or {}
    return table.to_pylist(), json.loads(about.get(b"pool", b"{}"))


def _write_json(calibration_set: CalibrationSet, path: Path) -> None:
    rows = _rows(calibration_set)
    document = {
        "calibration_set_version": FORMAT_VERSION,
        **{key: rows[0][key] for key in SHARED},
        "spec": json.loads(rows[0]["spec"]),
        **_pool(calibration_set),
        "windows": [{key: value for key, value in row.items() if key not in SHARED} for row in rows],
    }
    path.write_text(json.dumps(document, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")


def _write_jsonl(calibration_set: CalibrationSet, path: Path) -> None:
    """A line a window, with the columns of the Parquet file; the first line has the size of the pool as well."""
    with open(path, "w", encoding="utf-8") as stream:
        for number, row in enumerate(_rows(calibration_set)):
            more = {"calibration_set_version": FORMAT_VERSION, **_pool(calibration_set)} if number == 0 else {}
            stream.write(json.dumps({**row, **more}, ensure_ascii=False) + "\n")


def _read_jsonl(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows = [record for _, record in json_records(path)]
    for row in rows:
        if not isinstance(row, dict):
            raise SettingsError(f"{path}: not a calibration set (a line is no object)")
        _check_columns(list(row), path)
    return rows, rows[0] if rows else {}


def _write_folder(calibration_set: CalibrationSet, path: Path) -> None:
    """A folder that `datasets.load_dataset` reads: the Parquet file, and a card."""
    (path / DATA).parent.mkdir(parents=True)
    _write_parquet(calibration_set, path / DATA)
    (path / "README.md").write_text(card(calibration_set), encoding="utf-8")


def _read_json(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise SettingsError(f"{path}: not a JSON file, or not whole") from None
    windows = document.get("windows") if isinstance(document, Mapping) else None
    if not isinstance(windows, list):
        raise SettingsError(f"{path}: not a calibration set (it has no list of windows)")
    shared = {key: document[key] for key in SHARED if key in document}
    shared["spec"] = json.dumps(shared.get("spec"), sort_keys=True)
    rows = [{**shared, **window} for window in windows]
    for row in rows:
        _check_columns(list(row), path)
    return rows, {key: document.get(key) for key in ("pool_documents", "pool_tokens")}


def _check_columns(columns: Sequence[str], path: Path) -> None:
    wanted = [*SHARED, "window", "tokens", "text", "documents", "starts", "lengths"]
    if missing := [name for name in wanted if name not in columns]:
        raise SettingsError(f"{path}: not a calibration set (it has no column '{missing[0]}')")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of one set, and where to write it; `run` needs the latter."""
    parser.add_argument("--source", required=True, help="Name of a source, or its settings: '{source: file, path: x}'.")
    parser.add_argument("--tokenizer", required=True, help="Folder, or org/name[@revision] on the hub.")
    parser.add_argument("--out", help="File to write (.parquet, .jsonl or .json), or a folder.")
    parser.add_argument("--nsamples", type=int, default=128, help="Number of windows (128).")
    parser.add_argument("--seqlen", type=int, default=2048, help="Tokens per window (2048).")
    parser.add_argument("--set", type=int, default=0, help="Number of the disjoint set (0).")
    parser.add_argument("--max-nsamples", type=int, help="Size up to which sets are nested and disjoint (nsamples).")
    parser.add_argument("--distinct", type=int, help="Number of different windows, which are repeated (nsamples).")
    parser.add_argument(
        "--sampling", default="windows", help="windows, packed, document_start, long_documents or sequential"
    )
    parser.add_argument("--separator", default="eos", help="Between documents that share a window: eos, bos, none.")
    parser.add_argument("--add-bos", action="store_true", help="Begin each window with the BOS id.")
    parser.add_argument("--first-token", default="bos", help="The id that --add-bos means: bos or eos.")
    parser.add_argument("--document-bos", action="store_true", help="Begin each document with the BOS id.")
    parser.add_argument("--select", help="Rule that chooses the windows: random, lexical, '{by: herding, pool: 10}'.")
    parser.add_argument(
        "--part", default="both", help="Tokens that count: both, prompt or response (of conversations)."
    )
    parser.add_argument("--length-weights", type=_lengths, help="Lengths that count together, such as 256,512,2048.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sampling (0).")


def _lengths(text: str) -> list[int]:
    """`256,512,2048` as numbers; argparse says which argument is none."""
    return [int(part) for part in text.split(",")]


SETTINGS = (
    *("nsamples", "seqlen", "set", "max_nsamples", "distinct"),
    *("sampling", "separator", "add_bos", "first_token", "document_bos", "seed"),
    *("part", "length_weights"),
)


def spec_of(arguments: argparse.Namespace) -> CalibrationSpec:
    """The spec that the arguments mean. Raises SettingsError."""
    source = get_source(_entry(arguments.source, "--source"), "--source")
    chosen = {} if arguments.select is None else {"select": _entry(arguments.select, "--select")}
    numbers = {name: getattr(arguments, name) for name in SETTINGS}
    return parse(CalibrationSpec, {"source": source, **numbers, **chosen}, "calibration")


def _entry(text: str, option: str) -> Any:
    try:
        return read_yaml(text)
    except SettingsError as error:
        raise SettingsError(f"{option} {shown(text)}: {error}") from None


def run(
    arguments: argparse.Namespace, shipped: Mapping[str, Path] | None = None, model: AskedModel | None = None
) -> CalibrationSet:
    """Build the set that the arguments mean, with the model that is asked, and write it. Raises SettingsError."""
    if arguments.out is None:
        raise SettingsError("--out: required, but not given; name a file (.parquet, .jsonl or .json), or a folder")
    spec = spec_of(arguments)
    tokenizer = find_tokenizer(arguments.tokenizer, shipped)
    preflight([spec])
    tools = {} if model is None else model.tools()
    calibration_set = build(spec, load_tokenizer(tokenizer), tokenizer.id, **tools)
    target = write_set(calibration_set, arguments.out)
    windows, length = calibration_set.tokens.shape
    print(f"{target}: {windows} windows of {length} tokens, {calibration_set.documents} documents")
    if told := told_weights(calibration_set):
        print(told)
    print(f"sha256 of the tokens: {calibration_set.hash}")
    return calibration_set


def main(argv: Sequence[str] | None = None, shipped: Mapping[str, Path] | None = None) -> int:
    """Build one set and write it. Returns the exit code: 2 when the settings cannot be used.

    `shipped` has folders of tokenizers that are known by name.
    """
    program = "sweep.export" if shipped else "calib.export"
    parser = Parser(prog=f"python -m {program}", description="Write a calibration set to a file.")
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        run(arguments, shipped)
    except SettingsError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

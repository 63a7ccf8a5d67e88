"""The results of a study: seven Parquet tables, what their columns mean, and how they are read and written.

`Results(root)` reads and writes a folder or a bucket, `python -m sweep.results compact RESULTS` packs the small files
of a finished study into few, `python -m sweep.results status RESULTS` says how a study stands. The columns are defined
in `sweep/storage/schemas.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import polars as pl

from sweep.storage.compact import compact
from sweep.storage.lease import Lease
from sweep.storage.reading import trials_in_parts
from sweep.storage.schemas import (
    ACCURACY_METRICS,
    CALIBRATION,
    DESCRIPTORS,
    DETAILS,
    KEYS,
    LAYERS,
    METRICS,
    OVERLAP,
    SAMPLES,
    SCHEMA_VERSION,
    TABLES,
    TRIALS,
    about,
)
from sweep.storage.status import status
from sweep.storage.store import ResultsError
from sweep.storage.tables import Results, TrialRows

__all__ = [
    "ACCURACY_METRICS",
    "CALIBRATION",
    "DESCRIPTORS",
    "DETAILS",
    "KEYS",
    "LAYERS",
    "METRICS",
    "OVERLAP",
    "SAMPLES",
    "SCHEMA_VERSION",
    "TABLES",
    "TRIALS",
    "Results",
    "ResultsError",
    "TrialRows",
    "about",
    "main",
    "status",
    "trials_in_parts",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Pack the files of a results folder, or say how its study stands.

    Returns the exit code: 2 when it cannot be done, with one line why.
    """
    parser = argparse.ArgumentParser(prog="python -m sweep.results", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("compact", help="pack the files of finished trials, a thousand trials to a file")
    pack.add_argument("results", metavar="RESULTS", help="folder or s3:// gs:// URI of the results")
    look = commands.add_parser("status", help="say what is done, what runs and what failed")
    look.add_argument("results", metavar="RESULTS", help="folder or s3:// gs:// URI of the results")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "status":
            print("\n".join(status(arguments.results).lines()))
            return 0
        results = Results(arguments.results)
        lease = Lease(results)
        lease.acquire()
        try:
            done = compact(results, lease.check)
        finally:
            lease.release()
    except (OSError, ValueError, ResultsError, pl.exceptions.PolarsError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{done.trials:,} trials packed: {done.before:,} files -> {done.after:,} in {results.root}")
    for reason in done.left:
        print(reason)
    return 0


if __name__ == "__main__":
    sys.exit(main())

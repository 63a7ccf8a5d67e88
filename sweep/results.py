"""The results of a study: seven Parquet tables, what their columns mean, and how they are read and written.

`Results(root)` reads and writes a folder or a bucket, `python -m sweep.results compact RESULTS` packs the small files
of a finished study into few, `python -m sweep.results status RESULTS` says how a study stands. The columns are defined
in `sweep/storage/schemas.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import polars as pl

from calib.commandline import Parser
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


def main(argv: Sequence[str] | None = None, prog: str = "python -m sweep.results") -> int:
    """Pack the files of a results folder, or say how its study stands.

    Returns the exit code: 2 when it cannot be done, with one line why.
    """
    parser = Parser(prog=prog, description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, prog=prog, metavar="COMMAND")
    packs = "Pack the files of finished trials, a thousand trials to a file."
    pack = commands.add_parser("compact", help=packs, description=packs)
    pack.add_argument("results", help="Folder or s3:// gs:// URI of the results.")
    says = "Say what is done, what runs and for how long, and what failed."
    look = commands.add_parser("status", help=says, description=says)
    look.add_argument("results", help="Folder or s3:// gs:// URI of the results.")
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

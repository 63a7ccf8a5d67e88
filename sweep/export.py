"""`python -m sweep.export`: write a calibration set to a file, with the tokenizer of a model that ships, by its name.

The same command as `python -m calib.export`, which knows folders and hub ids; calib does not know the sweep's models.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from calib import export
from sweep.models import MODELS, bundled_models


def main(argv: Sequence[str] | None = None) -> int:
    """Build one set and write it. Returns the exit code: 2 when the settings cannot be used."""
    return export.main(argv, {name: MODELS / name for name in bundled_models()})


if __name__ == "__main__":
    sys.exit(main())

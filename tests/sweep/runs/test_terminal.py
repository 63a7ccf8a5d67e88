"""The terminal is the sweep's own: what others print is in a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import logging, os, sys
from pathlib import Path
from sweep.runs.terminal import others_print_to
console = sys.stdout
with others_print_to(Path(sys.argv[1]), "noisy"):
    os.write(2, b"native\\n")
    print("printed by a thread", flush=True)
    logging.getLogger("noisy.part").error("logged")
    print("our line", file=console)
    print("our warning", file=sys.stderr)
    logging.getLogger("sweep").warning("our log")
os.write(2, b"afterwards\\n")
print("and here")
"""


def test_what_others_print_is_in_the_file_and_ours_in_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-c", CODE, str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "our line\nand here\n"
    assert done.stderr == "our warning\nour log\nafterwards\n"
    assert log.read_text() == "native\nprinted by a thread\nlogged\n"

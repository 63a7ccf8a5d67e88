"""What the system says of processes that a test has started: children, open ports, and what their files hold."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path


def _table() -> dict[int, tuple[int, str]]:
    """The parent and the program of every process, by its number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            program = (folder / "comm").read_text().strip()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended
        found[int(folder.name)] = (parent, program)
    return found


def child(parent: int, program: str) -> int:
    """The number of a process that another one has started, by its program."""
    for number, (above, name) in _table().items():
        if (above, name) == (parent, program):
            return number
    raise AssertionError(f"process {parent} has started no {program}")


def family(number: int) -> set[int]:
    """A process with all that it has started, and these."""
    table, found = _table(), {number}
    while more := {one for one, (above, _) in table.items() if above in found} - found:
        found |= more
    return found


def listening(number: int) -> set[str]:
    """Addresses at which a process and those below it listen for TCP."""
    sockets = set()
    for one in family(number):
        for file in Path(f"/proc/{one}/fd").glob("*"):
            try:
                sockets.add(str(file.readlink()))
            except OSError:
                continue  # closed meanwhile
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, here, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                found.add(_address(here.partition(":")[0]))
    return found


def _address(text: str) -> str:
    """An address as the system's tables write it: words of four bytes, each in the order of the machine."""
    packed = b"".join(bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8))
    address = ipaddress.ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)


def files_with(words: Sequence[str], folders: Iterable[Path]) -> list[str]:
    """Files in which one of the words stands."""
    return [
        str(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]

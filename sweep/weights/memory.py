"""How much memory of the host a process may still take, also inside a container."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = (  # limit, used, statistics: version 2, version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def host_memory(root: Path = Path("/")) -> int:
    """Bytes: what the system calls available, or less when a control group limits the process.

    Files in the page cache count as free, since they give way. `root` is where `proc` and `sys` are.
    """
    available = [int(line.split()[1]) * 1024 for line in _lines(root / "proc/meminfo") if line.startswith("MemAvail")]
    free = available[0] if available else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for limit, used, statistics in CGROUPS:
        folder = root / "sys/fs/cgroup"
        numbers = [line for name in (limit, used) for line in _lines(folder / name)]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):  # no limit is the word `max`
            cached = dict(line.split() for line in _lines(folder / statistics))
            files = int(cached.get("active_file", 0)) + int(cached.get("inactive_file", 0))
            free = min(free, int(numbers[0]) - int(numbers[1]) + files)
    return max(0, free)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

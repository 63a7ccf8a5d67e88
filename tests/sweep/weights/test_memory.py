from __future__ import annotations

from pathlib import Path

from sweep.weights.memory import host_memory


def test_memory_of_a_container_counts_its_limit_and_not_its_page_cache(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert host_memory(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000\n")
    (group / "memory.stat").write_text("anon 3000\nactive_file 800\ninactive_file 1000\n")
    assert host_memory(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("6000\n")
    assert host_memory(tmp_path) == 6000 - 5000 + 1800

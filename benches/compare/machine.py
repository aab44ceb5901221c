"""On what it was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

from . import controls
from .peers import ISTHMUS, LOCKS, PEERS


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def is_virtual() -> bool:
    return "hypervisor" in Path("/proc/cpuinfo").read_text()


def cache(cpu: int) -> str:
    """The caches of a core, as "32K L1, 512K L2, 32768K L3"."""
    found = []
    for index in sorted(Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            if kind != "Instruction":
                found.append(
                    f"{(index / 'size').read_text().strip()} L{(index / 'level').read_text().strip()}"
                )
        except OSError:
            continue
    return ", ".join(found)


def describe(cpus: tuple[int, int]) -> dict[str, Any]:
    versions = {
        peer.distribution: peer.version()
        for peer in (ISTHMUS, *PEERS, *LOCKS)
        if peer.distribution and peer.version()
    }
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "virtual": is_virtual(),
        "cache": cache(cpus[0]),
        "cpus": list(cpus),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": controls.compiler_version(),
        "versions": versions,
        "matplotlib": find("matplotlib"),
    }


def find(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def ticks() -> tuple[int, int]:
    """Of all cores since the machine started: ticks not idle (a hypervisor's theft included), and all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def taken_by_others(seconds: float = 0.3) -> float:
    """The share of the CPU that is in use while we do nothing."""
    busy, total = ticks()
    time.sleep(seconds)
    busy_after, total_after = ticks()
    return (busy_after - busy) / max(1, total_after - total)

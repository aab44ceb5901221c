"""On what it was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
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


def load() -> float:
    return os.getloadavg()[0]

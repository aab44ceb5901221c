"""Fixtures for limits: a small tmpfs, a control group of little memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import Peer, wait_until

Start = Callable[..., Peer]

MIB = 1 << 20


@pytest.fixture
def mounted(tmp_path: Path, spawn: Start) -> Callable[..., Peer]:
    """`mounted(mib, code)` runs code with a tmpfs of that size as its namespace, in mounts of its own."""

    def start(mib: float, code: str) -> Peer:
        place = tmp_path / "small"
        place.mkdir(mode=0o700, exist_ok=True)
        wrapper = tmp_path / f"python-{mib}"
        wrapper.write_text(
            "#!/bin/sh\n"
            f"exec unshare --mount sh -c 'mount -t tmpfs -o size={int(mib * MIB)},mode=0700 none "
            f'"{place}" && export ISTHMUS_NAMESPACE="{place}" && exec "{sys.executable}" "$@"\' sh "$@"\n'
        )
        wrapper.chmod(0o700)
        return spawn(PRELUDE + code, executable=str(wrapper))

    return start


PRELUDE = """
import errno, os, sys, isthmus
from pathlib import Path
here = Path(os.environ["ISTHMUS_NAMESPACE"])
MIB = 1 << 20
def refused(make, *words):
    try:
        make()
    except isthmus.NoSpaceError as error:
        assert error.errno == errno.ENOSPC and isinstance(error, OSError)
        text = str(error)
        for word in words:
            assert word in text, f"{word!r} is not in {text!r}"
        return text
    raise AssertionError("it was not refused")
def free():
    found = os.statvfs(here)
    return found.f_bavail * found.f_frsize
def files():
    return sorted(p.name for p in here.iterdir() if p.name != ".registry")
"""


def own_group(controller: str) -> Path | None:
    """The directory of this process's control group that limits memory, v1 or v2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        roots: list[str] = []
        if controller == "v1" and "memory" in names.split(","):
            roots = ["/sys/fs/cgroup/memory"]
        elif controller == "v2" and not names:
            roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        for root in roots:
            if (Path(root) / "cgroup.procs").exists():
                own = Path(root) / path.lstrip("/")
                return own if own.is_dir() else Path(root)
    return None


@pytest.fixture(params=["v1", "v2"])
def limited(request: pytest.FixtureRequest, spawn: Start) -> Iterator[Callable[..., Peer]]:
    """`limited(mib, code)` runs code within a control group of that much memory, below this process's own."""
    version = request.param
    parent = own_group(version)
    if parent is None:
        pytest.skip(f"this machine has no memory control group {version}")
    if version == "v2" and "memory" not in (parent / "cgroup.controllers").read_text().split():
        pytest.skip("the control group v2 of this machine has no memory controller")
    group = parent / f"isthmus-test-{os.getpid()}"
    try:
        if version == "v2" and "memory" not in (parent / "cgroup.subtree_control").read_text():
            (parent / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    started = []

    def start(mib: int, code: str) -> Peer:
        limit = "memory.limit_in_bytes" if version == "v1" else "memory.max"
        (group / limit).write_text(str(mib * MIB))
        enter = f"with open({str(group / 'cgroup.procs')!r}, 'w') as file: file.write('0')\n"
        peer = spawn(enter + PRELUDE + code)
        started.append(peer)
        return peer

    try:
        yield start
    finally:
        for peer in started:
            peer.reap()
        wait_until(lambda: removed(group), f"{group} to be empty")


def removed(group: Path) -> bool:
    """Removes a control group; False while something is in it."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True

"""Shared memory and mapped files at their limits: full tmpfs, control groups, huge pages, other users."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus
from kernel_peers import fresh_name
from support import Peer, object_files, run_python

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, control groups, other users"),
]

FILL = """
import subprocess
def fill(folder):
    "Leaves not a page in a file system."
    with open(folder / "filler", "wb") as file:
        try:
            while True:
                file.write(bytes(65536)); file.flush()
        except OSError as error:
            assert error.errno == errno.ENOSPC
    with open(folder / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    assert os.statvfs(folder).f_bavail == 0
def small_shm(mib):
    "A /dev/shm of that size, in the mounts of this process alone."
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", "/dev/shm"], check=True)
shm = Path("/dev/shm")
"""

BECOME_NOBODY = """
import os, pathlib, pickle, sys, traceback, isthmus
import isthmus.mapped_file, isthmus.shared_array  # all of it now: Python itself may be out of reach then
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def refused(make):
    try:
        make()
    except PermissionError as error:
        return str(error)
    raise AssertionError("it was allowed")
"""


@pytest.fixture
def name() -> Iterator[str]:
    """A POSIX name, removed afterwards."""
    found = f"{fresh_name()}-limits"
    yield found
    Path(f"/dev/shm{found}").unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------- a full tmpfs


def test_named_memory_that_does_not_fit_is_refused_and_leaves_nothing(mounted: Callable[..., Peer]) -> None:
    mounted(
        4,
        """
with isthmus.SharedMemory("first", MIB) as first:
    before = free()
    for make in (isthmus.SharedMemory, isthmus.SharedMemory.create):
        refused(lambda: make("big", 3 * MIB), str(here), "size=", "shm-size")
    refused(lambda: isthmus.SharedArray("big", (3, MIB), "B"), str(here))
    refused(lambda: first.grow(4 * MIB), str(here), "size=")
    assert (free(), files(), first.size) == (before, ["first"], MIB)
    first.grow(2 * MIB)
    first[2 * MIB - 1] = 1
""",
    ).finish()


def test_what_was_reserved_is_there_although_the_tmpfs_is_full_now(mounted: Callable[..., Peer]) -> None:
    """Without reservation this ends by SIGBUS."""
    mounted(
        4,
        FILL
        + """
with isthmus.SharedMemory("m", MIB) as memory, isthmus.MappedFile(here / "file", MIB) as file:
    memory.grow(MIB + 300_000)
    file.grow(MIB + 300_000)
    fill(here)
    for each in (memory, file):
        each.view()[:] = b"x" * (MIB + 300_000)
        refused(lambda: each.grow(2 * MIB), str(here))
        assert bytes(each[-3:]) == b"xxx"
    refused(lambda: isthmus.MappedFile(here / "other", MIB), str(here))
    assert not (here / "other").exists()
""",
    ).finish()


def test_posix_memory_is_reserved_too_and_what_others_left_sparse(mounted: Callable[..., Peer]) -> None:
    mounted(
        4,
        FILL
        + """
small_shm(4)
refused(lambda: isthmus.SharedMemory("posix-shm:///big", 5 * MIB), "/dev/shm", "size=")
assert os.listdir(shm) == []
with isthmus.SharedMemory("posix-shm:///a", MIB) as memory:
    with open(shm / "sparse", "wb") as file:
        file.truncate(MIB)                           # as a C program's ftruncate leaves it
    with open(shm / "late", "wb") as file:
        file.truncate(MIB)
    with isthmus.SharedMemory.open("posix-shm:///sparse") as sparse:
        fill(shm)
        memory.view()[:] = sparse.view()[:] = b"x" * MIB
        refused(lambda: isthmus.SharedMemory.open("posix-shm:///late"), "/dev/shm")
        refused(lambda: memory.grow(2 * MIB), "/dev/shm")
        assert bytes(memory[-3:]) == bytes(sparse[-3:]) == b"xxx"
""",
    ).finish()


def test_a_sparse_file_is_reserved_on_request_or_refused(mounted: Callable[..., Peer]) -> None:
    mounted(
        4,
        FILL
        + """
for name in ("one", "two"):
    with open(here / name, "wb") as file:
        file.truncate(MIB)
with isthmus.MappedFile(here / "one") as one, isthmus.MappedFile(here / "two") as two:
    one.reserve()
    fill(here)
    one.view()[:] = b"x" * MIB
    refused(two.reserve, str(here))
    try:
        two.write(0, b"x" * MIB)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    else:
        raise AssertionError("it was written")
""",
    ).finish()


# ---------------------------------------------------------------------------------------- control groups


def test_more_than_the_control_group_allows_is_an_error_not_a_kill(limited: Callable[..., Peer]) -> None:
    limited(
        64,
        """
for name in ("m", None, "posix-shm:///isthmus-test-group"):
    refused(lambda: isthmus.SharedMemory(name, 256 * MIB), "cgroup", "size=")
    with isthmus.SharedMemory(name, 4 * MIB) as memory:
        refused(lambda: memory.grow(256 * MIB), "cgroup")
        memory.grow(12 * MIB)
        memory.view()[:] = b"x" * (12 * MIB)
        if name and name[0] == "p":
            memory.unlink()
assert files() == []
with isthmus.MappedFile(here / "file", 4 * MIB) as file:
    refused(lambda: file.grow(256 * MIB), "cgroup")
    file.unlink()
""",
    ).finish()


# ---------------------------------------------------------------------------------------- huge pages


def test_huge_pages_of_the_pool_or_a_clear_error(spawn: Callable[..., Peer]) -> None:
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    spawn("""
        import isthmus
        info = dict(line.split()[:2] for line in open("/proc/meminfo"))
        free = int(info["HugePages_Free:"])
        try:
            isthmus.SharedMemory(size=(free + 1) * (2 << 20), huge_pages=True)
        except isthmus.NoSpaceError as error:
            assert "nr_hugepages" in str(error) and f"{free} of" in str(error), error
        else:
            raise AssertionError("there were more than are free")
        try:
            isthmus.SharedMemory(size=10, huge_pages=12_345)
        except ValueError as error:
            assert "2097152" in str(error)
    """).finish()
    try:
        pool.write_text(f"{int(before) + 4}")
        spawn("""
            import gc, pickle, isthmus
            page = 2 << 20
            with isthmus.SharedMemory(size=page + 1, huge_pages=True) as memory:
                assert memory.size == 2 * page, memory
                memory.view()[:] = b"x" * (2 * page)
                smaps = open("/proc/self/smaps").read()
                entry = smaps[smaps.index("memfd:isthmus-"):]
                assert f"KernelPageSize:     {page // 1024} kB" in entry[: entry.index("VmFlags")], entry
                with pickle.loads(pickle.dumps(memory)) as other:
                    assert other.grow(2 * page + 1) == memory.size == 3 * page
                    memory[3 * page - 1] = 7
                    assert other[3 * page - 1] == 7
                try:
                    memory.grow(100 * page)
                except isthmus.NoSpaceError as error:
                    assert "97 huge pages" in str(error), error
                assert memory.size == 3 * page
            gc.collect()
            with isthmus.SharedArray(None, (10, 3), "i4", huge_pages=page) as array:
                array[9, 2] = 5
                assert array.shape == pickle.loads(pickle.dumps(array)).shape == (10, 3)
                assert array.grow(11) == (11, 3)
        """).finish()
    finally:
        pool.write_text(before)


def test_transparent_huge_pages_by_name_or_a_clear_error(mounted: Callable[..., Peer]) -> None:
    mounted(
        64,
        """
import subprocess
def huge():
    lines = [line for line in open("/proc/self/smaps") if line.startswith("ShmemPmdMapped")]
    return sum(int(line.split()[1]) for line in lines)
def tmpfs(option):
    options = f"size=64m,mode=0700,huge={option}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", here], check=True)
os.chdir("/")
tmpfs("never")
before = files()
try:
    isthmus.SharedMemory("m", 8 * MIB, huge_pages=True)
except isthmus.Unsupported as error:
    assert "shmem_enabled" in str(error), error
else:
    assert huge() >= 4096, "neither huge pages nor an error"
assert files() == before
tmpfs("advise")
with isthmus.SharedMemory("m", 16 * MIB, namespace=here, huge_pages=True) as memory:
    assert huge() >= 8 * 1024, huge()
    memory.view()[:] = b"x" * (16 * MIB)
    with isthmus.SharedMemory.open("m", huge_pages=True) as other:
        assert bytes(other[-3:]) == b"xxx"
    try:
        isthmus.SharedMemory("small", 100, huge_pages=True)
    except ValueError as error:
        assert "100" in str(error)
    assert files() == ["m"]
""",
    ).finish()


# ---------------------------------------------------------------------------------------- other users


def test_another_user_gets_neither_named_nor_anonymous_memory(namespace: Path, name: str) -> None:
    url = f"posix-shm://{name}"
    with (
        isthmus.SharedMemory("m", 10),
        isthmus.SharedArray("a", 3),
        isthmus.SharedMemory(size=10) as anonymous,
        isthmus.SharedMemory(url, 10),
    ):
        run_python(
            BECOME_NOBODY
            + """
url, address = sys.argv[1:]
for make in (isthmus.SharedMemory, isthmus.SharedMemory.open, isthmus.SharedArray.open):
    for each in ("m", "a", "new"):
        text = refused(lambda: make(each))
        assert os.environ["ISTHMUS_NAMESPACE"] in text, text
for readonly in (False, True):
    refused(lambda: isthmus.SharedMemory.open(url, readonly=readonly))
assert "another user" in refused(lambda: pickle.loads(bytes.fromhex(address)))
""",
            url,
            pickle.dumps(anonymous).hex(),
        )
    assert object_files(namespace) == []


def test_another_user_reads_what_its_permissions_say(name: str, tmp_path: Path) -> None:
    url = f"posix-shm://{name}"
    path = tmp_path / "file"
    path.write_bytes(b"for all to read")
    path.chmod(0o644)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with isthmus.SharedMemory.create(url, 100, permissions=0o644) as memory:
        memory[0:5] = b"hello"
        run_python(
            BECOME_NOBODY
            + """
url, path = sys.argv[1:]
refused(lambda: isthmus.SharedMemory.open(url))
with isthmus.SharedMemory.open(url, readonly=True) as memory:
    assert bytes(memory[:5]) == b"hello"
    try:
        memory[0] = 1
    except TypeError:
        pass
    refused(memory.unlink)
refused(lambda: isthmus.MappedFile(path))
with isthmus.MappedFile(path, access="read") as file, file.lock(shared=True):
    assert bytes(file.view()) == b"for all to read"
with isthmus.MappedFile(path, access="copy") as file:
    assert "shared" in refused(file.lock().acquire)
    file[0] = 70
""",
            url,
            path,
        )
    assert path.read_bytes() == b"for all to read"

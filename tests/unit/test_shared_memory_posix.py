"""`posix-shm:///name`: a C program and posix_ipc at the other end, which have never heard of Isthmus."""

from __future__ import annotations

import importlib
import mmap
import os
import pickle
import stat
import struct
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import pytest

import isthmus
from kernel_peers import fresh_name
from programs import Program, compiled
from support import Peer

Start = Callable[..., Peer]

posix_ipc: Any = importlib.import_module("posix_ipc")  # has no types

SEGMENT = r"""
/* Commands by lines: create NAME SIZE | open NAME | map | put OFFSET TEXT | get OFFSET LENGTH
   | sum COUNT (of doubles) | cut SIZE | size | unlink NAME. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int fd = -1;
static char *start;
static size_t length;

static void check(int bad, const char *what) {
    if (bad) { printf("error %s %d\n", what, errno); fflush(stdout); _exit(3); }
}

static void map(void) {
    struct stat found;
    check(fstat(fd, &found), "fstat");
    if (start) munmap(start, length);
    length = found.st_size;
    start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(start == MAP_FAILED, "mmap");
}

int main(void) {
    char line[4096], name[300], text[2000];
    long a, b;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "create %299s %ld", name, &a) == 2) {
            fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
            check(fd < 0, "shm_open");
            check(ftruncate(fd, a), "ftruncate");
            map();
            puts("ok");
        } else if (sscanf(line, "open %299s", name) == 1) {
            fd = shm_open(name, O_RDWR, 0);
            check(fd < 0, "shm_open");
            map();
            puts("ok");
        } else if (strcmp(line, "map") == 0) {
            map();
            printf("%zu\n", length);
        } else if (sscanf(line, "put %ld %1999s", &a, text) == 2) {
            memcpy(start + a, text, strlen(text));
            puts("ok");
        } else if (sscanf(line, "get %ld %ld", &a, &b) == 2) {
            printf("%.*s\n", (int)b, start + a);
        } else if (sscanf(line, "sum %ld", &a) == 1) {
            double sum = 0;
            for (long i = 0; i < a; i++) sum += ((double *)start)[i];
            printf("%.1f\n", sum);
        } else if (sscanf(line, "cut %ld", &a) == 1) {
            check(ftruncate(fd, a), "ftruncate");
            puts("ok");
        } else if (sscanf(line, "unlink %299s", name) == 1) {
            check(shm_unlink(name), "shm_unlink");
            puts("ok");
        } else {
            puts("what?");
        }
        fflush(stdout);
    }
    return 0;
}
"""


@pytest.fixture
def name() -> Iterator[str]:
    """A name as C knows it, removed afterwards."""
    found = f"{fresh_name()}-memory"
    yield found
    file_of(found).unlink(missing_ok=True)


@pytest.fixture
def program() -> Iterator[Program]:
    """The C program."""
    started = Program(compiled(SEGMENT, "rt"))
    yield started
    started.reap()


def url(name: str) -> str:
    return f"posix-shm://{name}"


def file_of(name: str) -> Path:
    return Path(f"/dev/shm{name}")


def tell(program: Program, command: str) -> str:
    program.send(command)
    return program.line()


# ---------------------------------------------------------------------------------------- a C program


def test_what_we_create_a_c_program_opens(name: str, program: Program) -> None:
    with isthmus.SharedMemory.create(url(name), 10_000) as memory:
        memory[0:5] = b"hello"
        assert tell(program, f"open {name}") == "ok"
        assert tell(program, "get 0 5") == "hello"
        assert tell(program, "put 9000 world") == "ok"
        assert bytes(memory[9000:9005]) == b"world"
        memory.array("d", 4, offset=0)[:] = [0.5, 1, 2, 4]
        assert tell(program, "sum 4") == "7.5"


def test_what_a_c_program_creates_we_open(name: str, program: Program) -> None:
    assert tell(program, f"create {name} 5000") == "ok"
    with isthmus.SharedMemory.open(url(name)) as memory, isthmus.SharedMemory(url(name), 5000) as other:
        assert memory.size == other.size == 5000
        assert tell(program, "put 4995 there") == "ok"
        assert bytes(memory[-5:]) == bytes(other[-5:]) == b"there"
        assert file_of(name).stat().st_blocks * 512 >= 5000, "ftruncate reserves nothing, we do"
        with pytest.raises(isthmus.IncompatibleError, match=r"size=5000.*size=5001"):
            isthmus.SharedMemory(url(name), 5001)
        with pytest.raises(FileExistsError):
            isthmus.SharedMemory.create(url(name), 10)


def test_each_side_grows_and_the_other_sees_it(name: str, program: Program) -> None:
    with isthmus.SharedMemory(url(name), 100) as memory:
        assert tell(program, f"open {name}") == "ok"
        old = memory.view()
        memory.grow(10_000)
        assert tell(program, "map") == "10000"
        assert tell(program, "put 9990 far") == "ok"
        assert bytes(memory[9990:9993]) == b"far"
        assert tell(program, "cut 20000") == "ok"
        assert memory.size == len(memory.view()) == 20_000
        assert len(old) == 100


def test_it_survives_everybody_until_it_is_unlinked(name: str, program: Program, spawn: Start) -> None:
    peer = spawn(
        """
        import sys, isthmus
        memory = isthmus.SharedMemory(sys.argv[1], 100)
        memory[0:4] = b"left"
        print("written", flush=True)
        sys.stdin.readline()
        """,
        url(name),
    )
    peer.expect("written")
    peer.kill()
    assert tell(program, f"open {name}") == "ok"
    assert tell(program, "get 0 4") == "left"
    program.kill()
    with isthmus.SharedMemory.open(url(name)) as memory:
        assert bytes(memory[:4]) == b"left"
        memory.unlink()
        assert not file_of(name).exists()
        with pytest.raises(FileNotFoundError):
            memory.unlink()
        with pytest.raises(FileNotFoundError, match="posix-shm"):
            isthmus.SharedMemory.open(url(name))
        assert bytes(memory[:4]) == b"left"
        with isthmus.SharedMemory.create(url(name), 100), pytest.raises(FileNotFoundError):
            memory.unlink()  # of another one that has the name now


def test_the_other_side_unlinks_and_creates_anew(name: str, program: Program) -> None:
    with isthmus.SharedMemory(url(name), 100) as first:
        assert tell(program, f"unlink {name}") == "ok"
        assert tell(program, f"create {name} 50") == "ok"
        with isthmus.SharedMemory(url(name), 50) as second:
            first[0], second[0] = 1, 2
            assert (first[0], second[0], first.size, second.size) == (1, 2, 100, 50)


def test_one_cut_by_the_other_side_is_shorter_and_raw_views_of_it_die(
    name: str, program: Program, spawn: Start
) -> None:
    with isthmus.SharedMemory(url(name), 100_000) as memory:
        peer = spawn(
            """
            import sys, isthmus
            memory = isthmus.SharedMemory.open(sys.argv[1])
            view = memory.view()
            print("mapped", flush=True)
            sys.stdin.readline()
            assert memory.size == len(memory.view()) == 100
            print("as documented:", flush=True)
            view[50_000]
            """,
            url(name),
        )
        peer.expect("mapped")
        assert tell(program, f"open {name}") == "ok"
        assert tell(program, "cut 100") == "ok"
        assert memory.size == len(memory.view()) == 100
        peer.send()
        peer.expect("as documented:")
        assert peer.end()[0] == -7  # SIGBUS
        memory.grow(100_000)
        assert memory[50_000] == 0


# ---------------------------------------------------------------------------------------- other libraries


def test_posix_ipc_and_isthmus_share_it(name: str) -> None:
    theirs = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=1000)
    with mmap.mmap(theirs.fd, theirs.size) as mapping, isthmus.SharedMemory(url(name)) as memory:
        theirs.close_fd()
        memory[10:13] = b"abc"
        assert mapping[10:13] == b"abc"
        mapping[999] = 9
        assert memory[999] == 9
    posix_ipc.unlink_shared_memory(name)
    with pytest.raises(FileNotFoundError):
        isthmus.SharedMemory.open(url(name))
    with isthmus.SharedMemory.create(url(name), 64) as memory:
        theirs = posix_ipc.SharedMemory(name)
        assert theirs.size == 64
        theirs.close_fd()
        assert stat.S_IMODE(file_of(name).stat().st_mode) == 0o600


def test_multiprocessing_opens_it_too(name: str) -> None:
    with isthmus.SharedMemory.create(url(name), 64) as memory:
        memory[0] = 5
        theirs = shared_memory.SharedMemory(name.removeprefix("/"))
        resource_tracker.unregister(f"/{theirs.name}", "shared_memory")  # or it unlinks what is ours
        assert theirs.buf is not None
        assert theirs.buf[0] == 5
        theirs.close()


# ---------------------------------------------------------------------------------------- names and rights


def test_names_that_cannot_be() -> None:
    for wrong in (
        "posix-shm:",
        "posix-shm://name",
        "posix-shm:///",
        "posix-shm:///a/b",
        "posix-shm:////a",
        "posix-shm:///.",
        "posix-shm:///..",
        "posix-shm:///a\0b",
        f"posix-shm:///{'n' * 256}",
    ):
        with pytest.raises(ValueError, match="posix-shm:///name"):
            isthmus.SharedMemory(wrong, 10)


def test_what_is_no_segment_is_refused_and_untouched(name: str, tmp_path: Path) -> None:
    path = file_of(name)
    path.symlink_to(tmp_path / "elsewhere")
    for make in (isthmus.SharedMemory, isthmus.SharedMemory.open):
        with pytest.raises(isthmus.IncompatibleError, match="symlink"):
            make(url(name))
    assert not (tmp_path / "elsewhere").exists()
    path.unlink()
    path.mkdir()
    with pytest.raises(isthmus.IncompatibleError, match="directory"):
        isthmus.SharedMemory(url(name), 10)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(isthmus.IncompatibleError, match="regular"):
        isthmus.SharedMemory(url(name), 10)


def test_without_huge_pages_nothing_is_created(name: str) -> None:
    with pytest.raises((ValueError, isthmus.IsthmusError), match="huge"):
        isthmus.SharedMemory(url(name), 100, huge_pages=True)  # less than one
    assert not file_of(name).exists()
    with isthmus.SharedMemory.create(url(name), 100) as memory:
        with pytest.raises((ValueError, isthmus.IsthmusError), match="huge"):
            isthmus.SharedMemory(url(name), huge_pages=True)
        assert file_of(name).exists()
        memory.unlink()


def test_permissions_are_as_asked_whatever_the_umask(name: str) -> None:
    before = os.umask(0o077)
    try:
        with isthmus.SharedMemory.create(url(name), 10, permissions=0o644):
            assert stat.S_IMODE(file_of(name).stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_a_readonly_handle_and_what_does_not_exist_here(name: str) -> None:
    with isthmus.SharedMemory(url(name), 10) as memory:
        with isthmus.SharedMemory.open(url(name), readonly=True) as only:
            memory[0] = 1
            assert (only[0], only.readonly) == (1, True)
            with pytest.raises(TypeError, match="read-only"):
                only[0] = 2
            with pytest.raises(PermissionError):
                only.grow(20)
        with pytest.raises(isthmus.Unsupported, match="unlink"):
            isthmus.SharedMemory(url(name), persistent=False)
        with pytest.raises(isthmus.Unsupported, match="anonymous"):
            memory.seal("grow")
        memory.grow(struct.calcsize("d"))
        assert os.fstat(memory.fileno()).st_size == memory.size


def test_it_pickles_by_name(name: str, spawn: Start) -> None:
    with isthmus.SharedMemory(url(name), 10) as memory:
        peer = spawn(
            """
            import pickle, sys, isthmus
            memory = pickle.loads(bytes.fromhex(sys.argv[1]))
            memory[3] = 3
            print(memory.name, memory.size)
            """,
            pickle.dumps(memory).hex(),
        )
        assert peer.finish().split() == [url(name), "10"]
        assert memory[3] == 3

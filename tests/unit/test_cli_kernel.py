"""`isthmus ls --kernel`: the kernel's objects, whoever made them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pytest

import isthmus
from commands import assert_error, isthmus_command
from isthmus import posix_mq, sysv
from kernel_peers import SYSV, fresh_name
from programs import Program, compiled
from support import Peer

Start = Callable[..., Peer]


@pytest.fixture
def program() -> Iterator[Program]:
    """A C program that makes System V objects."""
    started = Program(compiled(SYSV))
    yield started
    started.reap()


def listed() -> list[dict[str, Any]]:
    done = isthmus_command("ls", "--kernel", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def only(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in listed() if one["kind"] == kind and one["name"].split()[0] == name]
    return found


def test_semaphores_with_value_and_users(spawn: Start) -> None:
    name = fresh_name()
    semaphore = isthmus.NamedSemaphore(name, 3)
    try:
        peer = spawn(
            """
            import sys, isthmus
            semaphore = isthmus.NamedSemaphore.open(sys.argv[1])
            print("open", flush=True)
            sys.stdin.readline()
            """,
            name,
        )
        peer.expect("open")
        one = only("posix semaphore", name)
        assert (one["value"], one["uid"], one["mode"]) == (3, os.geteuid(), "0600")
        assert {user["pid"] for user in one["used_by"]} == {os.getpid(), peer.pid}
        assert all(user["command"] for user in one["used_by"])
        done = isthmus_command("ls", "--kernel")
        (line,) = [line for line in done.stdout.splitlines() if name in line]
        assert line.startswith("posix semaphore")
        assert "= 3" in line
        assert done.stdout.startswith("KIND")
    finally:
        semaphore.unlink()


def test_shared_memory_of_any_program() -> None:
    segment = shared_memory.SharedMemory(create=True, size=5000)
    try:
        one = only("posix memory", f"/{segment.name.removeprefix('/')}")
        assert one["size"] == 5000
        assert [user["pid"] for user in one["used_by"]] == [os.getpid()]
    finally:
        segment.close()
        segment.unlink()
    assert not [one for one in listed() if one["kind"] == "posix memory" and segment.name in one["name"]]


def test_system_v_of_any_program(program: Program) -> None:
    kinds = {"queue {}": "sysv queue", "semaphores {} 3": "sysv semaphores", "segment {} 5000": "sysv memory"}
    made = {}
    try:
        for command, kind in kinds.items():
            program.send(command.format(random.randrange(1, 1 << 31)))
            made[kind] = program.line()
        program.send("attach")
        program.expect("attached")
        queue = only("sysv queue", made["sysv queue"])
        assert (queue["depth"], queue["size"]) == (1, 5)
        assert [user["pid"] for user in queue["used_by"]] == [program.pid]
        assert only("sysv semaphores", made["sysv semaphores"])["values"] == [3, 0, 7]
        memory = only("sysv memory", made["sysv memory"])
        assert (memory["size"], memory["attached"], memory["abandoned"]) == (5000, 1, False)
        assert [user["pid"] for user in memory["used_by"]] == [program.pid]
        program.kill()
        assert only("sysv memory", made["sysv memory"])["abandoned"] is True
        table = isthmus_command("ls", "--kernel").stdout
        assert "attached by nobody; abandoned" in table
    finally:
        ours = set(made.values())
        for one in sysv.everything():
            if str(one.id) in ours:
                one.remove()


def test_queues_where_they_are_listed_and_else_what_root_has_to_do() -> None:
    done = isthmus_command("ls", "--kernel")
    assert done.returncode == 0
    assert ("mount -t mqueue" in done.stderr) == (posix_mq.mounted() is None)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts the kernel's list of queues: needs root")
def test_queues_with_content_and_users(mq: isthmus.PosixQueue[bytes], spawn: Start, tmp_path: Path) -> None:
    mq.put_many([b"12345", b"678"])
    peer = spawn(
        """
        import ctypes, os, sys
        libc = ctypes.CDLL(None)
        assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
        assert libc.mount(b"none", b"/", None, 0x4000 | 1 << 18, None) == 0  # MS_REC | MS_PRIVATE
        assert libc.mount(b"none", os.fsencode(sys.argv[1]), b"mqueue", 0, None) == 0
        os.execv(sys.executable, [sys.executable, "-m", "isthmus", "ls", "--kernel", "--json"])
        """,
        tmp_path,
    )
    found = json.loads(peer.finish())
    (one,) = [one for one in found if one["name"] == mq.name]
    assert (one["kind"], one["depth"], one["size"], one["maxsize"]) == ("posix queue", 2, 8, 4)
    assert os.getpid() in [user["pid"] for user in one["used_by"]]


def test_a_namespace_has_no_place_here(tmp_path: Path) -> None:
    assert_error(isthmus_command("ls", "--kernel", "--namespace", str(tmp_path)), 2, "--namespace")

"""A full tmpfs and a memory cgroup: a clear error before anything is touched, and nothing lost."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer

Start = Callable[..., Peer]

AS_ROOT = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, control groups"),
]

MIB = 1 << 20


class TestFullTmpfs:
    """A /dev/shm as small as Docker makes it, only smaller."""

    pytestmark = AS_ROOT

    def test_an_object_that_does_not_fit_is_refused_by_name_and_leaves_nothing(
        self, mounted: Callable[..., Peer]
    ) -> None:
        mounted(
            4,
            """
before = None
for make in (isthmus.Queue, isthmus.Queue.create):
    text = refused(lambda: make("big"), str(here), "capacity")
    assert "shm-size" in text, text
    assert files() == []
    assert before is None or free() == before
    before = free()
with isthmus.Queue("small", type=bytes, capacity=MIB) as q:
    q.put(b"x"); assert q.get() == b"x"
assert files() == []
assert free() == before
""",
        ).finish()

    def test_messages_of_the_others_are_unharmed(self, mounted: Callable[..., Peer]) -> None:
        mounted(
            4,
            """
with isthmus.Queue("first", type=bytes, capacity=2 * MIB) as q:
    messages = [bytes([i]) * 1000 for i in range(200)]
    q.put_many(messages)
    refused(lambda: isthmus.Queue("second", type=bytes, capacity=3 * MIB))
    refused(lambda: isthmus.Queue("first-large", type=bytes, capacity=3 * MIB))
    assert q.get_many(1000) == messages
""",
        ).finish()

    def test_what_was_reserved_is_there_although_the_tmpfs_is_full_now(
        self, mounted: Callable[..., Peer]
    ) -> None:
        """Without reservation this ends by SIGBUS."""
        mounted(
            4,
            """
with isthmus.Queue("q", type=bytes, capacity=2 * MIB) as q, isthmus.Mutex("m") as m:
    with (here / "filler").open("wb") as file:
        try:
            while True:
                file.write(bytes(65536)); file.flush()
        except OSError as error:
            assert error.errno == errno.ENOSPC
    (here / "filler").open("ab").close()
    count = 0
    try:
        while True:
            q.put(bytes(50_000), timeout=0); count += 1
    except isthmus.Full:
        pass
    assert count >= 15, count
    for _ in range(count):
        assert q.get(timeout=0) == bytes(50_000)
""",
        ).finish()

    def test_what_the_dead_left_is_removed_before_anything_is_refused(
        self, mounted: Callable[..., Peer]
    ) -> None:
        mounted(
            4,
            """
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        q = isthmus.Queue("left", type=bytes, capacity=int(2.5 * MIB))
        q.put(b"x")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    with isthmus.Queue("next", type=bytes, capacity=int(2.5 * MIB)) as q:
        q.put(b"x"); assert q.get() == b"x"
assert files() == [], files()
""",
        ).finish()

    def test_no_room_for_the_registry_itself(self, mounted: Callable[..., Peer]) -> None:
        mounted(
            0.1,
            'refused(lambda: isthmus.Queue("q", type=bytes, capacity=9), str(here))\nassert files() == []',
        ).finish()

    def test_a_full_tmpfs_refuses_and_room_made_is_used(self, mounted: Callable[..., Peer]) -> None:
        mounted(
            4,
            """
with isthmus.Mutex("claims the registry"):
    pass
handles = []
try:
    while True:
        handles.append(isthmus.Queue(f"q{len(handles)}", type=bytes, capacity=256 << 10))
except isthmus.NoSpaceError:
    pass
assert 5 < len(handles) < 16, len(handles)
for handle in handles:
    handle.put(bytes(100_000))
assert len(files()) == len(handles)
handles[0].get(); handles[0].close()
handles[0] = isthmus.Queue("again", type=bytes, capacity=256 << 10)
handles[0].put(bytes(100_000))
for handle in handles:
    assert handle.get(timeout=0) == bytes(100_000)
    handle.close()
""",
        ).finish()


# ------------------------------------------------------------------------------------------ control groups


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: control groups")
@pytest.mark.parametrize("name", ["'big'", "None"], ids=["named", "anonymous"])
def test_more_than_the_control_group_allows_is_an_error_not_a_kill(
    limited: Callable[..., Peer], name: str
) -> None:
    """Reserving past a group's limit is answered by SIGKILL, so it has to be asked before."""
    limited(
        64,
        f"""
text = refused(lambda: isthmus.Queue({name}, type=bytes, capacity=256 * MIB), "cgroup", "capacity")
assert files() == []
with isthmus.Queue({name}, type=bytes, capacity=8 * MIB) as q:
    for _ in range(20):
        q.put(bytes(MIB)); assert q.get() == bytes(MIB)
refused(lambda: isthmus.Queue({name}, type=bytes, capacity=100 * MIB), "cgroup")
""",
    ).finish()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: control groups")
def test_what_is_used_already_counts(limited: Callable[..., Peer]) -> None:
    limited(
        64,
        """
handles = []
try:
    while True:
        handles.append(isthmus.Queue(type=bytes, capacity=8 * MIB))
except isthmus.NoSpaceError as error:
    assert "cgroup" in str(error), error
assert 1 <= len(handles) < 8, len(handles)
for handle in handles:  # every page of theirs may be touched
    try:
        while True: handle.put(bytes(60_000), timeout=0)
    except isthmus.Full:
        pass
import warnings
warnings.simplefilter("ignore")
for handle in handles: handle.close()
""",
    ).finish()


def test_more_than_the_machine_has_is_refused_too(namespace: Path) -> None:
    with pytest.raises((isthmus.NoSpaceError, ValueError)) as caught:
        isthmus.Queue("huge", type=bytes, capacity=1 << 45)
    assert "capacity" in str(caught.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with isthmus.Queue("huge", type=bytes, capacity=1 << 20) as handle:
            handle.put(b"x")
            handle.get()

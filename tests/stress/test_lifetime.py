"""Names go with the last user, closed or killed; nothing is removed under those who still use it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer, object_files, run_python

Start = Callable[..., Peer]

USER = """
import sys, warnings, isthmus
warnings.simplefilter("ignore")
q = isthmus.Queue("used", type=bytes, capacity=1 << 20)
m = isthmus.Mutex("lock")
q.put(b"x")
print("ready", flush=True)
sys.stdin.readline()
"""


def test_the_name_goes_with_the_last_that_closes_in_any_order(namespace: Path, spawn: Start) -> None:
    users = [spawn(USER) for _ in range(3)]
    for user in users:
        user.expect("ready")
    assert object_files(namespace) == ["lock", "used"]
    for user in (users[1], users[0]):
        user.finish()
        assert object_files(namespace) == ["lock", "used"]
    users[2].finish()
    assert object_files(namespace) == []


def test_the_next_use_of_the_namespace_removes_what_the_killed_left(namespace: Path, spawn: Start) -> None:
    users = [spawn(USER) for _ in range(3)]
    for user in users:
        user.expect("ready")
    for user in users:
        user.kill()
    assert object_files(namespace) == ["lock", "used"]
    run_python("import isthmus; isthmus.Queue('other', type=bytes, capacity=1 << 16).close()")
    assert object_files(namespace) == []


def test_the_same_name_after_a_kill_is_a_new_object(spawn: Start) -> None:
    user = spawn(USER)
    user.expect("ready")
    user.kill()
    with isthmus.Queue("used", type=bytes, capacity=2 << 20) as handle:  # another capacity: not the old one's
        assert handle.empty()
        assert handle.capacity == 2 << 20


def test_create_and_open_after_a_kill(spawn: Start) -> None:
    for _ in range(2):
        user = spawn(USER)
        user.expect("ready")
        user.kill()
        with pytest.raises(FileNotFoundError):
            isthmus.Queue.open("used", type=bytes)
        with isthmus.Queue.create("used", type=bytes, capacity=1 << 20) as handle:
            assert handle.empty()


def test_the_last_that_closes_removes_the_name_although_others_were_killed(
    namespace: Path, spawn: Start
) -> None:
    users = [spawn(USER) for _ in range(3)]
    for user in users:
        user.expect("ready")
    users[0].kill()
    users[2].kill()
    assert object_files(namespace) == ["lock", "used"]
    users[1].finish()
    assert object_files(namespace) == []


def test_clean_names_what_it_removed(namespace: Path, spawn: Start) -> None:
    user = spawn(USER)
    user.expect("ready")
    assert isthmus.clean() == []
    user.kill()
    assert sorted(isthmus.clean()) == ["lock", "used"]
    assert object_files(namespace) == []
    assert isthmus.clean() == []


def test_a_sweep_never_takes_what_a_stopped_or_idle_process_uses(namespace: Path, spawn: Start) -> None:
    user = spawn(USER)
    user.expect("ready")
    user.stop()
    run_python(
        "import isthmus\nisthmus.Queue('other', type=bytes, capacity=1 << 16).close()\n"
        "assert isthmus.clean() == []"
    )
    assert object_files(namespace) == ["lock", "used"]
    user.resume()
    user.finish()


def test_a_persistent_queue_outlives_kills_and_sweeps_with_its_messages(
    namespace: Path, spawn: Start
) -> None:
    user = spawn("""
        import sys, isthmus
        q = isthmus.Queue("kept", type=bytes, persistent=True, capacity=1 << 20)
        q.put_many([b"1", bytes(10_000)])
        print("ready", flush=True)
        sys.stdin.readline()
    """)
    user.expect("ready")
    user.kill()
    assert isthmus.clean() == []
    run_python("import isthmus; isthmus.Queue('other', type=bytes, capacity=1 << 16).close()")
    assert object_files(namespace) == ["kept"]
    with isthmus.Queue.open("kept", type=bytes) as handle:
        assert handle.get_many(10, timeout=0) == [b"1", bytes(10_000)]
        handle.unlink()


def test_those_attached_to_an_unlinked_object_go_on(namespace: Path, spawn: Start) -> None:
    handle = isthmus.Queue("used", type=bytes, capacity=1 << 20)
    peer = spawn("""
        import isthmus
        q = isthmus.Queue.open("used", type=bytes)
        print("ready", flush=True)
        while True:
            message = q.get(timeout=20)
            if message == b"end": break
            print(message, flush=True)
        q.close()
    """)
    peer.expect("ready")
    handle.unlink()
    with isthmus.Queue("used", type=bytes, capacity=1 << 20) as other:
        handle.put(b"old")
        peer.expect("b'old'")
        assert other.empty()
        handle.put(b"end")
        peer.finish()
        handle.close()
        assert object_files(namespace) == ["used"]


def test_no_descriptor_and_no_mapping_is_left_behind(namespace: Path) -> None:
    def open_things() -> tuple[int, int]:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        mappings = sum(
            str(namespace) in line or "isthmus" in line
            for line in Path("/proc/self/maps").read_text().splitlines()
        )
        return descriptors, mappings

    def everything() -> None:
        with isthmus.Queue("q", type=bytes, capacity=1 << 16) as q:
            q.put(b"x")
            q.get()
        lock = isthmus.Mutex("m")
        with lock:
            pass
        lock.close()
        isthmus.Queue(type=bytes, capacity=1 << 16).close()
        for wrong in (isthmus.Queue.open, isthmus.Mutex.open):
            with pytest.raises(FileNotFoundError):
                wrong("absent")
        with isthmus.Queue("q", type=bytes, capacity=1 << 16), pytest.raises(isthmus.IncompatibleError):
            isthmus.Queue("q", type=bytes, capacity=1 << 17)
        isthmus.objects()
        isthmus.clean()

    everything()
    gc.collect()  # what earlier tests have left
    before = open_things()
    for _ in range(50):
        everything()
    assert open_things() == before

"""The registry of processes: slots reused, its lock lost by a foreign close, its file replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from siege import Siege
from support import Peer, Watchdog, run_python, wait_until

Start = Callable[..., Peer]

HOLDER = """
import os, sys, isthmus
m = isthmus.Mutex.open("lock")
m.acquire()
print("held", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""
LOSE_THE_LOCK = "open(os.environ['ISTHMUS_NAMESPACE'] + '/.registry').close()"


def do(peer: Peer, line: str) -> None:
    """Has the holder run a line."""
    peer.send(line)
    peer.expect("done")


def test_a_slot_is_reused_and_nobody_is_taken_for_its_former_owner(spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    dead = spawn(HOLDER)
    dead.expect("held")
    dead.kill()
    # These claim slots, the dead one's among them, and live.
    use = "q = isthmus.Queue('q', type=bytes); print('ready', flush=True); input(); q.close()"
    heirs = [spawn(f"import isthmus; {use}") for _ in range(3)]
    for heir in heirs:
        heir.expect("ready")
    with pytest.raises(isthmus.OwnerDied) as caught:
        lock.acquire(timeout=20)
    assert caught.value.pid in {dead.pid, 0}
    with lock.recover(timeout=20):
        pass
    with lock:
        pass
    for heir in heirs:
        heir.send()
        heir.finish()
    lock.close()


def test_more_processes_come_and_die_than_there_are_slots() -> None:
    """2100 processes, one after the other, in the 2047 slots of a registry."""
    with isthmus.Queue("visited", type=bytes, capacity=1 << 20) as handle, Siege(seed=11) as siege:
        for _ in range(105):
            crowd = [siege.start("visit", queue="visited") for _ in range(20)]
            dog = Watchdog(limit=20.0)
            while any(not visitor.done for visitor in crowd):
                siege.check_errors()
                dog.check(siege.progress())
                time.sleep(0.001)
            siege.kill(*crowd)
        got = 0
        while not handle.empty():
            got += len(handle.get_many(1000, timeout=0))
        assert got == 2100
        assert handle.stats().attached == 1


def test_a_holder_that_lost_its_registry_lock_is_not_condemned(spawn: Start) -> None:
    """Closing any descriptor of the registry drops a process's lock on it: a trap of POSIX."""
    lock = isthmus.Mutex("lock")
    peer = spawn(HOLDER)
    peer.expect("held")
    do(peer, LOSE_THE_LOCK)
    assert lock.acquire(timeout=2.5) is False
    for _ in range(3):  # others that claim slots leave its slot alone
        run_python(
            "import isthmus; m = isthmus.Mutex.open('lock'); assert not m.acquire(timeout=0.3); m.close()"
        )
    assert lock.owner() == peer.pid
    do(peer, "m.release()")
    assert lock.acquire(timeout=20) is True
    lock.release()
    do(peer, "m.acquire()")
    assert lock.acquire(timeout=0.5) is False
    peer.kill()
    with pytest.raises(isthmus.OwnerDied):
        lock.acquire(timeout=20)
    lock.close()


def test_a_process_that_lost_its_lock_takes_it_again_by_itself(spawn: Start) -> None:
    """On its next slow path: afterwards even those who cannot see it in /proc know that it lives."""
    lock = isthmus.Mutex("lock")
    peer = spawn(HOLDER)
    peer.expect("held")
    do(peer, LOSE_THE_LOCK)
    locks = Path("/proc/locks")
    wanted = f" {peer.pid} "
    assert not [line for line in locks.read_text().splitlines() if "POSIX" in line and wanted in line]
    do(
        peer,
        "q = isthmus.Queue('q', type=bytes); exec('try: q.get(timeout=1.5)\\nexcept isthmus.Empty: pass')",
    )
    assert [line for line in locks.read_text().splitlines() if "POSIX" in line and wanted in line]
    do(peer, "m.release()")
    peer.finish()
    lock.close()


def test_a_producer_that_lost_its_registry_lock_still_counts(spawn: Start) -> None:
    with isthmus.Queue("stream", type=bytes, capacity=1 << 20, ends_with_producers=True) as handle:
        peer = spawn("""
            import os, sys, isthmus
            with isthmus.Queue.open("stream", type=bytes) as q:
                q.put(b"1")
                open(os.environ["ISTHMUS_NAMESPACE"] + "/.registry").close()
                print("lost", flush=True)
                sys.stdin.readline()
                q.put(b"2")
        """)
        peer.expect("lost")
        assert handle.get(timeout=20) == b"1"
        with pytest.raises(isthmus.Empty):
            handle.get(timeout=2)
        peer.send()
        assert handle.get(timeout=20) == b"2"
        with pytest.raises(isthmus.ShutDown):
            handle.get(timeout=20)
        peer.finish()


def test_this_process_may_close_the_registry_too(namespace: Path, spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    with lock:
        with (namespace / ".registry").open("rb"):
            pass
        peer = spawn(
            "import isthmus; m = isthmus.Mutex.open('lock'); print(m.acquire(timeout=1.5)); m.close()"
        )
        peer.expect("False")
        peer.finish()
        assert lock.locked()
    with lock:
        pass
    lock.close()


def test_an_object_of_a_registry_that_was_replaced_is_refused_with_both_named(other_namespace: Path) -> None:
    where = str(other_namespace)
    make = "isthmus.Queue('kept', type=bytes, persistent=True, namespace=sys.argv[1]).close()"
    run_python(f"import sys, isthmus; {make}", where)
    (other_namespace / ".registry").unlink()
    with pytest.raises(isthmus.IncompatibleError, match="registry"):
        isthmus.Queue.open("kept", type=bytes, namespace=where)
    with pytest.raises(isthmus.IncompatibleError, match="registry"):
        isthmus.Queue("kept", type=bytes, namespace=where)
    (entry,) = isthmus.objects(where)
    assert entry.name == "kept"
    assert entry.problem is not None
    assert "registry" in entry.problem


@pytest.mark.parametrize("content", [b"", b"x", bytes(300_000), b"foreign" * 50_000])
def test_a_registry_that_is_no_registry_is_refused_by_name(other_namespace: Path, content: bytes) -> None:
    (other_namespace / ".registry").write_bytes(content)
    (other_namespace / ".registry").chmod(0o600)
    with pytest.raises((isthmus.IncompatibleError, isthmus.CorruptError), match="registry"):
        isthmus.Queue("x", type=bytes, namespace=other_namespace)
    assert (other_namespace / ".registry").read_bytes() == content


def test_claiming_under_a_storm_of_kills_gives_everyone_a_slot_of_its_own(namespace: Path) -> None:
    """Processes are killed while they claim; two that live never share a slot (their turns would overlap)."""
    lock = isthmus.Mutex.create("besieged")
    with Siege(seed=12) as siege:
        shared = siege.directory / "shared"
        shared.write_bytes(bytes(4096))
        numbers = iter(range(1 << 20))

        def start() -> None:
            siege.start(
                "take_turns",
                mutex="besieged",
                shared=str(shared),
                on_owner_died="raise",
                number=next(numbers),
            )

        for _ in range(8):
            start()
        siege.bombard(120, Watchdog(), lambda _: start(), pause=0.004)
        siege.wait(Watchdog(), 0.3)
        siege.finish("take_turns")
        print(f"{siege.kills} kills, {siege.killed_attaching} of them before or while attaching")
    wait_until(lambda: lock.owner() is None or lock.locked(), "the lock to be sane")
    lock.close()

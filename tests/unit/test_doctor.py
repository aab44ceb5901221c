"""`doctor`, `isthmus doctor` and `deadlock="raise"`: deadlocks are named, and nothing else is called one."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import isthmus
import isthmus.aio
from commands import isthmus_command
from forms import begin
from support import PATIENCE, Peer, wait_until

Start = Callable[..., Peer]

CROSS = """
    import sys, isthmus
    first, second = isthmus.Mutex.open(sys.argv[1]), isthmus.Mutex.open(sys.argv[2])
    with first:
        print("one", flush=True)
        sys.stdin.readline()
        second.acquire(timeout=float(sys.argv[3]) if len(sys.argv) > 3 else None)
        print("both", flush=True)
"""


@pytest.fixture
def ab() -> tuple[isthmus.Mutex, isthmus.Mutex]:
    """Two mutexes."""
    return isthmus.Mutex("fork-a"), isthmus.Mutex("fork-b")


def deadlocks() -> list[isthmus.Finding]:
    return isthmus.doctor().deadlocks


def cross(spawn: Start, *names: str) -> list[Peer]:
    """A process for each, that holds it and waits for the next one's."""
    peers = []
    for mine, next_one in zip(names, [*names[1:], names[0]], strict=True):
        peers.append(spawn(CROSS, mine, next_one))
        peers[-1].expect("one")
    for peer in peers:
        peer.send()
    return peers


def test_nothing_is_wrong_where_nothing_is(ab: Any) -> None:
    with ab[0], ab[1]:
        diagnosis = isthmus.doctor()
    assert (diagnosis.findings, diagnosis.waiting) == ([], 0)
    assert diagnosis.locks >= 2


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_cycle_of_processes_is_a_sentence(spawn: Start, count: int) -> None:
    names = [f"fork-{n}" for n in range(count)]
    locks = [isthmus.Mutex(name) for name in names]
    before = time.time()
    peers = cross(spawn, *names)
    (found,) = wait_until(deadlocks, "the deadlock to be seen")
    assert found.kind == "deadlock"
    assert sorted(found.objects) == names
    assert sorted(found.pids) == sorted(peer.pid for peer in peers)
    assert found.text.startswith("Deadlock: ")
    assert found.text.endswith(".")
    assert found.text.count("waits for") == count
    for number, (peer, name) in enumerate(zip(peers, names, strict=True)):
        after = peers[(number + 1) % count]
        wanted = names[(number + 1) % count]
        pattern = (
            rf"thread \d+ of process {peer.pid} \([^)]+\) waits for mutex '{wanted}' since (\d+\.\d) s, "
            rf"which thread \d+ of process {after.pid} \([^)]+\) has"
        )
        match = re.search(pattern, found.text)
        assert match, (pattern, found.text)
        assert float(match[1]) <= time.time() - before + 0.1
        assert locks[number].owner() == peer.pid, name
    peers[0].kill()
    wait_until(lambda: not deadlocks(), "the deadlock to be over")


def test_the_command_says_it_with_an_exit_code_and_as_json(spawn: Start, ab: Any) -> None:
    done = isthmus_command("doctor")
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 findings" in done.stderr
    peers = cross(spawn, "fork-a", "fork-b")
    wait_until(deadlocks, "the deadlock to be seen")
    done = isthmus_command("doctor")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("Deadlock: ")
    for peer in peers:
        assert f"process {peer.pid} " in line
    done = isthmus_command("doctor", "--json")
    assert done.returncode == 1
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert set(row) == {"kind", "text", "objects", "pids"}
    assert row["kind"] == "deadlock"
    assert sorted(row["objects"]) == ["fork-a", "fork-b"]
    assert sorted(row["pids"]) == sorted(peer.pid for peer in peers)


def test_a_wait_with_a_timeout_is_no_deadlock(spawn: Start, ab: Any) -> None:
    peers = []
    for arguments in (["fork-a", "fork-b"], ["fork-b", "fork-a", "1000"]):
        peers.append(spawn(CROSS, *arguments))
        peers[-1].expect("one")
    for peer in peers:
        peer.send()
    wait_until(lambda: isthmus.doctor().waiting == 2, "both to wait")
    for _ in range(3):
        assert deadlocks() == []


def test_threads_and_tasks_are_named(ab: Any, spawn: Start) -> None:
    """A thread here, a task there."""
    a, b = ab
    ids: list[int] = []
    taken, ready = threading.Event(), threading.Event()

    def work() -> None:
        ids.append(threading.get_native_id())
        with a:
            taken.set()
            assert ready.wait(PATIENCE)
            b.acquire(timeout=None)
            b.release()

    waiting = begin(work)
    assert taken.wait(PATIENCE)
    peer = spawn("""
        import asyncio, sys, isthmus.aio
        async def main():
            a, b = isthmus.aio.Mutex.open("fork-a"), isthmus.aio.Mutex.open("fork-b")
            async with b:
                print("one", flush=True)
                await a.acquire()
                print("both", flush=True)
        asyncio.run(main())
    """)
    peer.expect("one")
    ready.set()
    (found,) = wait_until(deadlocks, "the deadlock to be seen")
    assert f"thread {ids[0]} of process {os.getpid()} " in found.text
    assert re.search(rf"a task of process {peer.pid} ", found.text)
    peer.kill()
    assert isinstance(waiting.exception(PATIENCE), isthmus.OwnerDied)
    assert deadlocks() == []


def test_locks_without_a_name_are_seen() -> None:
    a, b = isthmus.Mutex(), isthmus.RLock(deadlock="raise")
    held = threading.Barrier(2)

    def first() -> None:
        with a:
            held.wait(PATIENCE)
            time.sleep(0.05)
            with b:
                pass

    def second() -> None:
        with b:
            held.wait(PATIENCE)
            a.acquire()  # it looks for no deadlock; the other one does
            a.release()

    waiting = [begin(first), begin(second)]
    error = waiting[0].exception(PATIENCE)
    assert isinstance(error, isthmus.DeadlockError)
    waiting[1].result(PATIENCE)
    assert len(error.cycle) == 2
    assert "without a name" in str(error)
    a.close()
    b.close()


Maker = Callable[[str], Any]
LOCKS: dict[str, Maker] = {
    "Mutex": lambda name: isthmus.Mutex(name, deadlock="raise"),
    "RLock": lambda name: isthmus.RLock(name, deadlock="raise"),
    "write": lambda name: isthmus.RWLock(name, deadlock="raise").write,
    "BoundedSemaphore": lambda name: isthmus.BoundedSemaphore(name, 1, deadlock="raise"),
}


def check_cycle(error: BaseException) -> None:
    """Left waits for right and right for left, in this process."""
    assert isinstance(error, isthmus.DeadlockError)
    assert sorted(error.cycle) == [(os.getpid(), "left"), (os.getpid(), "right")]


@pytest.mark.parametrize("kind", LOCKS)
def test_the_wait_that_closes_the_cycle_raises_and_the_other_goes_on(kind: str) -> None:
    make = LOCKS[kind]
    left, right = make("left"), make("right")
    held = threading.Barrier(2)

    def work(mine: Any, other: Any) -> None:
        with mine:
            held.wait(PATIENCE)
            with other:
                pass

    waiting = [begin(lambda: work(left, right)), begin(lambda: work(right, left))]
    (error,) = [error for each in waiting if (error := each.exception(PATIENCE))]
    check_cycle(error)
    assert str(error).startswith("Deadlock: ")
    assert left.acquire(timeout=0) is True
    left.release()


def test_the_cycle_is_broken_across_processes(spawn: Start, ab: Any) -> None:
    peer = spawn(CROSS, "fork-a", "fork-b")
    peer.expect("one")
    b, a = isthmus.Mutex.open("fork-b", deadlock="raise"), isthmus.Mutex.open("fork-a", deadlock="raise")
    with b:
        peer.send()
        with pytest.raises(isthmus.DeadlockError) as caught:
            a.acquire()
        assert sorted(caught.value.cycle) == sorted([(os.getpid(), "fork-a"), (peer.pid, "fork-b")])
        copy = pickle.loads(pickle.dumps(caught.value))
        assert copy.cycle == caught.value.cycle
    peer.expect("both")
    peer.finish()


AIO: dict[str, Callable[[str], Any]] = {
    "Mutex": lambda name: isthmus.aio.Mutex(name, deadlock="raise"),
    "RLock": lambda name: isthmus.aio.RLock(name, deadlock="raise"),
    "write": lambda name: isthmus.aio.RWLock(name, deadlock="raise").write,
    "BoundedSemaphore": lambda name: isthmus.aio.BoundedSemaphore(name, 1, deadlock="raise"),
}


@pytest.mark.parametrize("kind", AIO)
def test_tasks_are_told_too(kind: str) -> None:
    async def work(mine: Any, other: Any, held: asyncio.Barrier) -> None:
        async with mine:
            await held.wait()
            async with other:
                pass

    async def main() -> list[BaseException | None]:
        make = AIO[kind]
        left, right, held = make("left"), make("right"), asyncio.Barrier(2)
        both = work(left, right, held), work(right, left, held)
        async with asyncio.timeout(PATIENCE):
            return list(await asyncio.gather(*both, return_exceptions=True))

    (error,) = [error for error in asyncio.run(main()) if error]
    check_cycle(error)


@pytest.mark.parametrize("kind", ["read", "write"])
def test_one_who_asks_for_more_than_it_holds_is_told(kind: str) -> None:
    lock = isthmus.RWLock("pages", deadlock="raise")
    held, wanted = (lock.read, lock.write) if kind == "write" else (lock.write, lock.read)
    with held:
        with pytest.raises(isthmus.DeadlockError):
            wanted.acquire()
        assert wanted.acquire(timeout=0.05) is False
    with wanted:
        pass
    lock.close()


def test_permits_are_stuck_only_where_all_holders_are() -> None:
    """Two permits: one holder waits for the other's, which is held by one that goes on."""
    pool = isthmus.BoundedSemaphore("pool", 2, deadlock="raise")
    free, got = threading.Event(), threading.Event()

    def work() -> None:
        with pool:
            got.set()
            free.wait(PATIENCE)

    other = begin(work)
    assert got.wait(PATIENCE)
    pool.acquire()
    third = begin(pool.acquire)
    wait_until(lambda: isthmus.doctor().waiting == 1, "it to wait")
    time.sleep(0.3)
    assert not third.done()
    assert deadlocks() == []
    free.set()
    other.result(PATIENCE)
    assert third.result(PATIENCE) is True
    pool.release()
    pool.release()
    # The one who holds both waits for a third: that never ends.
    with pool, pool, pytest.raises(isthmus.DeadlockError):
        pool.acquire()
    pool.close()


@pytest.mark.parametrize("make", [isthmus.Mutex, isthmus.RLock, isthmus.RWLock, isthmus.BoundedSemaphore])
def test_a_wrong_value_is_refused_and_pickles_keep_the_right_one(make: Any) -> None:
    with pytest.raises(ValueError, match="maybe"):
        make("locked", deadlock="maybe")
    looking = [make.create("locked", deadlock="raise"), make.open("locked", deadlock="raise")]
    looking.append(make(deadlock="raise"))
    others = [make.open("locked"), make("locked"), make()]
    for lock in looking + others:
        copy = pickle.loads(pickle.dumps(lock))
        handle = copy.write if make is isthmus.RWLock else copy
        assert handle._detects() is (lock in looking)
        copy.close()
        lock.close()


def test_a_stopped_holder_is_named(spawn: Start, ab: Any) -> None:
    peer = spawn(CROSS, "fork-a", "fork-b")
    peer.expect("one")
    waiting = begin(lambda: ab[0].acquire(timeout=1000))
    wait_until(lambda: isthmus.doctor().waiting == 1, "it to wait")
    peer.stop()
    (found,) = isthmus.doctor().findings
    assert (found.kind, found.objects, found.pids) == ("stopped", ["fork-a"], [peer.pid])
    assert f"kill -CONT {peer.pid}" in found.text
    assert isthmus_command("doctor").returncode == 0, "no deadlock"
    peer.resume()
    assert not waiting.done(), "it still holds it"
    peer.send()
    peer.expect("both")
    peer.finish()
    assert waiting.result(PATIENCE) is True


def test_a_long_hold_is_named(spawn: Start, ab: Any) -> None:
    peer = spawn(CROSS, "fork-a", "fork-b")
    peer.expect("one")
    begin(lambda: ab[0].acquire(timeout=2))
    wait_until(lambda: isthmus.doctor(hold_limit=0.1).findings, "the wait to be long")
    (found,) = isthmus.doctor(hold_limit=0.1).findings
    assert (found.kind, found.objects, found.pids) == ("held long", ["fork-a"], [peer.pid])
    assert isthmus.doctor().findings == []
    assert "have waited for up to" in isthmus_command("doctor", "--hold-limit", "0.1").stdout


def test_a_poisoned_lock_is_named(spawn: Start, ab: Any) -> None:
    peer = spawn(CROSS, "fork-a", "fork-b")
    peer.expect("one")
    peer.kill()
    with pytest.raises(isthmus.OwnerDied):
        ab[0].acquire()
    (found,) = isthmus.doctor().findings
    assert (found.kind, found.objects, found.pids) == ("poisoned", ["fork-a"], [peer.pid])
    assert f"process {peer.pid} died holding it" in found.text
    with ab[0].recover():
        pass
    assert isthmus.doctor().findings == []


def test_what_nobody_uses_any_more_is_named(spawn: Start) -> None:
    peer = spawn("""
        import isthmus, sys
        event = isthmus.Event("left")
        print("there", flush=True)
        sys.stdin.readline()
    """)
    peer.expect("there")
    assert isthmus.doctor().findings == []
    peer.kill()
    (found,) = isthmus.doctor().findings
    assert (found.kind, found.objects) == ("lost", ["left"])
    assert "isthmus clean" in found.text

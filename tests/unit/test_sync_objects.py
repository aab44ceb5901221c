"""What all objects of synchronization have in common: how they reach other processes, and Ctrl+C."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import isthmus
from support import PATIENCE, Peer, wait_until
from workers import take

MAKE: dict[str, Callable[[str | None], Any]] = {
    "RLock": isthmus.RLock,
    "RWLock": isthmus.RWLock,
    "Semaphore": lambda name: isthmus.Semaphore(name, 1),
    "BoundedSemaphore": lambda name: isthmus.BoundedSemaphore(name, 1),
    "Event": isthmus.Event,
    "Condition": isthmus.Condition,
    "Barrier": lambda name: isthmus.Barrier(name, 2),
}


def use(shared: Any, child: Any) -> None:
    """Has the child take it while this process holds it, waits, or looks."""
    held = {isthmus.RWLock: lambda: shared.write}.get(type(shared), lambda: shared)()
    if isinstance(shared, isthmus.Event):
        child.start()
        assert shared.wait(timeout=PATIENCE) is True
    elif isinstance(shared, isthmus.Barrier):
        child.start()
        shared.wait(timeout=PATIENCE)
    elif isinstance(shared, isthmus.Condition):
        with shared:
            child.start()
            assert shared.wait(timeout=PATIENCE) is True
    else:
        held.acquire()
        child.start()
        wait_until(lambda: isthmus.doctor().waiting == 1, "the child to wait")
        held.release()
    child.join(PATIENCE)
    assert child.exitcode == 0


@pytest.mark.parametrize("name", [None, "shared"])
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_child_gets_the_same_object(kind: str, name: str | None, method: str) -> None:
    shared = MAKE[kind](name)
    context: Any = multiprocessing.get_context(method)
    use(shared, context.Process(target=take, args=(shared,)))
    shared.close()


@pytest.mark.parametrize("kind", MAKE)
def test_pickles_and_what_cannot_be(kind: str) -> None:
    shared = MAKE[kind](None)
    assert "anonymous" in repr(shared)
    assert kind in repr(shared)
    other = pickle.loads(pickle.dumps(shared))
    assert type(other) is type(shared)
    assert other.name is None
    if kind == "Event":
        other.set()
        assert shared.is_set()
    other.close()
    third = copy.copy(shared)
    third.close()
    shared.close()
    assert shared.closed
    with pytest.raises(isthmus.ClosedError):
        pickle.dumps(shared)


@pytest.mark.parametrize("kind", MAKE)
def test_another_kind_of_that_name_is_refused(kind: str) -> None:
    with isthmus.Value("taken"), pytest.raises(isthmus.IncompatibleError, match=r"value|number"):
        MAKE[kind]("taken")


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore", "Barrier"])
@pytest.mark.parametrize("wrong", [-1, 1 << 70])
def test_numbers_that_cannot_be_are_named(kind: str, wrong: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        getattr(isthmus, kind)(None, wrong)


def test_a_bounded_semaphore_of_another_number_is_refused() -> None:
    with pytest.raises(ValueError, match="0"):
        isthmus.BoundedSemaphore(value=0)
    first = isthmus.BoundedSemaphore("pool", 3)
    with pytest.raises(isthmus.IncompatibleError):
        isthmus.BoundedSemaphore("pool", 4)
    again = isthmus.BoundedSemaphore("pool")
    assert again.permits == 3
    again.close()
    first.close()


WAITS = {
    "RLock": "isthmus.RLock.open('o').acquire()",
    "read": "isthmus.RWLock.open('o').read.acquire()",
    "write": "isthmus.RWLock.open('o').write.acquire()",
    "Semaphore": "isthmus.Semaphore.open('o').acquire()",
    "BoundedSemaphore": "isthmus.BoundedSemaphore.open('o').acquire()",
    "Event": "isthmus.Event.open('o').wait()",
    "Barrier": "isthmus.Barrier.open('o').wait()",
    "Condition": "c = isthmus.Condition.open('o'); c.acquire(); c.wait()",
}


@pytest.mark.parametrize("kind", WAITS)
def test_ctrl_c_ends_a_wait_and_leaves_nothing_behind(spawn: Callable[..., Peer], kind: str) -> None:
    made = {"read": "RWLock", "write": "RWLock"}.get(kind, kind)
    shared = MAKE[made]("o")
    held = shared.write if made == "RWLock" else shared
    if kind not in {"Condition", "Event", "Barrier"}:
        held.acquire()
    peer = spawn(f"""
        import isthmus
        try:
            {WAITS[kind]}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            input()
    """)
    wait_until(lambda: isthmus.doctor().waiting == 1, "it to wait")
    peer.interrupt()
    peer.expect("interrupted")
    assert isthmus.doctor().waiting == 0
    if kind == "Barrier":
        assert shared.broken
    elif kind == "Condition":
        assert shared.waiters() == []
        assert shared.lock.owner() == peer.pid, "as of `threading`, the lock is held again"
    elif kind != "Event":
        held.release()
        assert held.acquire(timeout=0) is True, "what it waited for did not go to it"
        held.release()
    peer.send()
    peer.finish()
    shared.close()


def test_ctrl_c_hands_a_notification_on_that_came_with_it(spawn: Callable[..., Peer]) -> None:
    changed = isthmus.Condition("changed")
    first, second = (
        spawn("""
        import isthmus, sys
        changed = isthmus.Condition.open("changed")
        sys.stdin.readline()
        with changed:
            try:
                print(changed.wait(), flush=True)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
    """)
        for _ in range(2)
    )
    for number, peer in enumerate((first, second), 1):
        peer.send()
        wait_until(lambda: len(changed.waiters()) == number, "it to wait")  # noqa: B023
    first.stop()
    with changed:
        changed.notify()
    assert changed.waiters() == [second.pid]
    first.interrupt()
    first.resume()
    first.expect("interrupted")
    second.expect("True")
    first.finish()
    second.finish()
    changed.close()


def test_a_forked_child_holds_nothing_of_its_parent() -> None:
    lock, pool = isthmus.RLock(), isthmus.BoundedSemaphore(value=1)
    with lock, pool:
        if (pid := os.fork()) == 0:
            status = 1
            try:
                assert lock.acquire(timeout=0) is False
                assert pool.acquire(timeout=0) is False
                for each in (lock, pool):
                    try:
                        each.release()
                    except isthmus.NotOwnerError:
                        status += 1
                status = 0 if status == 3 else status
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert pool.holders() == [os.getpid()]
    assert (lock.locked(), pool.value) == (False, 1)

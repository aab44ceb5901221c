"""`Mutex`: what its public interface promises; its owner's death in every form is in crash/test_deaths.py."""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from support import Peer, object_files, wait_until

Start = Callable[..., Peer]

HOLDER = """
    import sys, isthmus
    m = isthmus.Mutex.open("lock")
    assert m.acquire(timeout=20)
    print("held", flush=True)
    sys.stdin.readline()
    m.release()
    print("released", flush=True)
    sys.stdin.readline()
    m.close()
"""


@pytest.fixture
def mutex() -> Iterator[isthmus.Mutex]:
    """A named mutex."""
    with_name = isthmus.Mutex("lock")
    yield with_name
    with_name.close()


def in_thread(call: Callable[[], object]) -> object:
    """What a call gives, or the error it raises, in another thread."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return results[0]


def taken_and_given(mutex: isthmus.Mutex) -> bool:
    """True when it could be taken; it is given back."""
    if mutex.acquire(timeout=5):
        mutex.release()
        return True
    return False


# ---------------------------------------------------------------------------------------- taking and giving


def test_acquire_and_release(mutex: isthmus.Mutex) -> None:
    assert not mutex.locked()
    assert mutex.acquire() is True
    assert mutex.locked()
    mutex.release()
    assert not mutex.locked()


def test_a_with_block_holds_it_and_leaves_the_handle_open(mutex: isthmus.Mutex) -> None:
    with mutex:
        assert mutex.locked()
    assert not mutex.locked()
    assert not mutex.closed
    with pytest.raises(KeyError), mutex:
        raise KeyError("an error inside")
    assert not mutex.locked()


def test_owner_is_the_process_that_holds_it(mutex: isthmus.Mutex, spawn: Start) -> None:
    assert mutex.owner() is None
    with mutex:
        assert mutex.owner() == os.getpid()
    peer = spawn(HOLDER)
    peer.expect("held")
    assert mutex.owner() == peer.pid
    assert mutex.locked()
    peer.send()
    peer.expect("released")
    assert mutex.owner() is None
    peer.finish()


def test_a_thread_waits_for_another(mutex: isthmus.Mutex) -> None:
    mutex.acquire()
    assert in_thread(lambda: mutex.acquire(timeout=0)) is False
    assert in_thread(lambda: mutex.acquire(timeout=0.05)) is False
    results: list[bool] = []

    def wait() -> None:
        results.append(mutex.acquire())
        mutex.release()

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    assert results == []
    mutex.release()
    waiting.join(30)
    assert results == [True]
    assert not mutex.locked()


def test_a_process_waits_for_another(mutex: isthmus.Mutex, spawn: Start) -> None:
    peer = spawn(HOLDER)
    peer.expect("held")
    assert mutex.acquire(timeout=0) is False
    assert mutex.acquire(timeout=0.2) is False
    peer.send()
    peer.expect("released")
    assert mutex.acquire(timeout=20) is True
    mutex.release()
    peer.finish()


def test_a_timeout_is_waited_out_in_full(mutex: isthmus.Mutex, spawn: Start) -> None:
    peer = spawn(HOLDER)
    peer.expect("held")
    for timeout in (0.001, 0.05, 0.3):
        start = time.monotonic()
        assert mutex.acquire(timeout=timeout) is False
        assert time.monotonic() - start >= timeout
    peer.send()
    peer.finish()


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
def test_a_negative_timeout_is_a_value_error_that_names_it(mutex: isthmus.Mutex, timeout: float) -> None:
    with pytest.raises(ValueError, match=r"-1|-0\.001|nan|NaN|-inf"):
        mutex.acquire(timeout=timeout)
    assert not mutex.locked()


def test_a_timeout_that_is_no_number_is_a_type_error(mutex: isthmus.Mutex) -> None:
    wrong: Any = "1"
    with pytest.raises(TypeError):
        mutex.acquire(timeout=wrong)


@pytest.mark.parametrize("timeout", [None, 0, 1.5, 1e300, float("inf")])
def test_a_free_mutex_is_taken_whatever_the_timeout(mutex: isthmus.Mutex, timeout: float | None) -> None:
    assert mutex.acquire(timeout=timeout) is True
    mutex.release()


# ---------------------------------------------------------------------------------------- misuse


def test_the_owner_that_takes_it_again_times_out_and_still_owns_it(mutex: isthmus.Mutex) -> None:
    mutex.acquire()
    assert mutex.acquire(timeout=0) is False
    assert mutex.acquire(timeout=0.1) is False
    assert mutex.locked()
    assert in_thread(lambda: mutex.acquire(timeout=0)) is False
    mutex.release()
    assert not mutex.locked()
    assert in_thread(lambda: taken_and_given(mutex)) is True


def test_the_owner_that_waits_for_itself_without_an_end_is_told(mutex: isthmus.Mutex) -> None:
    with mutex:
        with pytest.raises(isthmus.DeadlockError):
            mutex.acquire()
        assert mutex.locked()


def test_another_handle_of_the_owner_is_the_same_lock(mutex: isthmus.Mutex) -> None:
    second = isthmus.Mutex.open("lock")
    with mutex:
        assert second.locked()
        assert second.acquire(timeout=0) is False
        assert in_thread(lambda: second.acquire(timeout=0)) is False
    assert second.acquire(timeout=0) is True
    second.release()
    second.close()


def test_releasing_what_nobody_holds_is_an_error(mutex: isthmus.Mutex) -> None:
    with pytest.raises(isthmus.NotOwnerError) as caught:
        mutex.release()
    assert isinstance(caught.value, RuntimeError)
    with mutex:
        pass
    with pytest.raises(isthmus.NotOwnerError):
        mutex.release()
    assert mutex.acquire(timeout=0) is True
    mutex.release()


def test_another_thread_cannot_release_it(mutex: isthmus.Mutex) -> None:
    with mutex:
        assert isinstance(in_thread(mutex.release), isthmus.NotOwnerError)
        assert mutex.locked()
        assert in_thread(lambda: mutex.acquire(timeout=0)) is False


def test_another_process_cannot_release_it(mutex: isthmus.Mutex, spawn: Start) -> None:
    peer = spawn(HOLDER)
    peer.expect("held")
    with pytest.raises(isthmus.NotOwnerError) as caught:
        mutex.release()
    assert str(peer.pid) in str(caught.value)
    assert mutex.owner() == peer.pid
    peer.send()
    peer.expect("released")
    peer.finish()


def test_a_closed_handle_says_so_in_every_call() -> None:
    mutex = isthmus.Mutex("closing")
    states = [mutex.closed]
    mutex.close()
    mutex.close()
    assert [*states, mutex.closed] == [False, True]
    calls: list[Callable[[], object]] = [
        mutex.acquire,
        lambda: mutex.acquire(timeout=0),
        mutex.release,
        mutex.locked,
        mutex.owner,
        lambda: mutex.recover().__enter__(),
        mutex.__enter__,
        lambda: pickle.dumps(mutex),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()


def test_closing_a_handle_ends_the_waits_of_its_other_threads(mutex: isthmus.Mutex) -> None:
    second = isthmus.Mutex.open("lock")
    with mutex:
        outcome: list[object] = []
        waiting = threading.Thread(target=lambda: outcome.append(in_thread(second.acquire)))
        waiting.start()
        time.sleep(0.1)
        second.close()
        waiting.join(60)
        assert [type(o) for o in outcome] == [isthmus.ClosedError]


def test_closing_while_holding_does_not_lock_out_the_others(mutex: isthmus.Mutex) -> None:
    second = isthmus.Mutex.open("lock")
    assert second.acquire(timeout=0)
    try:
        second.close()
    except isthmus.IsthmusError:
        second.release()
        second.close()
    # Either the close was refused, or what it held is free, or it is still this thread's to release.
    if mutex.locked():
        mutex.release()
    assert in_thread(lambda: taken_and_given(mutex)) is True


# ---------------------------------------------------------------------------------------- death and repair


def leave_it_poisoned(spawn: Start) -> int:
    """Has a process killed that holds the mutex; returns its process id."""
    peer = spawn(HOLDER)
    peer.expect("held")
    peer.kill()
    return peer.pid


def test_after_the_owners_death_every_taker_is_told_until_somebody_recovers(
    mutex: isthmus.Mutex, spawn: Start
) -> None:
    before = time.time()
    pid = leave_it_poisoned(spawn)
    takes: list[Callable[[], object]] = [
        mutex.acquire,
        lambda: mutex.acquire(timeout=0),
        lambda: mutex.acquire(timeout=5),
        mutex.__enter__,
    ]
    for take in takes:
        with pytest.raises(isthmus.OwnerDied) as caught:
            take()
        death = caught.value
        assert isinstance(death, RuntimeError)
        assert death.pid == pid
        assert str(pid) in str(death)
        assert "lock" in death.what
        assert before - 1 <= death.since <= time.time() + 1
    assert isinstance(in_thread(lambda: mutex.acquire(timeout=5)), isthmus.OwnerDied)

    with mutex.recover() as found:
        assert isinstance(found, isthmus.OwnerDied)
        assert found.pid == pid
        assert mutex.locked()
        assert isinstance(in_thread(lambda: mutex.acquire(timeout=0)), isthmus.OwnerDied)
    assert not mutex.locked()
    assert mutex.acquire(timeout=0) is True
    mutex.release()


def test_recover_of_a_sound_mutex_gives_none_and_holds_it(mutex: isthmus.Mutex) -> None:
    with mutex.recover() as death:
        assert death is None
        assert mutex.locked()
        assert in_thread(lambda: mutex.acquire(timeout=0)) is False
    assert not mutex.locked()


def test_a_repair_that_fails_leaves_it_poisoned(mutex: isthmus.Mutex, spawn: Start) -> None:
    pid = leave_it_poisoned(spawn)
    with pytest.raises(ZeroDivisionError), mutex.recover():
        _ = 1 / 0
    with pytest.raises(isthmus.OwnerDied):
        mutex.acquire(timeout=5)
    with mutex.recover() as death:
        assert death is not None
        assert death.pid == pid
    with mutex:
        pass


def test_others_are_told_and_only_one_repairs(mutex: isthmus.Mutex, spawn: Start) -> None:
    """Takers get `OwnerDied` until the repair is done; those who want to repair wait for each other."""
    leave_it_poisoned(spawn)
    with mutex.recover():
        peer = spawn("""
            import isthmus
            m = isthmus.Mutex.open("lock")
            for take in (lambda: m.acquire(timeout=0), lambda: m.acquire(timeout=0.1), m.acquire):
                try:
                    take()
                except isthmus.OwnerDied:
                    print("OwnerDied", flush=True)
            try:
                with m.recover(timeout=0.1): pass
            except isthmus.Timeout:
                print("Timeout", flush=True)
            with m.recover() as death:
                print(death, flush=True)
            with m:
                print("in", flush=True)
            m.close()
        """)
        for word in ("OwnerDied", "OwnerDied", "OwnerDied", "Timeout"):
            peer.expect(word)
        time.sleep(0.1)
    peer.expect("None")
    peer.expect("in")
    peer.finish()


def test_the_death_of_the_one_who_repairs_is_told_too(mutex: isthmus.Mutex, spawn: Start) -> None:
    leave_it_poisoned(spawn)
    peer = spawn("""
        import sys, isthmus
        m = isthmus.Mutex.open("lock")
        with m.recover() as death:
            print(death is not None, flush=True)
            sys.stdin.readline()
    """)
    peer.expect("True")
    peer.kill()
    with pytest.raises(isthmus.OwnerDied):
        mutex.acquire(timeout=20)
    with mutex.recover() as death:
        assert death is not None
    with mutex:
        pass


def test_recover_waits_for_a_living_owner_and_times_out(mutex: isthmus.Mutex, spawn: Start) -> None:
    peer = spawn(HOLDER)
    peer.expect("held")
    with pytest.raises(isthmus.Timeout), mutex.recover(timeout=0.1):
        pytest.fail("took a lock that a living process holds")
    peer.send()
    peer.expect("released")
    with mutex.recover(timeout=20) as death:
        assert death is None
    peer.finish()


def test_on_owner_died_recover_enters_directly(spawn: Start) -> None:
    mutex = isthmus.Mutex("lock", on_owner_died="recover")
    leave_it_poisoned(spawn)
    assert mutex.acquire(timeout=20) is True
    assert mutex.locked()
    assert in_thread(lambda: mutex.acquire(timeout=0)) is False
    mutex.release()
    with mutex:
        pass
    mutex.close()


def test_on_owner_died_takes_two_words_only() -> None:
    wrong: Any = "ignore"
    with pytest.raises(ValueError, match="ignore"):
        isthmus.Mutex("lock", on_owner_died=wrong)


def test_a_waiter_learns_of_the_death_while_it_waits(mutex: isthmus.Mutex, spawn: Start) -> None:
    peer = spawn(HOLDER)
    peer.expect("held")
    outcome: list[object] = []
    waiting = threading.Thread(target=lambda: outcome.append(in_thread(mutex.acquire)))
    waiting.start()
    time.sleep(0.1)
    assert outcome == []
    peer.kill()
    waiting.join(60)
    assert [type(o) for o in outcome] == [isthmus.OwnerDied]


# ---------------------------------------------------------------------------------------- names and handles


def test_create_insists_on_new_and_open_on_existing(namespace: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        isthmus.Mutex.open("absent")
    first = isthmus.Mutex.create("present")
    with pytest.raises(FileExistsError, match="present"):
        isthmus.Mutex.create("present")
    second = isthmus.Mutex.open("present")
    third = isthmus.Mutex("present")
    for handle in (first, second, third):
        assert handle.name == "present"
        assert "present" in repr(handle)
        handle.close()
    assert object_files(namespace) == []


def test_unlink_removes_the_name(namespace: Path, mutex: isthmus.Mutex) -> None:
    mutex.unlink()
    assert object_files(namespace) == []
    with mutex:
        pass
    with pytest.raises(FileNotFoundError):
        mutex.unlink()


def test_a_handle_that_is_only_dropped_is_closed(namespace: Path) -> None:
    handle = isthmus.Mutex("dropped")
    assert object_files(namespace) == ["dropped"]
    del handle
    gc.collect()
    assert object_files(namespace) == []


def test_a_mutex_is_not_a_queue_and_says_so(mutex: isthmus.Mutex) -> None:
    with pytest.raises(isthmus.IncompatibleError) as caught:
        isthmus.Queue("lock", type=bytes)
    assert "queue" in str(caught.value).lower()
    assert "mutex" in str(caught.value).lower()


def test_named_and_anonymous_ones_pickle(mutex: isthmus.Mutex, spawn: Start) -> None:
    anonymous = isthmus.Mutex()
    assert anonymous.name is None
    peer = spawn(
        """
        import pickle, sys
        locks = [pickle.loads(bytes.fromhex(text)) for text in sys.argv[1:]]
        for lock in locks:
            assert lock.acquire(timeout=20)
        print("held", flush=True)
        sys.stdin.readline()
        for lock in locks:
            lock.release()
            lock.close()
        """,
        pickle.dumps(mutex).hex(),
        pickle.dumps(anonymous).hex(),
    )
    peer.expect("held")
    for lock in (mutex, anonymous):
        assert lock.owner() == peer.pid
        assert lock.acquire(timeout=0) is False
    peer.send()
    for lock in (mutex, anonymous):
        assert lock.acquire(timeout=20) is True
        lock.release()
    peer.finish()
    anonymous.close()


def test_a_pickled_mutex_keeps_what_it_does_on_the_owners_death(spawn: Start) -> None:
    mutex = isthmus.Mutex("lock", on_owner_died="recover")
    copy = pickle.loads(pickle.dumps(mutex))
    leave_it_poisoned(spawn)
    assert copy.acquire(timeout=20) is True
    copy.release()
    copy.close()
    mutex.close()


@pytest.mark.parametrize("threads", [2, 8])
def test_it_excludes_under_load(mutex: isthmus.Mutex, spawn: Start, threads: int) -> None:
    """Threads here and threads of another process add to a number that nothing else protects."""
    code = """
        import mmap, sys, threading, isthmus
        path, threads, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        m = isthmus.Mutex.open("lock")
        with open(path, "r+b") as file:
            page = mmap.mmap(file.fileno(), 4096)
        def work():
            for _ in range(rounds):
                with m:
                    value = int.from_bytes(page[:8], "little")
                    page[8:16] = bytes(8)  # something in between
                    page[:8] = (value + 1).to_bytes(8, "little")
        pool = [threading.Thread(target=work) for _ in range(threads)]
        for thread in pool: thread.start()
        for thread in pool: thread.join()
        m.close()
        print("done", flush=True)
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        rounds = 4000 // threads
        crowd = [spawn(code, file.name, threads, rounds) for _ in range(3)]
        for peer in crowd:
            peer.expect("done", patience=60)
            peer.finish()
        file.seek(0)
        assert int.from_bytes(file.read(8), "little") == 3 * threads * rounds
    assert not mutex.locked()
    wait_until(lambda: mutex.owner() is None, "the mutex to be free")

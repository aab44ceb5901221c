"""Queues and mutexes between processes, each of them in a form of its own; and processes that are killed."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from queues import KIB, drain, fill, idle, pattern
from support import PATIENCE, Peer, wait_until

Pair = tuple[Form, Callable[..., Peer]]


def test_messages_go_both_ways_one_by_one(pair: Pair) -> None:
    form, spawn = pair
    with form.Queue("there", type=bytes) as there, form.Queue("back", type=bytes) as back:
        peer = spawn("""
            with form.Queue.open("there") as there, form.Queue.open("back") as back:
                for message in there:
                    back.put(message[::-1])
        """)
        for number in range(300):
            message = pattern(number * 40, number % 251)
            there.put(message)
            assert back.get(timeout=PATIENCE) == message[::-1]
        there.shutdown()
        peer.finish()


def test_several_producers_and_consumers_share_the_messages(pair: Pair) -> None:
    form, spawn = pair
    with form.Queue("jobs", type=tuple[int, int], capacity=64 * KIB) as q, form.Queue("done") as done:
        consumers = [
            spawn("""
                with form.Queue.open("jobs", type=tuple[int, int]) as q, form.Queue.open("done") as done:
                    done.put(list(q), timeout=20)
            """)
            for _ in range(2)
        ]
        producers = [
            spawn(
                """
                number = int(sys.argv[1])
                with form.Queue.open("jobs", type=tuple[int, int]) as q:
                    for n in range(0, 2000, 20):
                        q.put((number, n), timeout=20)
                        q.put_many([(number, n + k) for k in range(1, 20)], timeout=20)
                """,
                number,
            )
            for number in (1, 2)
        ]
        mine = begin(lambda: list(q))
        for producer in producers:
            producer.finish()
        q.shutdown()
        got = [mine.result(PATIENCE), done.get(timeout=PATIENCE), done.get(timeout=PATIENCE)]
        for consumer in consumers:
            consumer.finish()
        counts = Counter(each for some in got for each in some)
        assert counts == Counter((number, n) for number in (1, 2) for n in range(2000))
        for some in got:
            for number in (1, 2):
                numbers = [n for by, n in some if by == number]
                assert numbers == sorted(numbers)


def test_those_who_wait_in_other_processes_are_woken(pair: Pair) -> None:
    form, spawn = pair
    with form.Queue("q", type=bytes) as q:
        peers = [
            spawn("""
                with form.Queue.open("q") as q:
                    print(q.get(timeout=20).decode(), flush=True)
            """)
            for _ in range(3)
        ]
        wait_until(lambda: q.stats().consumers_waiting == 3, "them to wait")
        q.put_many([b"x"] * 3)
        for peer in peers:
            peer.expect("x")
            peer.finish()


def test_those_who_wait_for_room_in_other_processes_are_woken(pair: Pair) -> None:
    form, spawn = pair
    with form.Queue("q", type=bytes, capacity=64 * KIB) as q:
        count = fill(q, 4000)
        peers = [
            spawn("""
                with form.Queue.open("q") as q:
                    q.put(bytes(4000), timeout=20)
                    print("put", flush=True)
            """)
            for _ in range(3)
        ]
        wait_until(lambda: q.stats().producers_waiting == 3, "them to wait")
        assert len(q.get_many(3)) == 3
        for peer in peers:
            peer.expect("put")
            peer.finish()
        assert len(drain(q)) == count


def test_a_handshake_across_processes(pair: Pair) -> None:
    form, spawn = pair
    with form.Queue("q", type=bytes) as q:
        peer = spawn("""
            with form.Queue.open("q") as q:
                for job in q.leases():
                    with job:
                        pass
        """)
        for until in ("received", "done") * 20:
            q.put(b"x", timeout=PATIENCE, until=until)
        q.shutdown()
        peer.finish()
        assert idle(q)


def test_what_a_killed_process_had_on_lease_comes_back_to_who_waits(pair: Pair) -> None:
    form, spawn = pair
    code = """
        q = form.Queue.open("q")
        job = q.lease(timeout=20)
        print(job.delivery_count, flush=True)
        time.sleep(60)
    """
    with form.Queue("q", type=bytes, max_deliveries=3) as q:
        q.put(pattern(9000))
        peer = spawn(code)
        peer.expect("1")
        waiting = begin(lambda: q.lease(timeout=1000))
        wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
        peer.kill()
        job = waiting.result(PATIENCE)
        assert (job.message, job.delivery_count) == (pattern(9000), 2)
        job.nack()
        peer = spawn(code)
        peer.expect("3")
        waiting = begin(lambda: q.lease(timeout=1000))
        wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
        peer.kill()
        # Whoever waits finds it dead; looking from outside changes nothing.
        wait_until(lambda: isthmus.inspect("q").state["dead"] == 1, "it to be given up")
        q.put(b"next")
        job = waiting.result(PATIENCE)
        assert job.message == b"next"
        job.ack()
        (letter,) = q.dead
        assert (letter.data, letter.deliveries) == (pattern(9000), 3)
        assert idle(q)


def test_views_and_reservations_of_a_killed_process_give_their_memory_back(pair: Pair) -> None:
    form, spawn = pair
    with form.Queue("q", type=bytes, capacity=256 * KIB) as q:
        q.put(pattern(50_000))
        peer = spawn("""
            q = form.Queue.open("q")
            view = q.get_view(timeout=20)
            reservation = q.reserve(40_000)
            block = reservation.__enter__()
            print("held", flush=True)
            time.sleep(60)
        """)
        peer.expect("held")
        count = fill(q, 10_000)
        waiting = begin(lambda: q.put(bytes(60_000)))
        wait_until(lambda: q.stats().producers_waiting == 1, "it to wait")
        peer.kill()
        waiting.result(PATIENCE)
        assert len(drain(q)) == count + 1
        assert idle(q)


@pytest.mark.parametrize("how", ["close", "kill"])
def test_a_queue_ends_with_its_producers(pair: Pair, how: str) -> None:
    form, spawn = pair
    with form.Queue("q", type=bytes, ends_with_producers=True) as q:
        peer = spawn("""
            q = form.Queue.open("q")
            q.put_many([b"1", b"2"], timeout=20)
            print("put", flush=True)
            sys.stdin.readline()
            q.close()
        """)
        peer.expect("put")
        calls = {"get": q.get, "many": lambda: q.get_many(9), "lease": q.lease, "next": lambda: next(iter(q))}
        assert q.get_many(2, timeout=PATIENCE) == [b"1", b"2"]
        waiting = {name: begin(call) for name, call in calls.items()}
        readable = begin(q.wait_readable)
        wait_until(lambda: q.stats().consumers_waiting == 5, "them to wait")
        if how == "kill":
            peer.kill()
        else:
            peer.finish()
        for name, each in waiting.items():
            error = each.exception(PATIENCE)
            if how == "kill":
                assert isinstance(error, isthmus.PeerDied)
                assert error.pid == peer.pid
            else:
                assert isinstance(error, StopIteration if name == "next" else isthmus.ShutDown)
        assert readable.result(PATIENCE) is True


def test_killed_while_they_wait_they_take_nothing_with_them(pair: Pair) -> None:
    form, spawn = pair
    code = """
        with form.Queue.open("q") as q:
            q.get()
    """
    with form.Queue("q", type=bytes) as q:
        victims = [spawn(code) for _ in range(3)]
        survivor = begin(q.get)
        wait_until(lambda: q.stats().consumers_waiting == 4, "them to wait")
        for victim in victims:
            victim.kill()
        q.put(b"x")
        assert survivor.result(PATIENCE) == b"x"
        assert idle(q)


# ---------------------------------------------------------------------------------------------------- mutex


def test_a_mutex_excludes_processes(pair: Pair) -> None:
    form, spawn = pair
    mutex = form.Mutex("lock")
    value = isthmus.Value("sum", 0)
    peers = [
        spawn("""
            lock, value = form.Mutex.open("lock"), isthmus.Value.open("sum")
            for _ in range(300):
                with lock:
                    value.set(value.get() + 1)
            lock.close()
            value.close()
        """)
        for _ in range(2)
    ]
    for _ in range(300):
        with mutex:
            value.set(value.get() + 1)
    for peer in peers:
        peer.finish()
    assert value.get() == 900
    assert not mutex.locked()
    value.close()
    mutex.close()


def test_one_who_waits_gets_it_when_another_process_lets_go(pair: Pair) -> None:
    form, spawn = pair
    mutex = form.Mutex("lock")
    peer = spawn("""
        lock = form.Mutex.open("lock")
        lock.acquire()
        print("held", flush=True)
        sys.stdin.readline()
        lock.release()
        sys.stdin.readline()
        lock.close()
    """)
    peer.expect("held")
    assert mutex.owner() == peer.pid
    with pytest.raises(isthmus.NotOwnerError, match=str(peer.pid)):
        mutex.release()
    waiting = begin(mutex.acquire)
    peer.send("let go")
    assert waiting.result(PATIENCE) is True
    assert mutex.owner() == os.getpid()
    peer.finish()
    mutex.close()


HOLDER = """
    lock = form.Mutex.open("lock")
    lock.acquire()
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_death_of_an_owner_reaches_all_who_wait_until_it_is_repaired(pair: Pair) -> None:
    form, spawn = pair
    mutex = form.Mutex("lock")
    peer = spawn(HOLDER)
    peer.expect("held")
    waiting = [begin(lambda: mutex.acquire() and mutex.release()) for _ in range(3)]
    recovering = begin(lambda: _recover(mutex))
    peer.kill()
    deaths = [each.exception(PATIENCE) for each in waiting]
    deaths = [recovering.result(PATIENCE), *filter(None, deaths)]  # those without came after the repair
    for death in deaths:
        assert isinstance(death, isthmus.OwnerDied)
        assert (death.pid, death.what) == (peer.pid, 'mutex "lock"')
        assert death.since > 0
    with mutex:
        assert mutex.owner() == os.getpid()
    mutex.close()


def _recover(mutex: Any) -> Any:
    with mutex.recover() as death:
        return death


def test_a_mutex_is_poisoned_until_a_repair_ends_well(pair: Pair) -> None:
    form, spawn = pair
    mutex = form.Mutex("lock")
    peer = spawn(HOLDER)
    peer.expect("held")
    peer.kill()
    for timeout in (None, 0, 0.01):
        with pytest.raises(isthmus.OwnerDied):
            mutex.acquire(timeout=timeout)
        with pytest.raises(isthmus.OwnerDied), mutex:
            raise AssertionError("nobody comes in")
    for _ in range(2):
        with contextlib.suppress(KeyError), mutex.recover(timeout=PATIENCE) as death:
            assert death.pid == peer.pid
            with pytest.raises(isthmus.OwnerDied):
                begin(lambda: mutex.acquire(timeout=0.01)).result(PATIENCE)
            raise KeyError
        with pytest.raises(isthmus.OwnerDied):
            mutex.acquire()
    with mutex.recover() as death:
        assert death.pid == peer.pid
    with mutex.recover() as death:
        assert death is None
    with mutex:
        pass
    mutex.close()


def test_a_handle_that_recovers_takes_it_from_the_dead(pair: Pair) -> None:
    form, spawn = pair
    mutex = form.Mutex("lock", on_owner_died="recover")
    peer = spawn(HOLDER)
    peer.expect("held")
    waiting = begin(mutex.acquire)
    peer.kill()
    assert waiting.result(PATIENCE) is True
    assert mutex.owner() == os.getpid()
    mutex.close()


def test_killed_while_they_wait_for_it_they_leave_nothing_held(pair: Pair) -> None:
    form, spawn = pair
    mutex = form.Mutex("lock")
    with mutex:
        victims = [
            spawn("""
                lock = form.Mutex.open("lock")
                print("waits", flush=True)
                lock.acquire()
            """)
            for _ in range(3)
        ]
        for victim in victims:
            victim.expect("waits")
        waiting = begin(lambda: mutex.acquire() and mutex.release())
        for victim in victims:
            victim.kill()
    waiting.result(PATIENCE)
    assert not mutex.locked()
    mutex.close()

"""Ctrl+C in every wait: KeyboardInterrupt at once, and the object is as it was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

import isthmus
from queues import LEASES_OF_64_KIB, idle, queue_of_bytes
from support import Peer, process_state, wait_until

Start = Callable[..., Peer]

WAITS = {
    "get": "empty.get()",
    "get with a timeout": "empty.get(timeout=100)",
    "get_many": "empty.get_many(10)",
    "iteration": "next(iter(empty))",
    "a for loop": "loop()",
    "put": "full.put(bytes(1000))",
    "put with a timeout": "full.put(bytes(1000), timeout=100)",
    "put of a large message": "full.put(bytes(30_000))",
    "put_many": "full.put_many([bytes(1000)] * 5)",
    "acquire": "lock.acquire()",
    "acquire with a timeout": "lock.acquire(timeout=100)",
    "with": "lock.__enter__()",
    "recover": "lock.recover().__enter__()",
    "get of a stream": "stream.get()",
    "get_view": "empty.get_view()",
    "lease": "empty.lease()",
    "lease with a timeout": "empty.lease(timeout=100)",
    "lease with all leases out": "tight.lease()",
    "leases": "next(empty.leases())",
    "wait_readable": "empty.wait_readable()",
    "wait_writable": "full.wait_writable(below=0.1)",
    "reserve": "full.reserve(30_000)",
    "leaving the block of a reservation": "reserved()",
}

PRELUDE = """
import os, signal, sys, threading, time, isthmus
def say(text): print(text, flush=True)
empty = isthmus.Queue.open("empty", type=bytes)
full = isthmus.Queue.open("full", type=bytes)
stream = isthmus.Queue.open("stream", type=bytes)
tight = isthmus.Queue.open("tight", type=bytes)
lock = isthmus.Mutex.open("lock")
def loop():
    for _ in empty: pass
def reserved():
    with full.reserve(1000): pass
"""


@pytest.fixture
def objects() -> object:
    """An empty queue, a full one, one that ends with its producers, and a mutex held by this process."""
    empty, full = (
        isthmus.Queue("empty", type=bytes, capacity=1 << 20),
        isthmus.Queue("full", type=bytes, capacity=64 << 10),
    )
    stream = isthmus.Queue("stream", type=bytes, capacity=1 << 20, ends_with_producers=True)
    stream.put(b"x")
    stream.get()
    tight = isthmus.Queue("tight", type=bytes, capacity=64 << 10)
    tight.put_many([b"x"] * (LEASES_OF_64_KIB + 1))
    leases = [tight.lease() for _ in range(LEASES_OF_64_KIB)]
    lock = isthmus.Mutex("lock")
    fill(full)
    with lock:
        yield empty, full, lock
    while not full.empty():
        full.get(timeout=0)
    tight.get(timeout=0)
    for lease in leases:
        lease.ack()
    for handle in (empty, full, stream, tight, lock):
        handle.close()


def fill(handle: isthmus.Queue[bytes]) -> None:
    """Fills it up with messages of every size."""
    for size in (30_000, 5000, 1000, 0):
        with contextlib.suppress(isthmus.Full):
            while True:
                handle.put(bytes(size), timeout=0)


def asleep(peer: Peer) -> bool:
    return process_state(peer.pid) == "S"


@pytest.mark.parametrize("pause", [0.0, 0.3], ids=["as-it-begins", "asleep"])
@pytest.mark.parametrize("wait", WAITS)
def test_every_wait_is_interrupted(spawn: Start, objects: object, wait: str, pause: float) -> None:
    peer = spawn(f"""{PRELUDE}
before = full.qsize(), empty.qsize()
try:
    say("waiting")
    {WAITS[wait]}
    say("no wait at all")
except KeyboardInterrupt:
    say("KeyboardInterrupt")
assert (full.qsize(), empty.qsize()) == before
empty.put(b"works"); assert empty.get(timeout=20) == b"works"
for handle in (empty, full, stream, tight, lock): handle.close()
say("ended")
""")
    peer.expect("waiting")
    time.sleep(pause)
    peer.interrupt()
    peer.expect("KeyboardInterrupt")
    peer.expect("ended")
    peer.finish()


def test_another_signal_is_handled_during_the_wait_which_goes_on(spawn: Start, objects: object) -> None:
    """As PEP 475 has it: a handler that returns does not end the wait, and does not lengthen it."""
    peer = spawn(f"""{PRELUDE}
count = 0
def handler(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
start = time.monotonic()
try:
    empty.get(timeout=1.0)
except isthmus.Empty:
    took = time.monotonic() - start
assert took >= 1.0, took
assert count >= 5, count
say(f"handled")
signal.setitimer(signal.ITIMER_REAL, 0)
for handle in (empty, full, stream, tight, lock): handle.close()
""")
    peer.expect("handled")
    peer.finish()


def test_a_handler_that_raises_ends_the_wait_with_its_error(spawn: Start, objects: object) -> None:
    peer = spawn(f"""{PRELUDE}
class Alarm(Exception): pass
def handler(*_): raise Alarm
signal.signal(signal.SIGALRM, handler)
for wait in {list(WAITS.values())!r}:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        eval(wait)
    except Alarm:
        say("Alarm")
for handle in (empty, full, stream, tight, lock): handle.close()
""")
    for _ in WAITS:
        peer.expect("Alarm")
    peer.finish()


def test_the_main_thread_is_interrupted_while_others_wait_too(spawn: Start, objects: object) -> None:
    peer = spawn(f"""{PRELUDE}
got = []
threads = [threading.Thread(target=lambda: got.append(empty.get())) for _ in range(3)]
for thread in threads: thread.start()
try:
    say("waiting")
    empty.get()
except KeyboardInterrupt:
    say("KeyboardInterrupt")
empty.put_many([b"1", b"2", b"3"])
for thread in threads: thread.join()
assert sorted(got) == [b"1", b"2", b"3"]
for handle in (empty, full, stream, tight, lock): handle.close()
""")
    peer.expect("waiting")
    wait_until(lambda: asleep(peer), "all of them to sleep")
    time.sleep(0.2)
    peer.interrupt()
    peer.expect("KeyboardInterrupt")
    peer.finish()


def test_interrupted_again_and_again_nothing_is_lost_or_doubled(spawn: Start, namespace: object) -> None:
    """Signals at random moments of put and get: each either happened or did not, and the count says which."""
    with isthmus.Queue("busy", type=bytes, capacity=64 << 10) as handle:
        peer = spawn("""
            import signal, isthmus
            class Alarm(Exception): pass
            armed = False
            def handler(*_):
                global armed
                if armed:
                    armed = False
                    raise Alarm
            signal.signal(signal.SIGALRM, handler)
            q = isthmus.Queue.open("busy", type=bytes)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
            alarms = 0
            for i in range(4000):
                while True:
                    try:
                        armed = True
                        q.put(i.to_bytes(4, "little") + bytes(i % 7000), timeout=20)
                        armed = False
                        break
                    except Alarm:
                        alarms += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(alarms, flush=True)
            q.close()
        """)
        got: list[int] = []
        while not got or got[-1] != 3999:
            message = handle.get(timeout=30)
            number = int.from_bytes(message[:4], "little")
            assert len(message) == 4 + number % 7000
            got.append(number)
        # An alarm between the commit and the return makes the sender put again: doubles are its own.
        assert sorted(set(got)) == list(range(4000))
        assert got == sorted(got)
        assert int(peer.line()) > 0
        peer.finish()
        while not handle.empty():
            handle.get()


@pytest.mark.parametrize("until", ["received", "done"])
def test_one_who_waits_for_his_message_to_be_taken_is_interrupted_and_it_stays(
    spawn: Start, until: str
) -> None:
    with queue_of_bytes("waits") as handle:
        peer = spawn(f"""
            import isthmus
            with isthmus.Queue.open("waits", type=bytes) as q:
                try:
                    q.put(b"x", until={until!r})
                except KeyboardInterrupt:
                    print("KeyboardInterrupt", flush=True)
        """)
        wait_until(lambda: handle.qsize() == 1 and asleep(peer), "the peer to wait")
        peer.interrupt()
        peer.expect("KeyboardInterrupt")
        peer.finish()
        assert handle.get(timeout=0) == b"x"


def test_a_worker_interrupted_again_and_again_does_every_message(spawn: Start) -> None:
    """Signals at random moments of leasing and acknowledging: what is not acknowledged comes back."""
    with queue_of_bytes("busy", max_deliveries=1_000_000) as handle:
        peer = spawn("""
            import signal, isthmus
            class Alarm(Exception): pass
            armed = False
            def handler(*_):
                global armed
                if armed:
                    armed = False
                    raise Alarm
            signal.signal(signal.SIGALRM, handler)
            q = isthmus.Queue.open("busy", type=bytes)
            print("ready", flush=True)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
            alarms, seen = 0, []
            while True:
                try:
                    try:
                        armed = True
                        with q.lease(view=len(seen) % 2 == 0) as job:
                            seen.append(int.from_bytes(bytes(job.message)[:4], "little"))
                    finally:
                        armed = False  # also where it has ended: an alarm comes here, or none does
                except Alarm:
                    alarms += 1
                except isthmus.ShutDown:
                    break
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(alarms > 0, sorted(set(seen)) == list(range(4000)), q.stats()[-2:], flush=True)
            q.close()
        """)
        peer.expect("ready")
        for number in range(4000):
            handle.put(number.to_bytes(4, "little") + bytes(number % 7000), timeout=30)
        handle.shutdown()
        peer.expect("True True (0, 0)")
        peer.finish()
        assert idle(handle)

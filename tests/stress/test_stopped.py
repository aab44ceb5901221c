"""SIGSTOP is not death: nobody is declared dead for being slow, and after SIGCONT all goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

import isthmus
from siege import Siege, check_capacity, check_messages
from support import Peer, Watchdog

Start = Callable[..., Peer]


def test_a_stopped_holder_keeps_its_lock(spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    peer = spawn("""
        import sys, isthmus
        m = isthmus.Mutex.open("lock")
        with m:
            print("held", flush=True)
            sys.stdin.readline()
        print("released", flush=True)
        m.close()
    """)
    peer.expect("held")
    peer.stop()
    waiter = spawn("""
        import isthmus
        m = isthmus.Mutex.open("lock")
        print("waiting", flush=True)
        with m:
            print("in", flush=True)
        m.close()
    """)
    waiter.expect("waiting")
    assert lock.acquire(timeout=0) is False
    assert lock.acquire(timeout=2.5) is False
    assert lock.owner() == peer.pid
    peer.resume()
    peer.send()
    peer.expect("released")
    waiter.expect("in")
    waiter.finish()
    peer.finish()
    assert lock.acquire(timeout=20) is True
    lock.release()
    lock.close()


def test_a_stopped_process_that_repairs_keeps_the_lock(spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    dead = spawn(
        "import isthmus; m = isthmus.Mutex.open('lock'); m.acquire(); print('held', flush=True); input()"
    )
    dead.expect("held")
    dead.kill()
    peer = spawn("""
        import sys, isthmus
        m = isthmus.Mutex.open("lock")
        with m.recover() as death:
            print("repairs", flush=True)
            sys.stdin.readline()
        m.close()
    """)
    peer.expect("repairs")
    peer.stop()
    with pytest.raises(isthmus.OwnerDied):  # it is told to everyone until the repair is done
        lock.acquire(timeout=1.5)
    with pytest.raises(isthmus.Timeout), lock.recover(timeout=1.5):
        pytest.fail("two repair at once")
    assert lock.owner() == peer.pid
    peer.resume()
    peer.finish()
    assert lock.acquire(timeout=20) is True
    lock.release()
    lock.close()


def test_a_stopped_producer_does_not_end_the_queue(spawn: Start) -> None:
    with isthmus.Queue("stream", type=bytes, capacity=1 << 20, ends_with_producers=True) as handle:
        peer = spawn("""
            import sys, isthmus
            with isthmus.Queue.open("stream", type=bytes) as q:
                q.put(b"first")
                print("put", flush=True)
                sys.stdin.readline()
                q.put(b"second")
        """)
        peer.expect("put")
        peer.stop()
        assert handle.get(timeout=20) == b"first"
        with pytest.raises(isthmus.Empty):
            handle.get(timeout=2.5)
        peer.resume()
        peer.send()
        assert handle.get(timeout=20) == b"second"
        with pytest.raises(isthmus.ShutDown):
            handle.get(timeout=20)
        peer.finish()


def test_a_stopped_consumer_that_waits_takes_nothing_and_blocks_nobody(spawn: Start) -> None:
    with isthmus.Queue("work", type=bytes, capacity=1 << 20) as handle:
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("work", type=bytes) as q:
                print("waiting", flush=True)
                print(q.get(), flush=True)
        """)
        peer.expect("waiting")
        time.sleep(0.3)
        peer.stop()
        for number in range(100):
            handle.put(number.to_bytes(2, "little"))
            assert handle.get(timeout=20) == number.to_bytes(2, "little")
        handle.put(b"for the peer")
        peer.resume()
        peer.expect("b'for the peer'")
        peer.finish()


@pytest.mark.parametrize("mixture", ["inline", "large"])
def test_stopped_at_random_moments_nothing_is_lost_and_nobody_condemned(mixture: str) -> None:
    """Stopped in the middle of put and get, inside a critical section too; others may have to wait for it."""
    queue = isthmus.Queue.create("besieged", type=bytes, capacity=2 << 20)
    with Siege(seed=6) as siege:
        for number in (1, 2):
            siege.start("produce", queue="besieged", number=number, mixture=mixture, batch=0)
            siege.start("consume", words=1 << 23, queue="besieged", batch=0)
        siege.wait(Watchdog(), 0.2)
        for _ in range(25):
            for victim in siege.random.sample(siege.workers, siege.random.choice([1, 2])):
                os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(siege.random.choice([0.01, 0.05, 0.2]))
            siege.check_errors()
            for worker in siege.workers:
                os.kill(worker.pid, signal.SIGCONT)
            siege.wait(Watchdog(), siege.random.uniform(0, 0.1))
        before, dog = siege.progress(), Watchdog()
        while siege.progress() == before:
            siege.wait(dog, 0.02)
        siege.finish("produce")
        siege.finish("consume")
        print(check_messages(siege, get_batch=0, put_batch=0))
        check_capacity(queue)
    queue.unlink()
    queue.close()


def test_lock_takers_stopped_at_random_moments_still_exclude_each_other() -> None:
    lock = isthmus.Mutex.create("besieged")
    with Siege(seed=7) as siege:
        shared = siege.directory / "shared"
        shared.write_bytes(bytes(4096))
        for number in range(4):
            siege.start(
                "take_turns", mutex="besieged", shared=str(shared), on_owner_died="raise", number=number
            )
        siege.wait(Watchdog(), 0.2)
        for _ in range(25):
            victim = siege.random.choice(siege.workers)
            os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(siege.random.choice([0.01, 0.1, 0.2]))
            os.kill(victim.pid, signal.SIGCONT)
            siege.wait(Watchdog(), 0.02)
        siege.finish("take_turns")
        assert int.from_bytes(shared.read_bytes()[:8], "little") == siege.progress()
    lock.close()

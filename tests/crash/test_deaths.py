"""A table: who does what, how it dies, and what the others get. Each row in unrelated processes.

The dying process says where it stands (a line on standard output) and then dies or is killed there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from support import Peer, process_state, wait_until

Start = Callable[..., Peer]

# ------------------------------------------------------------------------------------------- ways to die

DEATHS = {
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGSEGV": "signal.signal(signal.SIGSEGV, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGSEGV)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "os._exit": "os._exit(0)",
    "exec": "os.execv('/bin/sleep', ['sleep', '60'])",
    "exec of python": "os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)'])",
    "os._exit under threads": (
        "threading.Thread(target=time.sleep, args=[60], daemon=True).start(); os._exit(1)"
    ),
}
BY_DEATH = pytest.mark.parametrize("death", DEATHS)

PRELUDE = """
import faulthandler, os, signal, sys, threading, time, isthmus
faulthandler.disable()
def say(text): print(text, flush=True)
"""


HELPERS = """
def thread(call, *args):
    def run():
        try: call(*args)
        except isthmus.IsthmusError: pass
    threading.Thread(target=run, daemon=True).start()
    time.sleep(0.1)
def fill(q):
    try:
        while True: q.put(bytes(1000), timeout=0)
    except isthmus.Full: pass
"""


def dying(spawn: Start, code: str, death: str) -> Peer:
    """Starts a process that runs `code`, says "here" and dies when told."""
    peer = spawn(f"{PRELUDE}{code}\nsay('here')\nsys.stdin.readline()\n{DEATHS[death]}\n")
    peer.expect("here")
    return peer


def die(peer: Peer, death: str) -> None:
    """Lets it die, and waits until it has (an exec leaves a living process behind: that is the point)."""
    image = Path(f"/proc/{peer.pid}/cmdline").read_bytes()
    peer.send()
    if death.startswith("exec"):
        wait_until(lambda: Path(f"/proc/{peer.pid}/cmdline").read_bytes() != image, "the exec")
    else:
        wait_until(lambda: process_state(peer.pid) in ("Z", "X", ""), "the death")


# ------------------------------------------------------------------------------------------- mutex

HOLDS = "m = isthmus.Mutex.open('lock'); m.acquire()"


@BY_DEATH
def test_a_holder_that_died_before_is_found_by_the_next_taker(spawn: Start, death: str) -> None:
    lock = isthmus.Mutex("lock")
    peer = dying(spawn, HOLDS, death)
    assert lock.acquire(timeout=0) is False
    die(peer, death)
    with pytest.raises(isthmus.OwnerDied) as caught:
        lock.acquire(timeout=20)
    assert caught.value.pid == peer.pid
    with lock.recover(timeout=20) as found:
        assert found is not None
        assert found.pid == peer.pid
    with lock:
        pass
    lock.close()


@BY_DEATH
def test_a_holder_that_dies_ends_the_wait_of_every_taker(spawn: Start, death: str) -> None:
    lock = isthmus.Mutex("lock")
    peer = dying(spawn, HOLDS, death)
    takers = [
        spawn(f"""{PRELUDE}
m = isthmus.Mutex.open("lock")
say("waiting")
try:
    m.acquire()
except isthmus.OwnerDied as died:
    say(f"OwnerDied {{died.pid}}")
m.close()
""")
        for _ in range(3)
    ]
    for taker in takers:
        taker.expect("waiting")
    time.sleep(0.1)
    die(peer, death)
    for taker in takers:
        taker.expect(f"OwnerDied {peer.pid}")
        taker.finish()
    lock.close()


@BY_DEATH
def test_with_recover_the_next_taker_enters(spawn: Start, death: str) -> None:
    lock = isthmus.Mutex("lock", on_owner_died="recover")
    peer = dying(spawn, HOLDS, death)
    waiter = spawn(f"""{PRELUDE}
m = isthmus.Mutex.open("lock", on_owner_died="recover")
say("waiting")
with m:
    say("in")
m.close()
""")
    waiter.expect("waiting")
    time.sleep(0.1)
    die(peer, death)
    waiter.expect("in")
    waiter.finish()
    assert lock.acquire(timeout=20)
    lock.release()
    lock.close()


@BY_DEATH
def test_a_waiter_that_dies_leaves_the_lock_as_it_was(spawn: Start, death: str) -> None:
    lock = isthmus.Mutex("lock")
    lock.acquire()
    peer = dying(spawn, HELPERS + "m = isthmus.Mutex.open('lock'); thread(m.acquire)", death)
    die(peer, death)
    lock.release()
    for _ in range(3):
        assert lock.acquire(timeout=20) is True
        lock.release()
    lock.close()


@BY_DEATH
def test_a_process_that_released_before_it_died_poisons_nothing(spawn: Start, death: str) -> None:
    lock = isthmus.Mutex("lock")
    peer = dying(spawn, HOLDS + "; m.release()", death)
    die(peer, death)
    for _ in range(3):
        assert lock.acquire(timeout=20) is True
        lock.release()
    lock.close()


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise KeyError", "del m"])
def test_a_holder_that_only_ends_shuts_nobody_out(spawn: Start, ending: str) -> None:
    """A process may end without releasing: others are told, or the lock is free; never do they wait."""
    lock = isthmus.Mutex("lock")
    peer = spawn(f"{PRELUDE}{HOLDS}\nsay('here')\nsys.stdin.readline()\n{ending}\n")
    peer.expect("here")
    peer.end()
    try:
        assert lock.acquire(timeout=20) is True
        lock.release()
    except isthmus.OwnerDied:
        with lock.recover(timeout=20) as found:
            assert found is not None
    with lock:
        pass
    lock.close()


# ------------------------------------------------------------------------------------------- queue

MIB = 1 << 20

QUEUE_ROWS: list[tuple[str, str, dict[str, Any], str, float, str]] = [
    # who it is, what it has done, attributes, what the others call, timeout, what comes of it
    ("idle", "q.qsize()", {}, "get", 0.3, "Empty"),
    ("idle", "q.qsize()", {}, "put", 20, "put"),
    ("producer", "q.put(b'last words')", {}, "get", 20, "b'last words'"),
    ("producer", "q.put_many([b'a'] * 3)", {}, "get_many", 20, "[b'a', b'a', b'a']"),
    ("producer", "q.put(b'x'); q.get()", {}, "get", 0.3, "Empty"),
    ("producer", "q.put(b'x'); q.get()", {"ends_with_producers": True}, "get", 20, "PeerDied"),
    ("producer", "q.put(b'x')", {"ends_with_producers": True}, "iterate", 20, "PeerDied after 1"),
    ("producer", "q.put(b'x'); q.close()", {"ends_with_producers": True}, "iterate", 20, "ends after 1"),
    ("consumer", "thread(q.get)", {}, "put and get", 20, "b'mine'"),
    ("consumer", "thread(q.get_many, 10)", {}, "put and get", 20, "b'mine'"),
    ("consumer", "thread(q.get)", {"ends_with_producers": True}, "get", 0.3, "Empty"),
    ("producer", "fill(q); thread(q.put, bytes(1000))", {}, "drain and get", 1, "Empty"),
    ("producer", "fill(q); thread(q.put_many, [bytes(1000)] * 5)", {}, "drain and get", 1, "Empty"),
]


def outcome(handle: isthmus.Queue[bytes], call: str, timeout: float) -> str:
    """What the survivor gets, in a word."""
    got = 0
    try:
        match call:
            case "get":
                return repr(handle.get(timeout=timeout))
            case "get_many":
                return repr(handle.get_many(10, timeout=timeout))
            case "put":
                handle.put(b"x", timeout=timeout)
                return "put"
            case "put and get":
                handle.put(b"mine", timeout=timeout)
                return repr(handle.get(timeout=timeout))
            case "iterate":
                for _ in handle:
                    got += 1
                return f"ends after {got}"
            case "drain and get":
                while True:
                    handle.get(timeout=timeout)
            case _:
                raise NotImplementedError(call)
    except isthmus.IsthmusError as error:
        return type(error).__name__ + (f" after {got}" if got else "")


def rows() -> list[Any]:
    """Each row with each death, the survivor asking afterwards or waiting already."""
    return [
        pytest.param(
            *row, waits, death, id=f"{row[0]}-{number}-{row[3]}-{'waits' if waits else 'asks'}-{death}"
        )
        for number, row in enumerate(QUEUE_ROWS)
        for waits in (False, True)
        for death in ("SIGKILL", "exec")
        if not (waits and row[3] == "put and get")  # while it lives, a consumer may take it
    ]


@pytest.mark.parametrize(
    ("role", "done", "attributes", "call", "timeout", "expected", "waits", "death"), rows()
)
def test_what_the_others_get(
    spawn: Start,
    role: str,
    done: str,
    attributes: dict[str, Any],
    call: str,
    timeout: float,
    expected: str,
    waits: bool,
    death: str,
) -> None:
    handle = isthmus.Queue("table", type=bytes, capacity=256 * 1024, **attributes)
    peer = dying(spawn, f"{HELPERS}\nq = isthmus.Queue.open('table', type=bytes)\n{done}", death)
    got: list[str] = []
    survivor = threading.Thread(target=lambda: got.append(outcome(handle, call, timeout)))
    if waits:
        survivor.start()
        time.sleep(0.05)
    die(peer, death)
    if not waits:
        survivor.start()
    survivor.join(60)
    assert got == [expected], f"a {role} that did {done!r} and died by {death}"

    while not handle.empty():
        handle.get(timeout=0)
    # Another that attaches afterwards finds everything in order.
    if not attributes:
        after = spawn(f"{PRELUDE}\nq = isthmus.Queue.open('table', type=bytes)\nq.put(b'after')\nq.close()\n")
        after.finish()
        assert handle.get(timeout=20) == b"after"
    handle.close()


def test_peer_died_names_the_last_producer_that_was_killed(spawn: Start) -> None:
    handle = isthmus.Queue("table", type=bytes, capacity=MIB, ends_with_producers=True)
    put = "q = isthmus.Queue.open('table', type=bytes)\nq.put(b'x')"
    first = dying(spawn, put, "SIGKILL")
    last = dying(spawn, put, "SIGKILL")
    die(first, "SIGKILL")
    assert handle.get_many(2, timeout=20) == [b"x", b"x"]
    with pytest.raises(isthmus.Empty):
        handle.get(timeout=0.3)
    before = time.time()
    die(last, "SIGKILL")
    with pytest.raises(isthmus.PeerDied) as caught:
        handle.get(timeout=20)
    assert caught.value.pid == last.pid
    assert str(last.pid) in str(caught.value)
    assert before - 1 <= caught.value.since <= time.time() + 1
    handle.close()


def test_a_zombie_is_dead_and_its_parent_need_not_reap_it(spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    peer = dying(spawn, HOLDS, "SIGKILL")
    peer.kill_unreaped()
    wait_until(lambda: process_state(peer.pid) == "Z", "the zombie")
    with pytest.raises(isthmus.OwnerDied):
        lock.acquire(timeout=20)
    assert process_state(peer.pid) == "Z"
    lock.close()


def test_a_leader_that_ended_under_living_threads_is_not_dead(spawn: Start) -> None:
    """pthread_exit in the main thread leaves a process whose /proc entry looks like a zombie's."""
    lock = isthmus.Mutex("lock")
    peer = spawn(f"""{PRELUDE}
import ctypes
m = isthmus.Mutex.open("lock")
def hold():
    m.acquire()
    say("held")
    sys.stdin.readline()
    m.release()
    say("released")
    os._exit(0)
thread = threading.Thread(target=hold)
thread.start()
time.sleep(0.1)
ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread alone (x86-64)
""")
    peer.expect("held")
    wait_until(lambda: process_state(peer.pid) == "Z", "the leader's end")
    assert lock.acquire(timeout=1.5) is False
    peer.send()
    peer.expect("released")
    assert lock.acquire(timeout=20) is True
    lock.release()
    lock.close()


def test_the_signal_that_ends_python_by_default_poisons_too(spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    peer = dying(spawn, HOLDS, "SIGKILL")
    os.kill(peer.pid, signal.SIGHUP)
    wait_until(lambda: process_state(peer.pid) == "Z", "the death")
    with pytest.raises(isthmus.OwnerDied):
        lock.acquire(timeout=20)
    lock.close()

"""Two PID namespaces on one namespace directory: every container has a process 1, and none is another's.

With `--mount-proc` a container sees its own processes only, without it /proc still shows those outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer, process_state, wait_until

Start = Callable[..., Peer]


def can_unshare() -> bool:
    """Whether this kernel and user may make PID namespaces."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], check=False).returncode
        == 0
    )


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not can_unshare(), reason="needs root (or CAP_SYS_ADMIN) and util-linux's unshare"),
]

PROC = pytest.mark.parametrize("proc", ["--mount-proc", "--fork"], ids=["own-proc", "proc-of-outside"])

HOLDER = """
import os, sys, isthmus
m = isthmus.Mutex.open("lock")
assert m.acquire(timeout=20)
print("held by", os.getpid(), flush=True)
sys.stdin.readline()
m.release()
print("released", flush=True)
sys.stdin.readline()
m.close()
"""
TAKER = """
import os, sys, isthmus
m = isthmus.Mutex.open("lock")
try:
    print(m.acquire(timeout=1.5), flush=True)
    m.acquire()
    print("in", flush=True)
    m.release()
except isthmus.OwnerDied as died:
    print("OwnerDied", died.pid, flush=True)
    with m.recover(timeout=20): pass
    with m: pass
    print("recovered", flush=True)
m.close()
"""


@pytest.fixture
def contain(tmp_path: Path, spawn: Start) -> Callable[..., Peer]:
    """`contain(proc, code)` starts Python as process 1 of a PID namespace; killing the peer kills it."""

    def start(proc: str, code: str, *args: object) -> Peer:
        wrapper = tmp_path / f"python{proc}"
        wrapper.write_text(
            f'#!/bin/sh\nexec unshare --pid --fork --kill-child {proc} "{sys.executable}" "$@"\n'
        )
        wrapper.chmod(0o700)
        return spawn(code, *args, executable=str(wrapper))

    return start


def inner(peer: Peer) -> int:
    """The process id, seen from here, of the process 1 inside."""
    path = Path(f"/proc/{peer.pid}/task/{peer.pid}/children")
    return int(wait_until(lambda: path.read_text().split(), "the container's first process")[0])


@PROC
def test_messages_go_both_ways(contain: Start, proc: str) -> None:
    with (
        isthmus.Queue("in", type=bytes, capacity=1 << 20) as there,
        isthmus.Queue("out", type=bytes, capacity=1 << 20) as back,
    ):
        code = """
            import os, isthmus
            with isthmus.Queue.open("in", type=bytes) as q, isthmus.Queue.open("out", type=bytes) as back:
                for message in q:
                    back.put(message + b" %d" % os.getpid())
        """
        peers = [contain(proc, code) for _ in range(2)]
        for i in range(200):
            there.put(b"%d" % i)
        assert sorted(int(back.get(timeout=30).split()[0]) for _ in range(200)) == list(range(200))
        there.put(bytes(300_000))
        assert back.get(timeout=30) == bytes(300_000) + b" 1"
        there.shutdown()
        for peer in peers:
            peer.finish()


@PROC
def test_two_with_process_id_1_are_two_owners(contain: Start, proc: str) -> None:
    lock = isthmus.Mutex("lock")
    holder = contain(proc, HOLDER)
    holder.expect("held by 1")
    taker = contain(proc, TAKER)
    taker.expect("False")
    assert lock.acquire(timeout=0.5) is False
    holder.send()
    holder.expect("released")
    taker.expect("in")
    taker.finish()
    holder.finish()
    lock.close()


@PROC
@pytest.mark.parametrize(
    "where", ["inside dies, outside waits", "outside dies, inside waits", "two containers"]
)
def test_a_death_is_seen_across(contain: Start, spawn: Start, proc: str, where: str) -> None:
    lock = isthmus.Mutex("lock")
    holder = spawn(HOLDER) if where.startswith("outside") else contain(proc, HOLDER)
    assert holder.line().startswith("held by")
    taker = spawn(TAKER) if where.startswith("inside") else contain(proc, TAKER)
    taker.expect("False")  # it lives, and is not condemned
    holder.kill()
    assert taker.line().startswith("OwnerDied")
    taker.expect("recovered")
    taker.finish()
    assert lock.acquire(timeout=20) is True
    lock.release()
    lock.close()


@PROC
@pytest.mark.parametrize("outside", [True, False])
def test_a_stopped_holder_is_not_dead_from_any_side(
    contain: Start, spawn: Start, proc: str, outside: bool
) -> None:
    lock = isthmus.Mutex("lock")
    holder = spawn(HOLDER) if outside else contain(proc, HOLDER)
    assert holder.line().startswith("held by")
    pid = holder.pid if outside else inner(holder)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process_state(pid) == "T", "the stop")
    takers = [contain(proc, TAKER), spawn(TAKER)]
    for taker in takers:
        taker.expect("False")
    os.kill(pid, signal.SIGCONT)
    holder.send()
    holder.expect("released")
    for taker in takers:
        taker.expect("in")
        taker.finish()
    holder.finish()
    lock.close()


@PROC
def test_a_holder_inside_that_lost_its_registry_lock_is_left_alone_by_those_who_see_it(
    contain: Start, spawn: Start, proc: str
) -> None:
    lock = isthmus.Mutex("lock")
    lose = "open(os.environ['ISTHMUS_NAMESPACE'] + '/.registry').close()\n"
    holder = contain(proc, HOLDER.replace("print(", lose + "print(", 1))
    holder.expect("held by 1")
    assert lock.acquire(timeout=2) is False
    holder.send()
    holder.expect("released")
    assert lock.acquire(timeout=20) is True
    lock.release()
    holder.finish()
    lock.close()


def test_a_process_condemned_by_those_who_cannot_see_it_gets_an_error_everywhere(
    contain: Start, spawn: Start
) -> None:
    """The one case in which a living process is buried: it lost its lock, and its peer has another /proc."""
    lock = isthmus.Mutex("lock")
    holder = spawn("""
        import os, sys, isthmus
        m = isthmus.Mutex.open("lock")
        q = isthmus.Queue.create("own", type=bytes, capacity=1 << 20)
        assert m.acquire(timeout=20)
        open(os.environ["ISTHMUS_NAMESPACE"] + "/.registry").close()
        print("held", flush=True)
        sys.stdin.readline()
        outcomes = []
        for call in (m.release, lambda: m.acquire(timeout=1), lambda: q.put(b"x"), lambda: q.get(timeout=1)):
            try:
                call()
                outcomes.append("no error")
            except isthmus.IsthmusError as error:
                outcomes.append(type(error).__name__)
        print(*outcomes, flush=True)
    """)
    holder.expect("held")
    taker = contain("--mount-proc", TAKER)
    first = taker.line()
    second = taker.line() if first == "False" else first
    assert second.startswith("OwnerDied")
    taker.expect("recovered")
    taker.finish()
    holder.send()
    outcomes = holder.line().split()
    assert outcomes[0] in {"BuriedError", "NotOwnerError"}, outcomes
    assert "BuriedError" in outcomes, outcomes
    lock.acquire(timeout=20)
    lock.release()
    lock.close()


@PROC
def test_killed_containers_under_load_leave_a_working_queue(contain: Start, spawn: Start, proc: str) -> None:
    """A whole container goes at once: producer and consumer inside, both killed."""
    with isthmus.Queue("load", type=bytes, capacity=256 << 10) as handle:
        code = """
            import threading, isthmus
            q = isthmus.Queue.open("load", type=bytes)
            def put():
                while True: q.put(bytes(1000))
            def get():
                while True: q.get()
            threads = [threading.Thread(target=f, daemon=True) for f in (put, put, get)]
            for thread in threads: thread.start()
            print("runs", flush=True)
            for thread in threads: thread.join()
        """
        for _ in range(5):
            peer = contain(proc, code)
            peer.expect("runs")
            time.sleep(0.1)
            peer.kill()
        count = 0
        while True:
            try:
                handle.get(timeout=1)
            except isthmus.Empty:
                break
            count += 1
        for _ in range(100):
            handle.put(bytes(1000), timeout=20)
            assert len(handle.get(timeout=20)) == 1000


HOLDS = {
    "job = q.lease(view=True)": 2,
    "view = q.get_view()": None,
    "q.get(); reservation = q.reserve(100_000)": None,
}


@PROC
@pytest.mark.parametrize("holds", HOLDS)
@pytest.mark.parametrize("outside", [True, False], ids=["outside-waits", "inside-waits"])
def test_what_a_killed_container_held_comes_to_one_who_waits(
    contain: Start, spawn: Start, proc: str, holds: str, outside: bool
) -> None:
    with isthmus.Queue("held", type=bytes, capacity=1 << 20) as handle:
        handle.put(bytes(100_000))
        begin = 'import sys, isthmus\nq = isthmus.Queue.open("held", type=bytes)\n'
        holder = contain(proc, f"{begin}{holds}\nprint('holds', flush=True)\nsys.stdin.readline()\n")
        holder.expect("holds")
        wants = "print(q.lease().delivery_count, flush=True)"
        if HOLDS[holds] is None:
            wants = f"q.reserve({handle.message_max}); print(None, flush=True)"
        waiting = spawn(begin + wants) if outside else contain(proc, begin + wants)
        wait_until(lambda: max(handle.stats()[9:11]) == 1, "the other to wait")
        with pytest.raises(isthmus.Timeout):  # it lives, and keeps what it has
            handle.get(timeout=0.3)
        assert handle.stats().bytes_in_use >= 100_000
        holder.kill()
        waiting.expect(str(HOLDS[holds]))
        waiting.finish()
        with contextlib.suppress(isthmus.Empty):
            handle.get(timeout=0)
        assert handle.stats().bytes_in_use == 0


def test_a_holder_condemned_by_those_who_cannot_see_it_is_told_that_it_held_nothing(
    contain: Start, spawn: Start
) -> None:
    with isthmus.Queue("held", type=bytes, capacity=1 << 20) as handle:
        handle.put_many([b"small", bytes(100_000), bytes(200_000)])
        holder = spawn("""
            import os, sys, isthmus
            q = isthmus.Queue.open("held", type=bytes)
            small, large, view = q.lease(), q.lease(view=True), q.get_view()
            reservation = q.reserve(50_000)
            open(os.environ["ISTHMUS_NAMESPACE"] + "/.registry").close()
            print("holds", flush=True)
            sys.stdin.readline()
            for call in (small.ack, large.nack, view.release, reservation.put, q.lease):
                try:
                    call()
                    print("no error", flush=True)
                except isthmus.IsthmusError as error:
                    print(type(error).__name__, flush=True)
        """)
        holder.expect("holds")
        taker = contain(
            "--mount-proc",
            """
            import isthmus
            with isthmus.Queue.open("held", type=bytes) as q:
                for _ in range(2):
                    with q.lease() as job: print(len(job.message), job.delivery_count, flush=True)
                q.reserve(q.message_max).cancel()
            """,
        )
        taker.expect("5 2")
        taker.expect("100000 2")
        taker.finish()
        holder.send()
        for _ in range(5):
            assert holder.line() in {"BuriedError", "NotOwnerError"}
        assert (handle.stats().depth, handle.stats().bytes_in_use) == (0, 0)

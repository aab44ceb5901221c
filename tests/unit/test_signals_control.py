"""`stop`, `resume`, `terminate`, `wait_for_exit`: whatever the process does, and whoever's child it is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

import isthmus
from isthmus import signals
from support import PATIENCE, Peer, process_state, wait_until

Start = Callable[..., Peer]

STUBBORN = """
    import signal, sys, threading, time
    signal.signal(signal.SIGTERM, lambda *args: print("no", flush=True))
    threads = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
    """

POLITE = """
    import signal, sys, time
    def leave(number, frame):
        sys.exit(5)
    signal.signal(signal.SIGTERM, leave)
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
    """


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A foreign program that does nothing for a long time."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.fixture
def stranger(spawn: Start) -> int:
    """A process that is no child of this one, and that its parent never collects."""
    peer = spawn(
        """
        import subprocess, sys
        child = subprocess.Popen(["sleep", "1000"])
        print(child.pid, flush=True)
        for line in sys.stdin:
            print(child.wait(), flush=True)
        child.kill()
        """
    )
    return int(peer.line())


# --------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("code", [0, 7, -signal.SIGKILL, -signal.SIGTERM])
def test_the_end_of_a_child_and_how(code: int) -> None:
    ending = f"exit {code}" if code >= 0 else f"kill -{-code} $$"
    for of in ("object", "number", "handle"):
        process = subprocess.Popen(["sh", "-c", f"read x; {ending}"], stdin=subprocess.PIPE)
        target: Any = process if of == "object" else process.pid
        if of == "handle":
            target = signals.ProcessHandle(process)
        with pytest.raises(isthmus.Timeout, match="has not ended in 0 s"):
            signals.wait_for_exit(target, 0)
        assert process.stdin is not None
        process.stdin.close()
        assert signals.wait_for_exit(target, PATIENCE) == code
        assert signals.wait_for_exit(target, 0) == code  # as often as one likes: it was not collected
        assert process.wait(0) == code


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_end_of_processes_of_multiprocessing(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=sys.exit, args=(9,))
    process.start()
    assert signals.wait_for_exit(process, PATIENCE) == 9
    assert process.exitcode == 9
    assert signals.wait_for_exit(process, PATIENCE) == 9
    process.close()


def test_the_end_of_a_stranger(stranger: int) -> None:
    with signals.ProcessHandle(stranger) as handle:
        with pytest.raises(isthmus.Timeout):
            handle.wait_for_exit(0.01)
        threading.Timer(0.1, os.kill, (stranger, signal.SIGKILL)).start()
        assert handle.wait_for_exit(PATIENCE) is None  # a zombie of somebody else: nobody can tell
        assert not handle.alive
    assert process_state(stranger) == "Z"
    assert signals.wait_for_exit(psutil.Process(stranger), 0) is None


def test_how_a_stranger_ended_once_it_was_collected(spawn: Start) -> None:
    peer = spawn(
        """
        import subprocess, sys
        child = subprocess.Popen(["sh", "-c", "read x; exit 21"], stdin=subprocess.PIPE)
        print(child.pid, flush=True)
        sys.stdin.readline()
        child.communicate(b"")
        print("collected", flush=True)
        sys.stdin.read()
        """
    )
    pid = int(peer.line())
    handle = signals.ProcessHandle(pid)
    peer.send()
    peer.expect("collected")
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    assert handle.wait_for_exit(0) == (21 if release >= (6, 15) else None)
    handle.close()
    with pytest.raises(ProcessLookupError):
        signals.wait_for_exit(pid)


def test_a_stopped_process_has_not_ended(sleeper: subprocess.Popen[bytes]) -> None:
    signals.stop(sleeper)
    with pytest.raises(isthmus.Timeout):
        signals.wait_for_exit(sleeper, 0.05)
    signals.resume(sleeper)


def test_many_threads_wait_for_one_process(sleeper: subprocess.Popen[bytes]) -> None:
    found: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(signals.wait_for_exit(sleeper, PATIENCE)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    signals.send(sleeper, signal.SIGUSR1)
    for thread in threads:
        thread.join()
    assert found == [-signal.SIGUSR1] * 5


def test_ctrl_c_ends_the_wait(spawn: Start, sleeper: subprocess.Popen[bytes]) -> None:
    peer = spawn(
        """
        import sys
        from isthmus import signals
        print("ready", flush=True)
        try:
            signals.wait_for_exit(int(sys.argv[1]))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """,
        sleeper.pid,
    )
    peer.expect("ready")
    wait_until(lambda: process_state(peer.pid) == "S", "it to sleep")
    peer.interrupt()
    peer.expect("interrupted")


# --------------------------------------------------------------------------------------------- stop, resume


def test_stop_returns_when_all_threads_stand_still(spawn: Start) -> None:
    peer = spawn(STUBBORN)
    peer.expect("ready")
    for _ in range(50):
        signals.stop(peer.process)
        states = {process_state(int(name)) for name in os.listdir(f"/proc/{peer.pid}/task")}  # noqa: PTH208
        assert states == {"T"}
        signals.stop(peer.pid)  # stopped already
        signals.resume(peer.process)
    wait_until(lambda: process_state(peer.pid) != "T", "it to go on")
    with pytest.raises(ValueError, match="timeout is -1"):
        signals.stop(peer.process, -1)


def test_stop_and_resume_a_group() -> None:
    code = "import subprocess as s; print(*[s.Popen(['sleep', '99']).pid for _ in 'ab'], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as leader:
        assert leader.stdout is not None
        pids = [leader.pid, *map(int, leader.stdout.readline().split())]
        signals.stop(leader, group=True)
        assert [process_state(pid) for pid in pids] == ["T", "T", "T"]
        signals.resume(leader, group=True)
        assert not {process_state(pid) for pid in pids} & {"", "T", "Z"}
        assert signals.terminate(leader, PATIENCE, group=True) == (-signal.SIGTERM, False)
        assert all(process_state(pid) in ("", "Z") for pid in pids)


def test_who_has_ended_cannot_be_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    wait_until(lambda: process_state(sleeper.pid) == "Z", "the zombie")
    for call in (signals.stop, signals.resume):
        with pytest.raises(ProcessLookupError):
            call(sleeper.pid)


# --------------------------------------------------------------------------------------------- terminate


def test_who_is_polite_ends_by_itself(spawn: Start) -> None:
    peer = spawn(POLITE)
    peer.expect("ready")
    assert signals.terminate(peer.process, PATIENCE) == signals.Termination(5, False)
    assert peer.process.returncode == 5
    assert signals.terminate(peer.process) == (5, False)  # again: it has ended, which is what was wanted


def test_who_is_stubborn_is_killed(spawn: Start) -> None:
    peer = spawn(STUBBORN)
    peer.expect("ready")
    assert signals.terminate(peer.process, 1.5) == (-signal.SIGKILL, True)
    peer.expect("no")  # it has had the time to say so
    peer = spawn(STUBBORN)
    peer.expect("ready")
    assert signals.terminate(peer.process, 0) == (-signal.SIGKILL, True)


def test_who_is_stopped_acts_on_it(spawn: Start) -> None:
    peer = spawn(POLITE)
    peer.expect("ready")
    signals.stop(peer.process)
    assert signals.terminate(peer.process, PATIENCE) == (5, False)


def test_a_stranger_is_terminated(stranger: int) -> None:
    assert signals.terminate(psutil.Process(stranger), PATIENCE) == (None, False)
    assert process_state(stranger) == "Z"
    with signals.ProcessHandle(stranger) as handle:
        assert signals.terminate(handle) == (None, False)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_are_terminated(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=time.sleep, args=(1000,))
    process.start()
    assert signals.terminate(process, PATIENCE) == (-signal.SIGTERM, False)
    assert process.exitcode == -signal.SIGTERM
    process.close()


def test_all_of_a_group_end_also_the_stubborn_ones() -> None:
    code = (
        "import subprocess as s\n"
        "ignoring = s.Popen(['sh', '-c', 'trap \"\" TERM; echo ready; sleep 1000'], stdout=s.PIPE)\n"
        "ignoring.stdout.readline()\n"
        "print(ignoring.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as leader:
        assert leader.stdout is not None
        pid = int(leader.stdout.readline())
        # The leader has the time to end by the first signal.
        assert signals.terminate(leader, 1.5, group=True) == (-signal.SIGTERM, True)
        assert process_state(pid) in ("", "Z")


def test_a_number_that_nobody_has(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    for call in (signals.terminate, signals.wait_for_exit):
        with pytest.raises(ProcessLookupError):
            call(sleeper.pid)
        call(sleeper)  # the object knows
    with pytest.raises(ValueError, match="timeout is -1"):
        signals.terminate(sleeper, -1)

"""`signals.Receiver`: every signal, in order, with all that is known of it, whatever threads there are."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import signals
from programs import Program
from signallers import ask, blocked, blocked_in_all_threads, signaller
from support import PATIENCE, Peer, process_state, run_python, wait_until
from workers import report_blocked

RT = int(signal.SIGRTMIN)
ALL = frozenset({RT, RT + 1})
Start = Callable[..., Peer]
START_METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def receiver() -> Iterator[signals.Receiver]:
    """Receives two real-time signals and a plain one."""
    with signals.Receiver(RT, RT + 1, signal.SIGUSR1) as found:
        yield found
        with contextlib.suppress(isthmus.Empty, isthmus.ClosedError):
            while True:
                found.get(0)


@pytest.fixture
def program() -> Iterator[Program]:
    """The C program at the other end."""
    with signaller() as found:
        yield found


def values(receiver: signals.Receiver, count: int) -> list[int | None]:
    return [receiver.get(PATIENCE).value for _ in range(count)]


def queue(*numbers: int, to: int | None = None) -> None:
    with signals.ProcessHandle(to or os.getpid()) as handle:
        for number in numbers:
            handle.sigqueue(RT, number)


# --------------------------------------------------------------------------------------------- what came


def test_thousands_from_a_c_program_in_order(receiver: signals.Receiver, program: Program) -> None:
    program.send(f"queue {os.getpid()} {RT} 0 10000")
    assert values(receiver, 10000) == list(range(10000))
    assert program.line().startswith("queued 10000")


def test_what_is_known_of_a_sender(receiver: signals.Receiver, program: Program) -> None:
    assert ask(program, "queue", os.getpid(), RT, -5, 1) == "queued 1, full never"
    info = receiver.get(PATIENCE)
    assert tuple(info) == (RT, program.pid, os.getuid(), -5, info.pointer, -1, 0, 0)
    assert (info.name, info.cause, info.signal) == ("SIGRTMIN", "queue", signal.SIGRTMIN)
    ask(program, "pointer", os.getpid(), RT + 1, 2**40 + 7)
    info = receiver.get(PATIENCE)
    assert (info.pointer, info.value, info.name) == (2**40 + 7, 7, "SIGRTMIN+1")


def test_kill_of_the_shell(receiver: signals.Receiver) -> None:
    script = "kill -s USR1 $1; echo $$; kill -s RTMIN+1 $1"
    done = subprocess.run(["sh", "-c", script, "sh", str(os.getpid())], capture_output=True, check=False)
    if done.returncode:  # a shell that does not know RTMIN
        os.kill(os.getpid(), RT + 1)
    first = receiver.get(PATIENCE)
    second = receiver.get(PATIENCE)
    assert (first.name, first.cause, first.value, first.pid) == ("SIGUSR1", "kill", None, int(done.stdout))
    assert (second.name, second.value, second.pointer) == ("SIGRTMIN+1", None, None)


def test_the_lowest_number_first_and_of_a_plain_signal_one(receiver: signals.Receiver) -> None:
    me = os.getpid()
    for number in range(3):
        signals.sigqueue(me, RT + 1, number)
        signals.sigqueue(me, RT, number)
        signals.sigqueue(me, signal.SIGUSR1, number)
    got = [(info.name, info.value) for info in (receiver.get(0) for _ in range(7))]
    assert got == [
        ("SIGUSR1", 0),  # the second and third were dropped by the kernel: the first was not read yet
        *[("SIGRTMIN", number) for number in range(3)],
        *[("SIGRTMIN+1", number) for number in range(3)],
    ]
    with pytest.raises(isthmus.Empty):
        receiver.get(0)


def test_the_end_of_a_child(spawn: Start) -> None:
    code = """
        import os, signal, subprocess
        from isthmus import signals
        with signals.Receiver(signal.SIGCHLD) as receiver:
            with signals.children():
                child = subprocess.Popen(["sh", "-c", "exit 7"])
            info = receiver.get(30)
            assert (info.pid, info.status, info.name) == (child.pid, 7, "SIGCHLD"), info
            assert child.wait() == 7
        """
    spawn(code).finish()


def test_nothing_in_time(receiver: signals.Receiver) -> None:
    for timeout in (0, 0.01):
        with pytest.raises(isthmus.Empty):
            receiver.get(timeout)
    with pytest.raises(ValueError, match="timeout is -1: it takes seconds"):
        receiver.get(-1)
    with pytest.raises(ValueError, match="timeout is nan"):
        receiver.get(float("nan"))


def test_it_can_be_polled(receiver: signals.Receiver) -> None:
    assert select.select([receiver], [], [], 0)[0] == []
    queue(1, 2)
    assert select.select([receiver], [], [], PATIENCE)[0] == [receiver]
    assert receiver.get(0).value == 1
    assert receiver.get(0).value == 2
    assert select.select([receiver], [], [], 0)[0] == []


# --------------------------------------------------------------------------------------------- who reads


def test_every_thread_that_reads_gets_its_part() -> None:
    got: list[list[int | None]] = [[], [], []]
    with signals.Receiver(RT) as receiver:

        def read(part: list[int | None]) -> None:
            part.extend(info.value for info in receiver)

        threads = [threading.Thread(target=read, args=(part,)) for part in got]
        for thread in threads:
            thread.start()
        queue(*range(3000))
        wait_until(lambda: sum(map(len, got)) == 3000, "all to be read")
        receiver.close()
        for thread in threads:
            thread.join(PATIENCE)
    for part in got:
        assert part == sorted(part)  # type: ignore[type-var]
    assert sorted(value for part in got for value in part if value is not None) == list(range(3000))


def test_a_callback_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[int | None] = []
    failed: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(args.exc_value))

    def callback(info: signals.SignalInfo) -> None:
        got.append(info.value)
        if info.value == 1:
            raise LookupError("one is too many")

    with signals.on_signal(callback, RT) as receiver:
        with pytest.raises(RuntimeError, match="has a callback already"):
            receiver.start(callback)
        queue(0, 1, 2)
        wait_until(lambda: len(got) == 3, "three calls")
    assert got == [0, 1, 2]
    assert [type(error) for error in failed] == [LookupError]
    assert not [thread for thread in threading.enumerate() if thread.name == "isthmus-signals"]
    with pytest.raises(isthmus.ClosedError):
        receiver.start(callback)


def test_closing_wakes_who_waits() -> None:
    receiver = signals.Receiver(RT)
    said: list[BaseException] = []

    def wait() -> None:
        try:
            receiver.get()
        except BaseException as error:
            said.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    receiver.close()
    receiver.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert [type(error) for error in said] == [isthmus.ClosedError] * 3
    assert list(receiver) == []
    with pytest.raises(isthmus.ClosedError):
        receiver.fileno()
    assert "(closed)" in repr(receiver)


def test_what_was_not_read_is_counted() -> None:
    receiver = signals.Receiver(RT)
    queue(*range(200))
    receiver.get()
    with pytest.warns(ResourceWarning, match="199 signals were not read"):
        receiver.close()


def test_a_signal_has_one_receiver(receiver: signals.Receiver) -> None:
    with pytest.raises(ValueError, match=r"SIGUSR1, SIGRTMIN\+1: another Receiver"):
        signals.Receiver(RT + 1, signal.SIGUSR1, signal.SIGUSR2)
    with signals.Receiver(RT + 2) as other:
        assert other.signals == {RT + 2}
        signals.sigqueue(os.getpid(), RT + 2, 5)
        assert other.get(PATIENCE).value == 5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGFPE])
def test_what_cannot_be_received_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=signal.Signals(number).name):
        signals.Receiver(number)
    with pytest.raises(ValueError, match="no signal is given"):
        signals.Receiver()


def test_ctrl_c_ends_the_wait(spawn: Start) -> None:
    peer = spawn(
        """
        import signal
        from isthmus import signals
        with signals.Receiver(signal.SIGRTMIN) as receiver:
            print("ready", flush=True)
            try:
                receiver.get()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        """
    )
    peer.expect("ready")
    wait_until(lambda: process_state(peer.pid) == "S", "it to sleep")
    peer.interrupt()
    peer.expect("interrupted")


# --------------------------------------------------------------------------------------------- threads


def test_threads_that_were_there_before_do_not_take_signals() -> None:
    go = threading.Event()
    threads = [threading.Thread(target=go.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert not ALL & blocked_in_all_threads()
    try:
        with signals.Receiver(*ALL) as receiver:
            assert blocked_in_all_threads() >= ALL
            queue(*range(2000))
            assert values(receiver, 2000) == list(range(2000))
            later = threading.Thread(target=go.wait)  # and later ones inherit it
            later.start()
            assert blocked_in_all_threads() >= ALL
        assert not ALL & blocked("self", os.getpid())
    finally:
        go.set()
        for thread in [*threads, later]:
            thread.join()


def test_a_thread_that_unblocks_them_loses_none() -> None:
    """As libraries do whose threads set a mask of their own."""
    got: list[int | None] = []
    with signals.Receiver(RT) as receiver:
        for first in range(0, 500, 100):
            queue(*range(first, first + 50))
            thread = threading.Thread(target=signal.pthread_sigmask, args=(signal.SIG_UNBLOCK, [RT]))
            thread.start()
            thread.join()
            queue(*range(first + 50, first + 100))
            got += values(receiver, 100)
    assert got == list(range(500))


def test_opened_and_closed_in_another_thread(spawn: Start) -> None:
    peer = spawn(
        """
        import os, signal, sys, threading, time
        from isthmus import signals

        def work():
            with signals.Receiver(signal.SIGTERM) as receiver:
                print("ready", flush=True)
                print(receiver.get(30).name, flush=True)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        for _ in range(100):  # the main thread takes it again, as soon as it runs Python code
            if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
                print("unblocked", flush=True)
                break
            time.sleep(0.01)
        sys.stdin.read()
        """
    )
    peer.expect("ready")
    signals.send(peer.process, signal.SIGTERM)
    peer.expect("SIGTERM")
    peer.expect("unblocked")
    assert signals.terminate(peer.process) == (-signal.SIGTERM, False)


def test_handlers_are_not_called_meanwhile_and_are_afterwards(spawn: Start) -> None:
    spawn(
        """
        import os, signal
        from isthmus import signals
        calls = []
        signal.signal(signal.SIGUSR1, lambda *args: calls.append(args[0]))
        with signals.Receiver(signal.SIGUSR1) as receiver:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert receiver.get(30).signal == signal.SIGUSR1
            assert calls == []
        os.kill(os.getpid(), signal.SIGUSR1)
        assert calls == [signal.SIGUSR1]
        with signals.Receiver(signal.SIGUSR1):  # a handler that is installed meanwhile stays
            signal.signal(signal.SIGUSR1, lambda *args: calls.append("new"))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert calls == [signal.SIGUSR1, "new"]
        """
    ).finish()


# --------------------------------------------------------------------------------------------- children


def test_a_forked_child_has_the_mask_and_the_handlers_from_before(spawn: Start) -> None:
    out = spawn(
        """
        import os, signal, sys, warnings
        from isthmus import ClosedError, signals
        receiver = signals.Receiver(signal.SIGTERM, signal.SIGRTMIN)
        os.kill(os.getpid(), signal.SIGRTMIN)
        for inside in (False, True):
            if inside:
                context = signals.children()
                context.__enter__()
            pid = os.fork()
            if pid == 0:
                assert not {signal.SIGTERM, signal.SIGRTMIN} & signal.pthread_sigmask(signal.SIG_BLOCK, [])
                assert receiver.closed
                try:
                    receiver.get(0)
                except ClosedError:
                    pass
                receiver.close()
                with signals.Receiver(signal.SIGRTMIN) as own:  # nothing is in the way of one of its own
                    signals.sigqueue(os.getpid(), signal.SIGRTMIN, 3)
                    assert own.get(30).value == 3
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            if inside:
                context.__exit__(None, None, None)
        assert receiver.get(0).signal == signal.SIGRTMIN
        """
    ).finish()
    assert out.split() == ["-15", "-15"]


def test_a_started_program_inherits_the_mask_unless_told_otherwise(receiver: signals.Receiver) -> None:
    command = ["grep", "SigBlk", "/proc/self/status"]
    inherited = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]
    with signals.children():
        given = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]
    assert int(inherited, 16) >> (RT - 1) & 1
    assert not int(given, 16) >> (RT - 1) & 1
    assert blocked("self", os.getpid()) >= receiver.signals


@pytest.mark.parametrize("method", START_METHODS)
def test_children_of_multiprocessing(method: str, receiver: signals.Receiver) -> None:
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    with signals.children():  # forked ones would not need it
        process = context.Process(target=report_blocked, args=(theirs,))
        process.start()
    assert not receiver.signals & ours.recv()
    process.join()
    ours.close()
    theirs.close()


def test_signals_that_come_while_children_are_started_keep_their_order(program: Program) -> None:
    go = threading.Event()
    other = threading.Thread(target=go.wait)
    other.start()
    with signals.Receiver(RT, signal.SIGUSR1) as receiver:
        queue(*range(100))
        program.send(f"queue {os.getpid()} {RT} 100 3000")
        started = 0
        while started < 20:
            with signals.children():
                subprocess.run(["true"], check=True)
            started += 1
        assert program.line().startswith("queued 3000")
        with signals.children(), signals.children():
            queue(3100)
        queue(3101)
        assert values(receiver, 3102) == list(range(3102))
        with pytest.raises(isthmus.Empty):
            receiver.get(0)
    go.set()
    other.join()


def test_a_child_that_was_started_so_can_be_terminated() -> None:
    with signals.Receiver(signal.SIGHUP) as receiver:
        with signals.children():
            process = subprocess.Popen(["sleep", "1000"])
        signals.send(process, signal.SIGHUP)
        assert process.wait(PATIENCE) == -signal.SIGHUP
        assert receiver.signals == {signal.SIGHUP}


def test_descriptors_do_not_grow_and_are_not_inherited() -> None:
    def use() -> None:
        with signals.Receiver(RT):
            with signals.children():
                pass

    use()
    gc.collect()  # what earlier tests have left
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    for _ in range(20):
        use()
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before
    with signals.Receiver(RT):
        code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.count("'") // 2 == 4  # three streams, and the folder itself


# --------------------------------------------------------------------------------------------- death


def test_killed_receivers_and_full_queues(program: Program) -> None:
    """What a killed process had pending is gone, and its sender hears of it."""
    code = """
        import signal, sys
        from isthmus import signals
        receiver = signals.Receiver(signal.SIGRTMIN)
        print("ready", flush=True)
        sys.stdin.read()
        """
    peer = Peer(code)
    peer.expect("ready")
    queue(*range(100), to=peer.pid)
    peer.kill()
    answer = ask(program, "queue", peer.pid, RT, 0, 1)
    assert answer == "error 3 after 0"  # ESRCH


def test_a_stopped_receiver_loses_nothing() -> None:
    code = """
        import signal
        from isthmus import signals
        with signals.Receiver(signal.SIGRTMIN) as receiver:
            print("ready", flush=True)
            values = [receiver.get(30).value for _ in range(1000)]
            assert values == list(range(1000)), values
        """
    peer = Peer(code)
    try:
        peer.expect("ready")
        queue(*range(300), to=peer.pid)
        signals.stop(peer.process)
        queue(*range(300, 700), to=peer.pid)
        signals.resume(peer.process)
        queue(*range(700, 1000), to=peer.pid)
        peer.finish()
    finally:
        peer.reap()


def test_a_process_with_threads_of_libraries() -> None:
    """Numpy's threads are there before isthmus, and take every signal."""
    run_python(
        """
        import numpy, os, signal
        numpy.ones((300, 300)) @ numpy.ones((300, 300))
        from isthmus import signals
        with signals.Receiver(signal.SIGRTMIN, signal.SIGTERM) as receiver:
            with signals.ProcessHandle(os.getpid()) as handle:
                for number in range(2000):
                    handle.sigqueue(signal.SIGRTMIN, number)
            assert [receiver.get(0).value for _ in range(2000)] == list(range(2000))
            os.kill(os.getpid(), signal.SIGTERM)
            assert receiver.get(0).name == "SIGTERM"
        """
    )

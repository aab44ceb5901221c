"""`signals.block`: signals wait, in any thread; what threads and children inherit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from isthmus import signals
from signallers import blocked
from support import Peer, wait_until

Start = Callable[..., Peer]
SIGNAL = signal.SIGUSR1


@pytest.fixture
def calls() -> Iterator[list[int]]:
    """Calls of a Python handler for the signal."""
    made: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        made.append(number)

    before = [
        (number, signal.signal(number, handler)) for number in (SIGNAL, signal.SIGUSR2, signal.SIGRTMIN)
    ]
    yield made
    for number, old in before:
        signal.signal(number, old)


def mask() -> set[int]:
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])}


def test_signals_wait_for_the_end_of_the_block(calls: list[int]) -> None:
    with signals.block(SIGNAL, signal.SIGUSR2) as scope:
        os.kill(os.getpid(), SIGNAL)
        os.kill(os.getpid(), SIGNAL)
        assert calls == []
        assert scope.pending() == {SIGNAL}
        assert {SIGNAL, signal.SIGUSR2} <= mask()
    assert calls == [SIGNAL]
    assert not {SIGNAL, signal.SIGUSR2} & mask()
    assert scope.pending() == set()


def test_they_wait_also_where_another_thread_takes_them(calls: list[int]) -> None:
    """By the mask alone they would come at once: the kernel gives them to the other thread."""
    go = threading.Event()
    other = threading.Thread(target=go.wait)
    other.start()
    try:
        with signals.block(SIGNAL, signal.SIGRTMIN) as scope:
            os.kill(os.getpid(), SIGNAL)
            for number in range(20):
                signals.sigqueue(os.getpid(), signal.SIGRTMIN, number)
            wait_until(lambda: scope.pending() == {SIGNAL, signal.SIGRTMIN}, "the signals to be noted")
            assert calls == []
        wait_until(lambda: SIGNAL in calls and signal.SIGRTMIN in calls, "the signals to come")
        assert calls.count(SIGNAL) == 1
        assert not {SIGNAL, signal.SIGRTMIN} & blocked("self", other.native_id)  # its mask was left alone
    finally:
        go.set()
        other.join()


def test_senders_and_numbers_are_kept_for_a_receiver(calls: list[int]) -> None:
    go = threading.Event()
    other = threading.Thread(target=go.wait)
    other.start()
    try:
        with signals.block(signal.SIGRTMIN):
            for number in range(100):
                signals.sigqueue(os.getpid(), signal.SIGRTMIN, number)
            with signals.Receiver(signal.SIGRTMIN) as receiver:
                for number in range(100, 200):
                    signals.sigqueue(os.getpid(), signal.SIGRTMIN, number)
                got = [receiver.get(30) for _ in range(200)]
        assert sorted(info.value for info in got if info.value is not None) == list(range(200))
        assert {info.pid for info in got} == {os.getpid()}
    finally:
        go.set()
        other.join()
    assert calls == []


def test_blocks_can_be_nested_and_left_by_an_exception(calls: list[int]) -> None:
    with signals.block(SIGNAL):
        with contextlib.suppress(LookupError), signals.block(SIGNAL, signal.SIGUSR2):
            os.kill(os.getpid(), SIGNAL)
            os.kill(os.getpid(), signal.SIGUSR2)
            raise LookupError
        assert calls == [signal.SIGUSR2]
    assert calls == [signal.SIGUSR2, SIGNAL]


def test_two_threads_block_the_same(calls: list[int]) -> None:
    inside, leave, left = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with signals.block(SIGNAL):
            inside.set()
            leave.wait()
        left.set()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    with signals.block(SIGNAL):
        os.kill(os.getpid(), SIGNAL)
        leave.set()
        left.wait()
        thread.join()
        assert calls == []
    assert calls == [SIGNAL]


def test_misuse_is_said() -> None:
    scope = signals.block(SIGNAL)
    with scope, pytest.raises(RuntimeError, match="entered already"), scope:
        pass
    said: list[str] = []

    def leave() -> None:
        try:
            scope.__exit__(None, None, None)
        except RuntimeError as error:
            said.append(str(error))

    scope = signals.block(SIGNAL)
    with scope:
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    assert "left by the thread that entered it" in said[0]
    with pytest.raises(ValueError, match="SIGKILL cannot be blocked"):
        signals.block(signal.SIGKILL)
    assert repr(scope) == "<isthmus.signals.block of SIGUSR1>"


def test_threads_inherit_the_mask_unless_told_otherwise() -> None:
    masks: list[set[int]] = []
    with signals.block(SIGNAL) as scope:
        for target in (lambda: masks.append(mask()), scope.outside(lambda: masks.append(mask()))):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert scope.outside(lambda a, b: (a, b))(1, b=2) == (1, 2)
        assert SIGNAL in mask()
    assert [SIGNAL in found for found in masks] == [True, False]


def test_what_children_get(calls: list[int]) -> None:
    command = ["grep", "SigBlk", "/proc/self/status"]

    def inherited() -> bool:
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return bool(int(out.split()[1], 16) >> (SIGNAL - 1) & 1)

    with signals.block(SIGNAL) as scope:
        assert inherited()
        with signals.children():
            assert not inherited()
            os.kill(
                os.getpid(), SIGNAL
            )  # comes to this thread, which has it unblocked now, and waits all the same
        assert scope.pending() == {SIGNAL}
        assert calls == []
    assert calls == [SIGNAL]


def test_a_forked_child_blocks_nothing(spawn: Start) -> None:
    out = spawn(
        """
        import os, signal
        from isthmus import signals
        with signals.block(signal.SIGTERM):
            pid = os.fork()
            if pid == 0:
                print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            pid = os.fork()
            if pid:
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        if pid == 0:  # left the block as well
            print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
            os._exit(3)
        """
    ).finish()
    assert out.split() == ["False", "-15", "False", "3"]


def test_ctrl_c_waits_for_the_end(spawn: Start) -> None:
    peer = spawn(
        """
        import signal, sys, time
        from isthmus import signals
        try:
            with signals.block(signal.SIGINT, signal.SIGTERM) as scope:
                print("ready", flush=True)
                sys.stdin.readline()
                print(sorted(scope.pending()), flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    peer.expect("ready")
    peer.interrupt()
    peer.send()
    peer.expect("[2]")
    peer.expect("interrupted")

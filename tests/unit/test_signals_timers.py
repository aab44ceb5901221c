"""`signals.Timer` and `signals.Alarm`: several at once, nothing lost, nothing left behind."""

from __future__ import annotations

import gc
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import signals
from support import PATIENCE, Peer, wait_until

RT = int(signal.SIGRTMIN)
Start = Callable[..., Peer]


def test_it_runs_out_once() -> None:
    with signals.Timer(1000) as timer:
        assert 900 < timer.remaining() <= 1000
        with pytest.raises(isthmus.Empty):
            timer.get(0)
        began = time.monotonic()
        timer.set(0.05)
        assert timer.remaining() <= 0.05
        assert timer.get(PATIENCE) == 1
        assert time.monotonic() - began >= 0.05
        assert timer.remaining() == 0
        with pytest.raises(isthmus.Empty):
            timer.get(0.01)
        assert list(timer) == []
        timer.set(0.001)
        assert list(timer) == [1]


def test_an_interval_counts_what_was_missed_and_does_not_drift() -> None:
    times = 0
    before = time.monotonic()
    with signals.Timer(0.01, 0.01) as timer:
        began = time.monotonic()
        for _ in range(10):
            time.sleep(0.015)  # each time too late for one
            asked = time.monotonic()
            times += timer.get(PATIENCE)
            assert (asked - began) / 0.01 - 1 <= times <= (time.monotonic() - before) / 0.01
        assert times > 10
        timer.cancel()
        assert timer.remaining() == 0


def test_it_can_be_set_anew_and_polled() -> None:
    with signals.Timer(1000) as timer, signals.Timer(0.02) as other:
        assert select.select([timer, other], [], [], PATIENCE)[0] == [other]
        assert timer.remaining() > 900
        timer.set(0.001, 1000)
        assert timer.get(PATIENCE) == 1
        assert timer.remaining() > 900
        assert "in 9" in repr(timer) or "in 1000" in repr(timer)


def test_many_at_once() -> None:
    timers = [signals.Timer(0.001 * number, 1000) for number in range(1, 101)]
    assert [timer.get(PATIENCE) for timer in timers] == [1] * 100
    for timer in timers:
        timer.close()


def test_closing_wakes_who_waits() -> None:
    timer = signals.Timer(1000)
    said: list[BaseException] = []

    def wait() -> None:
        try:
            timer.get()
        except BaseException as error:
            said.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    timer.close()
    timer.close()
    thread.join(PATIENCE)
    assert [type(error) for error in said] == [isthmus.ClosedError]
    assert timer.closed
    calls: list[Callable[[], Any]] = [
        timer.get,
        timer.fileno,
        timer.remaining,
        timer.cancel,
        lambda: timer.set(1),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert repr(timer) == "<isthmus.signals.Timer (closed)>"


@pytest.mark.parametrize("kind", [signals.Timer, signals.Alarm])
@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_what_is_no_time_is_refused(kind: Any, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"after is {seconds}: it takes seconds, more than 0"):
        kind(seconds)
    with pytest.raises(ValueError, match=f"interval is {seconds}: it takes seconds, more than 0"):
        kind(1, seconds)


def test_far_away_is_far_away() -> None:
    for seconds in (1e9, 1e300, float("inf")):
        with signals.Timer(seconds) as timer:
            assert timer.remaining() > 1e8
        with signals.Alarm(seconds, signal=RT) as alarm:
            assert alarm.remaining() > 1e8


# --------------------------------------------------------------------------------------------- alarms


def test_several_alarms_with_numbers() -> None:
    with signals.Receiver(RT) as receiver:
        alarms = [signals.Alarm(0.01 * (4 - number), signal=RT, value=number) for number in range(4)]
        got = [receiver.get(PATIENCE) for _ in range(4)]
        assert sorted(info.value for info in got if info.value is not None) == [0, 1, 2, 3]
        assert {(info.cause, info.pid, info.name) for info in got} == {("timer", 0, "SIGRTMIN")}
        assert [alarm.remaining() for alarm in alarms] == [0] * 4
        alarms[0].set(0.001)
        assert receiver.get(PATIENCE).value == 0
        alarms[1].set(1000)
        assert alarms[1].remaining() > 900
        alarms[1].cancel()
        assert alarms[1].remaining() == 0
        for alarm in alarms:
            alarm.close()
            alarm.close()
        assert "(closed)" in repr(alarms[0])
        for call in (alarms[0].cancel, alarms[0].remaining):
            with pytest.raises(isthmus.ClosedError):
                call()


def test_an_alarm_says_how_often_it_ran_out() -> None:
    with signals.Receiver(RT) as receiver, signals.Alarm(0.005, 0.005, signal=RT, value=-3) as alarm:
        time.sleep(0.1)
        first = receiver.get(PATIENCE)
        assert first.value == -3
        assert first.overrun >= 10  # one signal under way at most, and the count of the others
        assert "SIGRTMIN (in" in repr(alarm)


def test_an_alarm_is_a_signal_like_any_other(spawn: Start) -> None:
    spawn(
        """
        import signal, time
        from isthmus import signals
        calls = []
        signal.signal(signal.SIGALRM, lambda *args: calls.append(time.monotonic()))
        for number in (1, 2):  # one after the other: of two that wait at once Python hears once
            began = time.monotonic()
            alarm = signals.Alarm(0.02)
            while len(calls) < number:
                time.sleep(0.001)
            assert calls[-1] - began >= 0.02
        """
    ).finish()
    code, _, _ = spawn(
        "import time; from isthmus import signals; a = signals.Alarm(0.01); time.sleep(99)"
    ).end()
    assert code == -signal.SIGALRM


def test_a_child_has_no_alarms(spawn: Start) -> None:
    spawn(
        """
        import os, signal
        from isthmus import ClosedError, signals
        with signals.Receiver(signal.SIGRTMIN) as receiver:
            alarm = signals.Alarm(0.05, signal=signal.SIGRTMIN, value=1)
            pid = os.fork()
            if pid == 0:
                assert alarm.closed
                own = signals.Alarm(1000, signal=signal.SIGRTMIN)  # may have the number of the parent's
                alarm.close()
                assert own.remaining() > 900
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert receiver.get(30).value == 1
        """
    ).finish()


def test_the_limit_is_named(spawn: Start) -> None:
    out = spawn(
        """
        import resource, signal
        from isthmus import Full, signals
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
        try:
            signals.Alarm(1000)
        except Full as error:
            print(error)
        """
    ).finish()
    assert "RLIMIT_SIGPENDING (ulimit -i) is reached" in out
    assert "of 0 signals and alarms" in out


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(OverflowError, match="a signal carries a C int"):
        signals.Alarm(1, value=2**31)
    with pytest.raises(ValueError, match="SIGKILL"):
        signals.Alarm(1, signal=signal.SIGKILL)


def test_nothing_is_left_behind() -> None:
    def use() -> None:
        signals.Timer(1000)
        signals.Alarm(1000, signal=RT)

    use()
    gc.collect()  # what earlier tests have left
    before = len(list(Path("/proc/self/fd").iterdir()))
    timers = Path("/proc/self/timers")
    for _ in range(50):
        use()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    if timers.exists():
        assert f"signal: {RT}/" not in timers.read_text()


def test_ctrl_c_ends_the_wait(spawn: Start) -> None:
    peer = spawn(
        """
        from isthmus import signals
        with signals.Timer(1000) as timer:
            print("ready", flush=True)
            try:
                timer.get()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        """
    )
    peer.expect("ready")
    time.sleep(0.05)
    peer.interrupt()
    peer.expect("interrupted")
    wait_until(lambda: peer.process.poll() == 0, "its end")

"""`Timer` is waited for, `Alarm` sends a signal; any number of each. timerfd_create(2), timer_create(2)."""

import os
import signal as _signal
from typing import Self

from isthmus import _core
from isthmus._errors import ClosedError, Empty, Full
from isthmus._stopping import await_readable, deadline, is_readable

from ._info import catchable, name_of, payload

__all__ = ["Alarm", "Timer"]


class _Clock:
    """What a timer and an alarm have in common: a setting, and an end."""

    def set(self, after: float, interval: float | None = None) -> None:
        """Runs out in `after` seconds, with `interval` again every so many; the setting before is gone."""
        self._set(_length("after", after), 0.0 if interval is None else _length("interval", interval))

    def cancel(self) -> None:
        """Runs out no more, until it is set again."""
        self._set(0.0, 0.0)

    def _set(self, after: float, interval: float) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Gives the timer back."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Timer(_Clock):
    """Runs out after `after` seconds, and with `interval` again every so many: `for times in Timer(1, 1):`.

    It uses no signal, and does not drift: it runs out at `after + n × interval`, however late it is read, and
    `get` says how often it ran out since the last time. `fileno()` can be watched by any event loop. It
    stands on CLOCK_MONOTONIC: setting the date does not touch it, and it stands still in suspend. A forked
    child shares it with its parent: each time goes to one of them.
    """

    def __init__(self, after: float, interval: float | None = None) -> None:
        self._fd = -1
        after, interval = _length("after", after), 0.0 if interval is None else _length("interval", interval)
        self._fd = _core.timer_descriptor()
        self._interval = 0.0
        self._set(after, interval)

    def get(self, timeout: float | None = None) -> int:
        """Waits until it has run out: how often it has, since the last time. `Empty` after `timeout` seconds.

        A timer that is not set never runs out. `ShutDown` when `graceful_shutdown` asks this process to end.
        """
        end = deadline(timeout)
        while True:
            if times := self._take():
                return times
            if not await_readable(self.fileno(), end):
                raise Empty(f"the timer has not run out in {timeout:g} s")

    def _take(self) -> int:
        """How often it has run out; 0 for not yet."""
        try:
            return int.from_bytes(os.read(self.fileno(), 8), "little")
        except BlockingIOError:
            return 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        """As `get`; the end for a timer that will not run out any more."""
        if self.is_over():
            raise StopIteration
        return self.get()

    def is_over(self) -> bool:
        """True for a timer that has nothing to tell, and will not run out unless it is set again."""
        # In this order: it may run out between the two looks.
        return not self.remaining() and not is_readable(self.fileno())

    def remaining(self) -> float:
        """Seconds until it runs out next; 0 for one that is not set."""
        return _core.timer_left_descriptor(self.fileno())

    def fileno(self) -> int:
        """A descriptor that is readable once it has run out."""
        if self._fd < 0:
            raise ClosedError("this timer is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._fd < 0

    def close(self) -> None:
        """Ends the timer."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # A thread that waits for it would not notice that it is closed: it runs out once more.
            _core.timer_set_descriptor(fd, 1e-9, 0.0)
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<isthmus.signals.Timer {_state(self)}>"

    def _set(self, after: float, interval: float) -> None:
        _core.timer_set_descriptor(self.fileno(), after, interval)


class Alarm(_Clock):
    """Sends a signal to this process after `after` seconds, and with `interval` again every so many.

    Unlike `signal.alarm` there may be many, each with a `signal` (SIGALRM) and a `value` that a
    `Receiver` gets with it; `overrun` of what it gets says how many times more it ran out meanwhile, since an
    alarm has at most one signal under way. A signal that nobody receives or handles ends the process, as
    every SIGALRM does. Each alarm takes one of the signals that may be queued: `Full` names that limit.

    A forked child has none of its parent's alarms.
    """

    def __init__(
        self, after: float, interval: float | None = None, *, signal: int = _signal.SIGALRM, value: int = 0
    ) -> None:
        self._timer: int | None = None
        (number,) = catchable([signal])
        value = payload(value)
        after, interval = _length("after", after), 0.0 if interval is None else _length("interval", interval)
        try:
            self._timer = _core.timer_create(number, value)
        except BlockingIOError:
            used, limit = _queued()
            raise Full(
                f"no alarm can be made: {used} of {limit} signals and alarms are in use by this user; "
                "RLIMIT_SIGPENDING (ulimit -i) is reached"
            ) from None
        self._pid = os.getpid()
        self._signal = number
        self._set(after, interval)

    def remaining(self) -> float:
        """Seconds until it sends its signal; 0 for one that is not set."""
        return _core.timer_left(self._check())

    @property
    def closed(self) -> bool:
        """True after `close()`, and in a forked child."""
        return self._timer is None or os.getpid() != self._pid

    def close(self) -> None:
        """Ends the alarm; a signal that it has sent stays sent."""
        # In a forked child the number may be that of an alarm of its own.
        if not self.closed and self._timer is not None:
            _core.timer_delete(self._timer)
        self._timer = None

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        what = name_of(self._signal)
        return f"<isthmus.signals.Alarm {what} {_state(self)}>"

    def _check(self) -> int:
        if self.closed or self._timer is None:
            raise ClosedError("this alarm is closed")
        return self._timer

    def _set(self, after: float, interval: float) -> None:
        _core.timer_set(self._check(), after, interval)


def _state(clock: Timer | Alarm) -> str:
    return "(closed)" if clock.closed else f"(in {left:g} s)" if (left := clock.remaining()) else "(not set)"


def _length(name: str, seconds: float) -> float:
    if not seconds > 0:
        raise ValueError(f"{name} is {seconds}: it takes seconds, more than 0")
    return float(seconds)


def _queued() -> tuple[int, int]:
    with open("/proc/self/status") as status:  # noqa: PTH123 - no pathlib for one line
        used, _, limit = status.read().split("SigQ:")[1].split()[0].partition("/")
    return int(used), int(limit)

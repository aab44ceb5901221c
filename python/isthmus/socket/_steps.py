"""Opening a connection in steps, so that threads, event loops and listeners share the code.

What is to be done is a generator. It never waits: it yields a `Need`, and whoever drives it sends True when
the descriptor is ready, or False after the seconds of the need. Threads drive one (`run`), a listener
drives one a client by its epoll, and event loops have their own driver.
"""

import random
import select
import time
from collections.abc import Generator, Iterator
from math import ceil
from typing import NamedTuple, TypeAlias, TypeVar

from isthmus import _stopping
from isthmus._errors import Timeout

__all__ = [
    "WAITS",
    "Backoff",
    "Need",
    "Steps",
    "check_timeout",
    "deadline_of",
    "left",
    "may_sleep",
    "run",
    "wait",
    "wait_for_work",
]

R = TypeVar("R")

WAITS = (True,)
"""The first argument of `Lock.acquire`, for the one way to take a lock with a timeout into which no signal
handler that raises can come: `for held in map(lock.acquire, WAITS, (seconds,)): break`, inside the `try` that
gives it back (`_receive` says why)."""


class Need(NamedTuple):
    """What has to happen before the next step."""

    fd: int
    """The descriptor; -1 when only time has to pass."""
    events: int
    """POLLIN or POLLOUT."""
    seconds: float | None = None
    """After this the step is taken anyway."""


Steps: TypeAlias = Generator[Need, bool, R]


def check_timeout(timeout: float | None) -> None:
    """Refuses what is no timeout."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is {timeout}: it takes seconds from 0 (tries) upwards, or None (waits)")


def deadline_of(timeout: float | None) -> float | None:
    """The moment at which a timeout ends, None for never."""
    check_timeout(timeout)
    return None if timeout is None else time.monotonic() + timeout


def left(deadline: float | None) -> float | None:
    """Seconds until a deadline, 0.0 when it is over."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def wait(fd: int, events: int, seconds: float | None) -> bool:
    """Waits until `fd` is ready; False after `seconds`. Interrupted by signals as Python's own waits are."""
    if fd < 0:
        time.sleep(seconds or 0.0)
        return False
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(None if seconds is None else ceil(seconds * 1000)))


def may_sleep(timeout: float | None) -> bool:
    """Whether a call that receives may sleep in the kernel: nothing but what it waits for is to end it."""
    return timeout is None and _stopping.bell is None


def wait_for_work(fd: int, events: int, seconds: float | None) -> bool:
    """As `wait`, for what others send; `ShutDown` when this process is asked to end, and nothing is there."""
    if fd < 0 or _stopping.bell is None:
        return wait(fd, events, seconds)
    return _stopping.await_readable(fd, _stopping.deadline(seconds), events=events)


def run(steps: Steps[R], timeout: float | None, deadline: float | None, doing: str) -> R:
    """Takes the steps in this thread; `Timeout` when they are not done in time."""
    ready = None
    try:
        while True:
            need = next(steps) if ready is None else steps.send(ready)
            rest = left(deadline)
            if rest is not None and (need.seconds is None or rest < need.seconds):
                if not wait(need.fd, need.events, rest):
                    raise Timeout(f"{doing}: not done in {timeout:g} s")
                ready = True
            else:
                ready = wait(need.fd, need.events, need.seconds)
    except StopIteration as done:
        result: R = done.value
        return result
    finally:
        steps.close()


class Backoff:
    """Pauses between attempts: each `factor` times the last, up to `most` seconds, and shortened at random.

    `jitter` is the part of each pause that chance may take away, so that clients of a server that came back
    do not all knock at the same moment: 0.0 to 1.0.
    """

    __slots__ = {
        "factor": "By how much each pause is longer than the one before.",
        "first": "Seconds of the first pause.",
        "jitter": "The part of a pause that chance may take away.",
        "most": "Seconds of the longest pause.",
    }

    def __init__(
        self, first: float = 0.05, *, factor: float = 2.0, most: float = 5.0, jitter: float = 0.5
    ) -> None:
        if not (first > 0 and factor >= 1 and most >= first and 0 <= jitter <= 1):
            raise ValueError(
                f"Backoff(first={first}, factor={factor}, most={most}, jitter={jitter}): first is above 0, "
                "factor at least 1, most at least first, jitter from 0 to 1"
            )
        self.first = first
        self.factor = factor
        self.most = most
        self.jitter = jitter

    def __repr__(self) -> str:
        return f"Backoff({self.first}, factor={self.factor}, most={self.most}, jitter={self.jitter})"

    def pauses(self) -> Iterator[float]:
        """Seconds to wait after the first failure, the second, and so on without end."""
        pause = self.first
        while True:
            yield pause * (1 - self.jitter * random.random())  # noqa: S311 - no secret
            pause = min(pause * self.factor, self.most)

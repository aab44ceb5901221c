"""Signal numbers and their names, and what is known of a signal that came."""

import signal as _signal
import struct
from collections.abc import Iterable, Iterator
from operator import index
from typing import NamedTuple

__all__ = ["SignalInfo", "catchable", "name_of", "number_of", "payload"]

RECORD = 128
"""Bytes of a signal as signalfd(2) gives it."""

_LAYOUT = struct.Struct("=IiiIIiIIIIiiQ")
_SI_QUEUE, _SI_TIMER, _SI_MESGQ = -1, -2, -3

_CAUSES = {
    0: "kill",
    0x80: "kernel",
    _SI_QUEUE: "queue",
    _SI_TIMER: "timer",
    _SI_MESGQ: "message queue",
    -4: "asynchronous I/O",
    -5: "readiness",
    -6: "thread",
}

_SYNCHRONOUS = {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL}
_UNCATCHABLE = {_signal.SIGKILL, _signal.SIGSTOP}
_VALID = frozenset(map(int, _signal.valid_signals()))  # making it takes 0.2 ms
_NAMED = {int(number): number for number in _signal.Signals}


class SignalInfo(NamedTuple):
    """A signal that came, and who sent it.

    `pid` and `uid` are filled in by the kernel for `kill`; with a payload the *sender* fills them in, as
    sigqueue(3) does, so they are a name and no proof. Both are 0 where the kernel kept nothing: it was out of
    room (RLIMIT_SIGPENDING) at a `kill`, or the sender is in another PID namespace.
    """

    signal: int
    """The number; a `signal.Signals` where it has a name of its own."""
    pid: int
    """The sender; for SIGCHLD the child."""
    uid: int
    """The sender's real user; for SIGCHLD the child's."""
    value: int | None
    """The payload, as C's `sival_int`; None where none came along."""
    pointer: int | None
    """The payload as C's `sival_ptr`: 64 bits, of which programs that send an `int` fill half."""
    code: int
    """`si_code`, sigaction(2)."""
    status: int
    """For SIGCHLD: the exit code or the signal."""
    overrun: int
    """For timers: how many times more it ran out before this was taken."""

    @property
    def name(self) -> str:
        """`SIGTERM`, `SIGRTMIN+3`."""
        return name_of(self.signal)

    @property
    def cause(self) -> str:
        """What sent it: `kill`, `queue`, `timer`, `kernel`, `thread` and others."""
        return _CAUSES.get(self.code, "kernel" if self.code > 0 else f"code {self.code}")


def name_of(number: int) -> str:
    """`SIGTERM`, `SIGRTMIN+3`: as kill(1) and the C library count."""
    first, last = int(_signal.SIGRTMIN), int(_signal.SIGRTMAX)
    if first < number < last:
        return f"SIGRTMIN+{number - first}"
    return _NAMED[number].name if number in _NAMED else f"signal {number}"


def payload(value: int) -> int:
    """What can go along with a signal; TypeError for what is no number, `OverflowError` beyond a C `int`."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"value is {value!r}: a signal carries a C int")
    if not -(2**31) <= (number := index(value)) < 2**31:
        raise OverflowError(f"value is {value}: a signal carries a C int, -2147483648 to 2147483647")
    return number


def number_of(number: int) -> int:
    """Refuses what is no signal that a process can send."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"signal is {number!r}: it takes a number, such as signal.SIGTERM")
    if number not in _VALID:
        first = int(_signal.SIGRTMIN)
        raise ValueError(
            f"signal is {number}: there are 1 to 31 and, with a queue, {first} (SIGRTMIN) to "
            f"{int(_signal.SIGRTMAX)} (SIGRTMAX)"
        )
    return int(number)


def catchable(numbers: Iterable[int]) -> frozenset[int]:
    """Refuses what cannot be blocked, or must not be."""
    found = frozenset(number_of(number) for number in numbers)
    if not found:
        raise ValueError("no signal is given")
    for number in sorted(found):
        if number in _UNCATCHABLE:
            raise ValueError(f"{name_of(number)} cannot be blocked or received: the kernel acts on it itself")
        if number in _SYNCHRONOUS:
            raise ValueError(
                f"{name_of(number)} comes from what the program itself does: blocked, it ends the process"
            )
    return found


def parse(records: bytes) -> Iterator[SignalInfo]:
    """What signalfd(2) gave; a record that is cut off is left out."""
    for at in range(0, len(records) - RECORD + 1, RECORD):
        number, _, code, pid, uid, _, _, _, overrun, _, status, value, pointer = _LAYOUT.unpack_from(
            records, at
        )
        paid = code in (_SI_QUEUE, _SI_TIMER, _SI_MESGQ)
        yield SignalInfo(
            _NAMED.get(number, number), pid, uid, value if paid else None, pointer if paid else None, code,
            status if number == _signal.SIGCHLD else 0, overrun,
        )  # fmt: skip

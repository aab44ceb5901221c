"""The errors: one root, and each is also the builtin that a Python programmer would catch.

They are told apart by who caused them: this side waited (`Timeout`), closed (`ClosedError`) or asked for
what cannot be (`TooLarge`, `Unsupported`, `NotOwnerError`, `DeadlockError`); the other side finished
(`ShutDown`), died (`PeerDied`, `OwnerDied`), gave up (`Undelivered`), sent nonsense (`InvalidMessage`), was
never there (`Refused`, `Unreachable`) or did not prove who it is (`Denied`);
what is stored does not fit (`IncompatibleError`, `CorruptError`) or does not fit in (`NoSpaceError`). A
name that exists or does not, and missing permission, are the builtins `FileExistsError`,
`FileNotFoundError` and `PermissionError` themselves.

The native core raises these classes, so this module imports nothing of the package.
"""

import errno
import queue
import sys
import threading

__all__ = [
    "BrokenBarrierError",
    "BuriedError",
    "ClosedError",
    "CorruptError",
    "DeadlockError",
    "Denied",
    "Empty",
    "Full",
    "IncompatibleError",
    "InvalidMessage",
    "IsthmusError",
    "NoSpaceError",
    "NotOwnerError",
    "OwnerDied",
    "PeerDied",
    "Refused",
    "ShutDown",
    "StageFailed",
    "Timeout",
    "TooLarge",
    "Undelivered",
    "Unreachable",
    "Unsupported",
]

if sys.version_info >= (3, 13):
    _QueueShutDown = queue.ShutDown
else:

    class _QueueShutDown(Exception):
        """Stands in for `queue.ShutDown`, which Python has from 3.13 on."""


class IsthmusError(Exception):
    """Root of every error that isthmus defines."""


class Timeout(IsthmusError, TimeoutError):
    """Waiting took longer than the `timeout` given. Nothing was changed."""


class Empty(Timeout, queue.Empty):
    """No message came in time."""


class Full(Timeout, queue.Full):
    """No room came in time. `sent` says how many messages of the call went out before: 0 for `put`."""

    sent: int

    def __init__(self, message: str = "", *, sent: int = 0) -> None:
        super().__init__(message)
        self.sent = sent


class ClosedError(IsthmusError, ValueError):
    """This handle was closed by this process, as a closed file says with `ValueError`."""


class ShutDown(IsthmusError, EOFError, _QueueShutDown):
    """The other side finished: nothing more will come, or be taken.

    From Python 3.13 on it is also `queue.ShutDown`.
    """


class PeerDied(IsthmusError, ConnectionResetError):
    """The other side was killed, or cut off, before it finished; what it had sent was delivered.

    `pid` is its process id (0 when not known any more), `since` the time at which its death was noticed, in
    seconds since the epoch (0.0 when not known).
    """

    pid: int
    since: float

    def __init__(self, message: str = "", *, pid: int = 0, since: float = 0.0) -> None:
        super().__init__(message)
        self.errno = errno.ECONNRESET
        self.pid = pid
        self.since = since


class Refused(IsthmusError, ConnectionRefusedError):
    """Nobody listens at the address, or who listens takes no more; the text has it and says which."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.errno = errno.ECONNREFUSED


class Denied(IsthmusError, PermissionError):
    """A peer is not who it has to be: another user, a wrong key, no certificate; the text says which."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.errno = errno.EACCES


class Unreachable(IsthmusError, ConnectionError):
    """No such host, or no way there; the text has the address."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.errno = errno.EHOSTUNREACH


class OwnerDied(IsthmusError, RuntimeError):
    """A process was killed holding the lock; the lock is *not* held by the caller.

    What it protected may be half changed. `with mutex.recover():` takes the lock for repair. `pid` and
    `since` say who and when, as in `PeerDied`; `what` names the object.
    """

    pid: int
    since: float
    what: str

    def __init__(self, message: str = "", *, pid: int = 0, since: float = 0.0, what: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.since = since
        self.what = what


class BuriedError(IsthmusError, RuntimeError):
    """The other processes have proven this one dead and taken over what it held; it must not go on.

    It happens to a process that lost its lock on the registry and could not be seen in /proc by its peers.
    """


class NotOwnerError(IsthmusError, RuntimeError, ValueError):
    """A lock or a permit was released by somebody who does not hold it.

    A ValueError too, as of `threading`'s semaphores.
    """


class BrokenBarrierError(IsthmusError, threading.BrokenBarrierError):
    """One who waited at a barrier was killed, gave up or called `abort`, or it was `reset`."""


class DeadlockError(IsthmusError, RuntimeError):
    """Waiting would never end: the caller holds what it waits for, itself or through others.

    `cycle` has process id and lock of each wait in it, as far as there are others.
    """

    cycle: list[tuple[int, str]]

    def __init__(self, message: str = "", *, cycle: list[tuple[int, str]] | None = None) -> None:
        super().__init__(message)
        self.cycle = cycle or []


class TooLarge(IsthmusError, ValueError):
    """A message can never fit, however long one waits. `size` and `limit` are in bytes (0 when not known)."""

    size: int
    limit: int

    def __init__(self, message: str = "", *, size: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class InvalidMessage(IsthmusError, ValueError):
    """A message was taken that is not what the queue's type says; it is kept in `q.dead`.

    `number` counts the messages of its priority from 0, `sender` is the process id of who put it (None where
    that process is not known any more), `reason` says what is wrong and `data` is the message as it was.
    """

    number: int
    reason: str
    sender: int | None
    data: bytes

    def __init__(
        self,
        message: str = "",
        *,
        number: int = 0,
        reason: str = "",
        sender: int | None = None,
        data: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.number = number
        self.reason = reason
        self.sender = sender
        self.data = data


class Undelivered(IsthmusError, RuntimeError):
    """A message put with `until="done"` was given up: it is in `q.dead`, and `reason` says why."""

    reason: str

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class StageFailed(IsthmusError, RuntimeError):
    """A stage of a `pipeline` failed: a program did not exit with 0, or a function raised (the cause).

    `stage` counts from 1, `name` is the stage as it was written, `exit_code` as in `subprocess`: negative for
    a signal, 1 for a function.
    """

    stage: int
    name: str
    exit_code: int

    def __init__(self, message: str = "", *, stage: int = 0, name: str = "", exit_code: int = 0) -> None:
        super().__init__(message)
        self.stage = stage
        self.name = name
        self.exit_code = exit_code


class Unsupported(IsthmusError, NotImplementedError):
    """This mechanism does not have that; the text names the one that does, where there is one."""


class IncompatibleError(IsthmusError, ValueError):
    """The object has another attribute, layout version, kind or registry; the text names both sides."""


class CorruptError(IsthmusError, ValueError):
    """Shared memory or a connection holds something that no correct peer writes."""


class NoSpaceError(IsthmusError, OSError):
    """Memory cannot be reserved: the text names the limit, what was needed and left, and what to set.

    `errno` is ENOSPC.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


class WouldBlock(Exception):
    """A call that was asked not to wait would have to; what for is in `on`. Never seen by users."""

    def __init__(self, text: str, *, on: int = 0) -> None:
        super().__init__(text)
        self.on = on
        self.sent = 0

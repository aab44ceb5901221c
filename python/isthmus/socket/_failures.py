"""What to raise for an error of the kernel: different errors for different ends, each with the address."""

import errno
from typing import Any

from isthmus._errors import Denied, PeerDied, Refused, Timeout, Unreachable

__all__ = ["connecting", "talking"]

_UNREACHABLE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.EADDRNOTAVAIL,
}
_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN}


def connecting(problem: OSError, address: object) -> OSError:
    """What to raise when connecting to `address` failed."""
    code = problem.errno
    if code in {errno.ECONNREFUSED, errno.EPROTOTYPE}:
        return Refused(f"{address}: connection refused, nobody listens there")
    if code == errno.ENOENT:
        return FileNotFoundError(code, f"{address}: there is no such socket")
    if code in {errno.EACCES, errno.EPERM}:
        return Denied(f"{address}: no permission to connect to it")
    if code == errno.ETIMEDOUT:
        return Timeout(f"{address}: no answer (the kernel gave up)")
    if code in _UNREACHABLE:
        return Unreachable(f"{address}: cannot be reached ({problem.strerror})")
    if code in _GONE:
        return PeerDied(f"{address}: the connection was reset while it was opened")
    return OSError(code, f"{address}: {problem.strerror}")


def talking(problem: OSError, who: str, pid: int = 0) -> Exception:
    """What to raise when sending to or receiving from `who` failed."""
    code = problem.errno
    if code == errno.ECONNRESET:
        return PeerDied(f"{who} reset the connection", pid=pid)
    if code in _GONE:
        return PeerDied(f"{who} is gone: the connection is closed", pid=pid)
    if code == errno.ETIMEDOUT:
        return PeerDied(f"{who} stopped answering: the connection timed out", pid=pid)
    if code == errno.ECONNREFUSED:
        return Refused(f"{who}: nobody takes what is sent there")
    if code in _UNREACHABLE:
        return Unreachable(f"{who} cannot be reached any more ({problem.strerror})")
    return annotated(problem, who)


def annotated(problem: OSError, who: object) -> OSError:
    """The same error with who it is about in its text."""
    made: Any = type(problem)
    return (
        OSError(problem.errno, f"{who}: {problem.strerror}") if made is OSError else _same(made, problem, who)
    )


def _same(made: Any, problem: OSError, who: object) -> OSError:
    try:
        again: OSError = made(problem.errno, f"{who}: {problem.strerror}")
    except TypeError:
        return problem
    return again

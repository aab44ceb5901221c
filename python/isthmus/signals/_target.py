"""`ProcessHandle`: one process, whatever becomes of its number. See pidfd_open(2).

The number of a process that has ended and was collected is given to the next: who kills by number may hit
a stranger. A descriptor of the process (pidfd) never means another one.
"""

import contextlib
import errno
import os
import signal as _signal
import struct
from fcntl import ioctl
from pathlib import Path
from typing import Any, Protocol, Self

from isthmus import _core
from isthmus._errors import ClosedError, Full, Timeout, Unsupported
from isthmus._stopping import await_readable, deadline, is_readable, remaining

from ._info import name_of, number_of, payload

__all__ = ["ProcessHandle", "Target"]

_TO_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
_INFO = struct.Struct("=Q56x")  # struct pidfd_info: a mask first, the exit code in the last word of 64 bytes
_GET_INFO = 0xC040FF0B  # PIDFD_GET_INFO, Linux 6.13
_INFO_EXIT = 1 << 3  # Linux 6.15
_SERVER_TELLS = 5.0


class HasPid(Protocol):
    """What knows its process: `subprocess.Popen`, `multiprocessing.Process`, `psutil.Process` and others."""

    @property
    def pid(self) -> int | None:
        """The process id; None before it was started."""


Target = HasPid | int
"""A process: its number, or an object that stands for it."""


class ProcessHandle:
    """One process, held by a descriptor: calls reach it or none, never the next of its number.

    `target` is a `subprocess.Popen`, `multiprocessing.Process`, `asyncio.subprocess.Process`,
    `psutil.Process`, or a process id. The objects are asked whether they still mean the process that was
    found, so there is no race. A bare number can only be taken as it is *now*: make the handle while you know
    whose it is, and keep that. No such process (any more): `ProcessLookupError`. Linux 5.3.

    A handle may be used by any number of threads, and by forked children. `with` closes it.
    """

    __slots__ = ("_fd", "_pid", "_target")

    def __init__(self, target: Target) -> None:
        self._fd = -1
        self._target: Target = target._target if isinstance(target, ProcessHandle) else target
        if isinstance(target, ProcessHandle):
            self._pid = target.pid
            self._fd = os.dup(target.fileno())
            return
        self._pid = _pid_of(target)
        self._fd = _open(self._pid)
        if not isinstance(target, int) and _has_ended(target, self._fd):
            self.close()
            raise ProcessLookupError(errno.ESRCH, f"process {self._pid} has ended")

    @property
    def pid(self) -> int:
        """The process id, as of when the handle was made."""
        return self._pid

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._fd < 0

    @property
    def alive(self) -> bool:
        """False once the process has ended, collected by its parent or not; True for a stopped one."""
        return not is_readable(self.fileno())

    def fileno(self) -> int:
        """The descriptor: readable once the process has ended."""
        if self._fd < 0:
            raise ClosedError("this handle is closed")
        return self._fd

    def send(self, signal: int, *, group: bool = False) -> None:
        """Sends a signal; with `group` to the process group that the process leads (or led).

        `ProcessLookupError` once it has ended, `PermissionError` for another user's process. Real-time
        signals sent so can merge when the kernel has no room to queue them; `sigqueue` says so instead.
        """
        number = number_of(signal)
        self._check_alive(group)
        try:
            _signal.pidfd_send_signal(self.fileno(), number, None, _TO_GROUP if group else 0)
        except OSError as error:
            if group and error.errno == errno.EINVAL:  # before Linux 6.9
                os.killpg(self._pid, number)
                return
            raise self._worded(error, number, group) from None

    def sigqueue(
        self, signal: int, value: int = 0, *, timeout: float | None = 0.0, group: bool = False
    ) -> None:
        """Sends a signal with a number, a C `int`, as sigqueue does; beyond it is an `OverflowError`.

        Real-time signals (SIGRTMIN to SIGRTMAX) are queued, each with its number, in order; of another signal
        one at most is pending, and a second one is dropped with its number. When the receiver's limit of
        queued signals is reached (RLIMIT_SIGPENDING) it is tried again for `timeout` seconds (0: once;
        None: as long as the process lives), then it is `Full`, which names the limit. Otherwise as `send`.
        """
        number = number_of(signal)
        value = payload(value)
        end = deadline(timeout)
        pause = 0.0005
        while True:
            self._check_alive(group)
            try:
                _core.signal_queue(self.fileno(), number, value, group)
            except BlockingIOError:
                left = remaining(end)
                if left == 0:
                    raise Full(_no_room(self._pid, name_of(number))) from None
                # Nobody tells when there is room; the end of the process wakes this.
                await_readable(self._fd, deadline(pause if left is None else min(pause, left)), work=False)
                pause = min(pause * 2, 0.02)
            except OSError as error:
                if group and error.errno == errno.EINVAL:
                    raise Unsupported("a signal with a number to a process group needs Linux 6.9") from None
                raise self._worded(error, number, group) from None
            else:
                return

    def wait_for_exit(self, timeout: float | None = None) -> int | None:
        """Waits for the end of the process; see `isthmus.signals.wait_for_exit`."""
        if not await_readable(self.fileno(), deadline(timeout)):
            raise Timeout(f"process {self._pid} has not ended in {timeout:g} s")
        return self.status()

    def status(self) -> int | None:
        """How it ended: its exit code, or minus the signal; None while it lives or where nobody can tell.

        A child of this process stays a zombie for whoever waits for it; the object the handle was made of
        is told. For processes that are no children the kernel tells from Linux 6.15 on, once their parent
        has collected them.
        """
        return _status(self._target, self.fileno())

    def close(self) -> None:
        """Lets go of the descriptor. The process is not touched."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "alive" if self.alive else "ended"
        return f"<isthmus.signals.ProcessHandle {self._pid} ({state})>"

    def _check_alive(self, group: bool) -> None:
        # A zombie takes every signal and does nothing; a group may outlive its leader.
        if not group and not self.alive:
            raise ProcessLookupError(errno.ESRCH, f"process {self._pid} has ended")

    def _worded(self, error: OSError, number: int, group: bool) -> OSError:
        what = f"process group {self._pid}" if group else f"process {self._pid}"
        if isinstance(error, ProcessLookupError):
            return ProcessLookupError(errno.ESRCH, f"{what} has ended")
        if isinstance(error, PermissionError):
            return PermissionError(
                errno.EPERM, f"{name_of(number)} to {what}: it belongs to another user, kill(2)"
            )
        return error


def _pid_of(target: Target) -> int:
    pid = target if isinstance(target, int) else getattr(target, "pid", _NO_ANSWER)
    if pid is None:
        raise ValueError(f"{target!r} was not started: it has no process")
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"{target!r} is no process: it takes a process id or an object with one in .pid")
    if not 0 < pid < 2**31:
        raise ValueError(f"pid is {pid}: it takes 1 or more; process groups are reached with group=True")
    return pid


def _open(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from None
    except (OSError, AttributeError) as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOSYS
        if number == errno.ENOSYS:
            raise Unsupported("holding a process by a descriptor (pidfd_open) needs Linux 5.3") from None
        if number in (errno.EINVAL, errno.ENOENT):  # a thread, or the number of a group whose leader is gone
            raise ProcessLookupError(errno.ESRCH, f"{pid} is no process (any more)") from None
        raise


def _has_ended(target: HasPid, fd: int) -> bool:
    """Asked after the descriptor was opened: while the object says no, the number is still its own."""
    for question in ("poll", "is_running", "exitcode", "returncode"):
        answer: Any = getattr(target, question, _NO_ANSWER)
        if answer is _NO_ANSWER:
            continue
        if question == "is_running":  # psutil: compares the time at which the process began
            return not answer()
        if question == "returncode":  # asyncio: set a little after the process was collected
            return answer is not None or _wait(fd) is _NO_CHILD
        return (answer() if callable(answer) else answer) is not None
    return False


_NO_ANSWER = object()
_NO_CHILD = object()


def _wait(fd: int) -> object:
    """How a child ended, without collecting it; None while it lives."""
    try:
        found = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return _NO_CHILD
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _status(target: Target, fd: int) -> int | None:
    if not isinstance(target, int):
        sentinel = getattr(target, "sentinel", None)
        if isinstance(sentinel, int) and is_readable(fd):
            # multiprocessing: with forkserver it is the server's child, and the server tells, a moment later.
            await_readable(sentinel, deadline(_SERVER_TELLS), work=False)
        poll = getattr(target, "poll", None)
        for answer in (poll() if callable(poll) else None, getattr(target, "exitcode", None)):
            if isinstance(answer, int):
                return answer
    found = _wait(fd)
    if found is _NO_CHILD:
        found = getattr(target, "returncode", None)
    return found if isinstance(found, int) else _exit_code(fd)


def _exit_code(fd: int) -> int | None:
    """What the kernel remembers of a process that somebody else has collected."""
    asked = bytearray(_INFO.pack(_INFO_EXIT))
    try:
        ioctl(fd, _GET_INFO, asked)
    except OSError:  # older kernels, or not collected yet
        return None
    (mask,) = struct.unpack_from("=Q", asked)
    if not mask & _INFO_EXIT:
        return None
    (status,) = struct.unpack_from("=i", asked, 60)
    return os.waitstatus_to_exitcode(status)


def _no_room(pid: int, name: str) -> str:
    queued = ""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text()
        used, _, limit = status.split("SigQ:")[1].split()[0].partition("/")
        queued = f": {int(used)} of {int(limit)} are queued for its user"
    return (
        f"{name} cannot be queued for process {pid}{queued}; its RLIMIT_SIGPENDING (ulimit -i) is reached: "
        "it has to take some, or give timeout= to wait for that"
    )

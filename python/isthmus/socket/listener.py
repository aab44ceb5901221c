"""`Listener`: where streams come in. One slow, silent or hostile client keeps no other waiting.

Each connection that comes in has its opening (TLS, handshake) driven in steps beside all others, by one
epoll, while somebody waits in `accept`. An opening that is not done in `opening_timeout` seconds ends, and
where too many are under way the oldest ends. So an accept storm costs a bounded number of descriptors and a
few hundred bytes each.

Where the process has no descriptor left, the kernel would report the same connection for ever. One
descriptor is kept in reserve: it is given up, the connection is taken with it and told that the server is
busy, and it is opened again. Nobody waits in vain, and when descriptors are free again all goes on.
"""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Self, TypeVar, overload

from isthmus._errors import ClosedError, Denied, Empty, IncompatibleError, ShutDown, Unsupported

from . import _binding
from ._address import Address, of_socket, parse
from ._auth import Users
from ._opening import Opened, opening, tune
from ._protocol import ACCEPTED, BUSY, Refusal
from ._steps import WAITS, Steps, check_timeout, deadline_of, left, may_sleep, wait_for_work
from ._terms import Framing, Terms, terms_for
from .stream import Stream

if TYPE_CHECKING:
    import ssl
    from typing import TypedDict, Unpack

    class _Options(TypedDict, total=False):
        limit: int | None
        users: Users
        key: bytes | str | None
        tls: Any
        descriptors: int
        keepalive: float | None
        mode: int
        backlog: int
        reuse_port: bool
        opening_timeout: float
        most_opening: int


__all__ = ["Listener", "ListenerStats"]

T = TypeVar("T")

_AT_ONCE = 64
"""Connections accepted in a row before those in their opening have their turn."""
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PASSING = {errno.EAGAIN, errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ENETDOWN,
            errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOPROTOOPT,
            errno.EOPNOTSUPP}  # fmt: skip
"""Errors of accept(2) that are about one connection, which is gone."""
_PAUSE = 0.05
"""Seconds without accepting when not even the reserve helps."""
_FIRST_INHERITED = 3


class ListenerStats(NamedTuple):
    """What became of the connections of one listener, in this process."""

    accepted: int
    """Streams that were opened."""
    opening: int
    """Connections whose opening is under way."""
    denied: int
    """Ended because they did not prove who they are: user, key or certificate."""
    incompatible: int
    """Ended because they spoke something else: another type, no handshake, no TLS."""
    timed_out: int
    """Ended because their opening took too long, or too many were under way."""
    gone: int
    """Ended by the other side during the opening."""
    no_descriptors: int
    """Turned away because this process had no descriptor left."""


class _Pending:
    """A connection whose opening is under way."""

    __slots__ = ("deadline", "events", "sock", "steps")

    def __init__(self, sock: socket.socket, steps: Steps[Opened], deadline: float) -> None:
        self.sock = sock
        self.steps = steps
        self.deadline = deadline
        self.events = 0


class Listener(Generic[T]):
    """Takes connections at an address and gives a `Stream` for each: `accept()`, or iteration.

    Addresses are those of `Stream`; "tcp://*:5000" is every interface, IPv6 and IPv4, and port 0 takes a
    free one (`address` says which). At a path whose process is gone the listener takes its place; where one
    is alive it is an OSError (EADDRINUSE).

    `type`, `framing`, `limit`, `users`, `key`, `descriptors` and `keepalive` are as in `Stream`, for all of
    its streams; `tls` is a `Tls` with a certificate or an `ssl.SSLContext`. Besides:

    - `mode`: permissions of the file of a Unix socket (0o600, this user only). Who may not write to it cannot
      connect, so for other `users` give it as well. Others may not be able to come through the directory.
    - `backlog`: connections that wait in the kernel to be accepted (4096, or what the kernel allows at most).
    - `reuse_port`: several processes of one user may listen at the same TCP port; the kernel spreads
      connections.
    - `opening_timeout`: seconds that a client has for TLS and the handshake (10).
    - `most_opening`: clients that may be doing that at the same time (1024); one more, and the oldest ends.

    In a forked child the listener goes on working, so workers may share it: each connection goes to one of
    them.
    """

    @overload
    def __init__(
        self, address: str | os.PathLike[str], *, type: type[T], **options: "Unpack[_Options]"
    ) -> None: ...
    @overload
    def __init__(
        self: "Listener[str]",
        address: str | os.PathLike[str],
        *,
        framing: Literal["lines"],
        **options: "Unpack[_Options]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Listener[bytes]",
        address: str | os.PathLike[str],
        *,
        framing: Literal["raw"],
        **options: "Unpack[_Options]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Listener[Any]",
        address: str | os.PathLike[str],
        *,
        type: Any = None,
        framing: Framing = "messages",
        **options: "Unpack[_Options]",
    ) -> None: ...
    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        type: Any = None,
        framing: Framing = "messages",
        limit: int | None = None,
        users: Users = None,
        key: bytes | str | None = None,
        tls: Any = None,
        descriptors: int = 0,
        keepalive: float | None = 60.0,
        mode: int = 0o600,
        backlog: int = 4096,
        reuse_port: bool = False,
        opening_timeout: float = 10.0,
        most_opening: int = 1024,
    ) -> None:
        where = parse(address, "unix", "tcp")
        terms = _listening_terms(where, type, framing, limit, users, key, tls, descriptors, keepalive)
        if reuse_port and where.scheme == "unix":
            raise Unsupported(f"{where}: reuse_port is for tcp://; workers share a Unix listener by fork")
        _check_opening(opening_timeout, most_opening)
        socks, identity = _binding.bind(where, backlog, mode=mode, reuse_port=reuse_port)
        if where.scheme == "tcp":
            where = where._replace(port=socks[0].getsockname()[1])
        self._begin(where, terms, socks, identity, opening_timeout, most_opening)

    @classmethod
    def from_socket(
        cls,
        sock: socket.socket,
        *,
        type: Any = None,
        framing: Framing = "messages",
        limit: int | None = None,
        users: Users = None,
        key: bytes | str | None = None,
        tls: Any = None,
        descriptors: int = 0,
        keepalive: float | None = 60.0,
        opening_timeout: float = 10.0,
        most_opening: int = 1024,
    ) -> "Listener[Any]":
        """A listener of a socket that listens already, which it takes over; it becomes non-blocking.

        Closing it leaves the file of a Unix socket to whoever made it.
        """
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or sock.type != socket.SOCK_STREAM:
            raise ValueError(f"{sock!r} does not listen for streams")
        where = of_socket("unix" if sock.family == socket.AF_UNIX else "tcp", sock.getsockname())
        terms = _listening_terms(where, type, framing, limit, users, key, tls, descriptors, keepalive)
        _check_opening(opening_timeout, most_opening)
        listener = cls.__new__(cls)
        listener._begin(where, terms, [sock], None, opening_timeout, most_opening)
        return listener

    @classmethod
    def inherited(cls, which: int | str = 0, **options: Any) -> "Listener[Any]":
        """The listener that systemd (or who starts programs like it) has opened for this process.

        `which` is its number from 0, or its name (`FileDescriptorName=`). `options` are those of
        `from_socket`. LookupError where there is none. See sd_listen_fds(3).
        """
        return cls.from_socket(socket.socket(fileno=_inherited(which)), **options)

    def _begin(
        self,
        where: Address,
        terms: Terms,
        socks: list[socket.socket],
        identity: tuple[int, int] | None,
        opening_timeout: float,
        most_opening: int,
    ) -> None:
        self._where = where
        self._terms = terms
        self._socks = socks
        self._identity = identity
        self._opening_timeout = opening_timeout
        self._most_opening = most_opening
        self._owner = os.getpid()
        self._closed = False
        self._before_close: Callable[[int], None] | None = None
        self._counts = dict.fromkeys(("denied", "incompatible", "timed_out", "gone", "no_descriptors"), 0)
        self._accepted = 0
        for sock in socks:
            sock.setblocking(False)
        self._settle_in()

    def _settle_in(self) -> None:
        """What belongs to one process."""
        self._process = os.getpid()
        self._turning = threading.Lock()
        self._pending: dict[int, _Pending] = {}  # in the order of their deadlines
        self._done: deque[Stream[Any]] = deque()
        self._paused_until = 0.0
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        for sock in self._socks:
            self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)

    # ---- what users call

    def accept(self, timeout: float | None = None) -> "Stream[T]":
        """The next stream, opened and checked; `Empty` after `timeout` seconds (None waits, 0 tries).

        Clients that fail in their opening are told, counted in `stats()` and not seen here. Any number of
        threads may wait. `ShutDown` when this process is asked to end, by `graceful_shutdown`. See accept(2).
        """
        deadline = deadline_of(timeout)
        with self._in_this_process():
            while True:
                if self._closed:
                    raise self._closed_error()
                with contextlib.suppress(IndexError):
                    return self._done.popleft()
                rest = left(deadline)
                held = False
                try:
                    for held in map(self._turning.acquire, WAITS, (-1 if rest is None else rest,)):
                        break
                    if not held:
                        raise self._empty(timeout)
                    if not self._done:
                        self._turn(left(deadline))
                finally:
                    if held:
                        self._turning.release()
                if not self._done and left(deadline) == 0.0:
                    raise self._empty(timeout)

    def __iter__(self) -> "Iterator[Stream[T]]":
        """Streams as they come, until this listener is closed, or this process asked to end."""
        while True:
            try:
                stream = self.accept()
            except (ClosedError, ShutDown):
                return
            yield stream

    def stats(self) -> ListenerStats:
        """What became of the connections."""
        return ListenerStats(accepted=self._accepted, opening=len(self._pending), **self._counts)

    @property
    def address(self) -> str:
        """Where it listens, with the port that it has; a `Stream` takes this ("*" means every interface)."""
        return str(self._where)

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return self._where.port

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that listen, non-blocking: for servers of others, which accept by themselves."""
        return tuple(self._socks)

    def fileno(self) -> int:
        """A descriptor that is readable when `accept(0)` has something to do; -1 when closed."""
        return -1 if self._closed else self._epoll.fileno()

    def close(self) -> None:
        """Stops listening; streams that were accepted go on.

        The file of a Unix socket goes with it. A forked child that closes only gives back its descriptors.
        """
        if self._closed:
            return
        self._closed = True
        if self._before_close is not None:
            self._before_close(self._epoll.fileno())
        if os.getpid() == self._owner:
            _binding.unbind_unix(self._where, self._identity)
            for sock in self._socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
        if os.getpid() == self._process and self._turning.acquire(timeout=1.0):
            self._clear_out()
            self._turning.release()
        for sock in self._socks:
            sock.close()

    def __reduce__(self) -> tuple[object, ...]:
        """For a child that multiprocessing spawns; TypeError elsewhere."""
        from . import _spawning

        return _spawning.listener(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<isthmus.Listener {self._where}{' (closed)' if self._closed else ''}>"

    # ---- a turn: what has happened since the last one

    @contextlib.contextmanager
    def _in_this_process(self) -> Iterator[None]:
        if self._process != os.getpid() and not self._closed:
            # Forked: the connections in their opening are the parent's, and an epoll must not be shared.
            for pending in self._pending.values():
                pending.steps.close()
                pending.sock.close()
            for stream in self._done:
                stream.close(finish=False)
            self._epoll.close()
            os.close(self._reserve)
            self._settle_in()
        yield

    def _turn(self, seconds: float | None) -> None:
        """Waits up to `seconds` for something to happen, and does what there is to do. The lock is held."""
        soonest = self.next_turn()
        if soonest is not None:
            seconds = soonest if seconds is None else min(seconds, soonest)
        try:
            if seconds != 0.0 and not may_sleep(None):
                wait_for_work(self._epoll.fileno(), select.POLLIN, seconds)
                seconds = 0.0
            events = self._epoll.poll(seconds, 256)
        except ValueError:  # closed by another thread
            return
        if self._closed:
            return
        if self._paused_until and time.monotonic() >= self._paused_until:
            self._paused_until = 0.0
            for sock in self._socks:
                self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        listening = {sock.fileno(): sock for sock in self._socks}
        for fd, _ in events:
            if fd in listening:
                self._accept_some(listening[fd])
            elif (pending := self._pending.get(fd)) is not None:
                self._go_on(pending, True)
        self._end_late_ones()

    def next_turn(self) -> float | None:
        """Seconds until something has to be done though nothing happens; None for never."""
        now = time.monotonic()
        times = [pending.deadline for pending in list(self._pending.values())[:1]]
        if self._paused_until:
            times.append(self._paused_until)
        return max(0.0, min(times) - now) if times else None

    def _accept_some(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, sockaddr = listening.accept()
            except OSError as problem:
                if problem.errno in _NO_DESCRIPTORS:
                    self._turn_away(listening)
                elif problem.errno not in _PASSING and not self._closed:
                    raise
                return
            self._begin_opening(sock, sockaddr)

    def _begin_opening(self, sock: socket.socket, sockaddr: Any) -> None:
        sock.setblocking(True)
        try:
            tune(sock, self._terms.keepalive)
        except OSError:  # it is gone already
            self._counts["gone"] += 1
            sock.close()
            return
        peer = "" if self._where.scheme == "unix" else str(of_socket("tcp", sockaddr))
        steps = opening(sock, self._where, self._terms, ACCEPTED, peer)
        pending = _Pending(sock, steps, time.monotonic() + self._opening_timeout)
        self._go_on(pending, None)
        if len(self._pending) > self._most_opening:
            self._give_up(next(iter(self._pending.values())), "timed_out")

    def _go_on(self, pending: _Pending, ready: bool | None) -> None:
        """Takes the next steps of an opening."""
        fd = pending.sock.fileno()
        try:
            need = next(pending.steps) if ready is None else pending.steps.send(ready)
        except StopIteration as done:
            self._forget(pending)
            self._accepted += 1
            self._done.append(Stream._made(self._where, self._terms, done.value, ACCEPTED))
            return
        except Denied:
            self._give_up(pending, "denied")
            return
        except IncompatibleError:
            self._give_up(pending, "incompatible")
            return
        except OSError:
            self._give_up(pending, "gone")
            return
        events = need.events | select.EPOLLONESHOT
        if not pending.events:
            self._epoll.register(fd, events)
            self._pending[fd] = pending
        else:
            self._epoll.modify(fd, events)
        pending.events = events

    def _forget(self, pending: _Pending) -> None:
        if pending.events:
            del self._pending[pending.sock.fileno()]
            self._epoll.unregister(pending.sock.fileno())

    def _give_up(self, pending: _Pending, why: str) -> None:
        self._counts[why] += 1
        self._forget(pending)
        pending.steps.close()
        if why == "timed_out" and self._terms.framing == "messages" and self._terms.context is None:
            _say(pending.sock, "the opening took too long")
        with contextlib.suppress(OSError):
            pending.sock.shutdown(socket.SHUT_WR)
        pending.sock.close()

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        late = []
        for pending in self._pending.values():
            if pending.deadline > now:
                break
            late.append(pending)
        for pending in late:
            self._give_up(pending, "timed_out")

    def _turn_away(self, listening: socket.socket) -> None:
        """There is no descriptor left: takes the connection with the reserve and tells it."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        try:
            sock, _ = listening.accept()
        except OSError:
            self._pause()
        else:
            self._counts["no_descriptors"] += 1
            if self._terms.framing == "messages" and self._terms.context is None:
                _say(sock, "this server has no descriptor left, try again later")
            sock.close()
        try:
            self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # somebody else was faster
            self._pause()

    def _pause(self) -> None:
        """Leaves connections to the kernel for a moment."""
        if not self._paused_until:
            for sock in self._socks:
                self._epoll.unregister(sock.fileno())
        self._paused_until = time.monotonic() + _PAUSE

    def _clear_out(self) -> None:
        for pending in list(self._pending.values()):
            self._give_up(pending, "gone")
        while self._done:
            self._done.popleft().close()
        self._epoll.close()
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this listener at {self._where} is closed")

    def _empty(self, timeout: float | None) -> Empty:
        return Empty(f"{self._where}: nobody connected in {timeout:g} s")


def _say(sock: socket.socket, why: str) -> None:
    with contextlib.suppress(OSError):
        sock.send(Refusal(BUSY, why).pack(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _listening_terms(
    where: Address,
    type: Any,
    framing: Framing,
    limit: int | None,
    users: Users,
    key: bytes | str | None,
    tls: Any,
    descriptors: int,
    keepalive: float | None,
) -> Terms:
    context: ssl.SSLContext | None = None
    if tls is not None:
        from ._tls import server_context

        context = server_context(tls)
    terms = terms_for(where, type, framing, limit, key, users, descriptors, context, None, keepalive)
    return terms._replace(tls=None if tls is context else tls)


def _check_opening(opening_timeout: float, most_opening: int) -> None:
    check_timeout(opening_timeout)
    if most_opening < 1:
        raise ValueError(f"most_opening={most_opening}: it takes at least 1")


def _inherited(which: int | str) -> int:
    """The descriptor of a socket that came with this process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise LookupError(
            "no socket was inherited: LISTEN_PID does not name this process, see sd_listen_fds(3)"
        )
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if isinstance(which, str):
        if which not in names[:count]:
            raise LookupError(f"no inherited socket is called {which!r}; there are {names[:count]}")
        which = names.index(which)
    if not 0 <= which < count:
        raise LookupError(f"inherited socket {which} of {count} does not exist; they count from 0")
    descriptor = _FIRST_INHERITED + which
    os.set_inheritable(descriptor, False)
    return descriptor

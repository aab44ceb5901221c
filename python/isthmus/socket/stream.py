"""`Stream`: a connection to one other process, over a Unix socket or TCP."""

import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from isthmus._errors import (
    IsthmusError,
    PeerDied,
    Refused,
    Timeout,
    Unreachable,
    Unsupported,
)

from . import _files
from ._address import Address, of_socket, parse
from ._auth import Credentials, Users, credentials_of
from ._opening import Opened, connecting, opening, tune
from ._protocol import ACCEPTED, CONNECTED
from ._raw import BytesReceiver, StreamFile
from ._receive import WithDescriptors
from ._rights import close_all
from ._send import Sender
from ._steps import Backoff, check_timeout, deadline_of, left, run
from ._terms import Framing, Terms, terms_for

if TYPE_CHECKING:
    import ssl
    from typing import TypedDict, Unpack

    from ._files import HasFileno

    class _Options(TypedDict, total=False):
        timeout: float | None
        retry: bool | Backoff
        limit: int | None
        users: Users
        tls: Any
        keepalive: float | None

    class _MessageOptions(_Options, total=False):
        key: bytes | str | None
        descriptors: int


__all__ = ["TRY_AGAIN", "Attempts", "Stream", "backoff_of", "connect_again", "connecting_terms"]

T = TypeVar("T")

TRY_AGAIN = (Refused, Unreachable, PeerDied, FileNotFoundError, Timeout)
"""What `Attempts` decides about: it may be otherwise the next time, or time is up."""
_DISCARD = 1 << 16


class Stream(BytesReceiver, Sender, Generic[T]):
    """A connection to one other process: messages of a type, lines, or bytes.

    `Stream(address)` connects to "unix:///run/jobs.sock", "unix://@name" (abstract) or "tcp://host:5000",
    where a `Listener` with the same `type` and `framing` listens. It tries for `timeout` seconds (30; None
    waits), and fails at once with `Refused`, `FileNotFoundError` (no such Unix socket) or `Unreachable`;
    with `retry=True` (or a `Backoff`) it tries these again until the time is over. A peer of another type
    or protocol is an `IncompatibleError`, one that does not prove what it has to is `Denied`.

    - `framing`: "messages" (as here), or for other programs "lines" of UTF-8 and "raw" bytes, which come
      without any handshake.
    - `type` of messages: whatever msgspec takes if not given (numbers, text, bytes, lists, dicts); a
      `msgspec.Struct`, dataclass or any type that `Queue` takes, validated on receipt. `object` (pickle)
      takes a Unix socket and a peer of the same user.
    - `limit`: bytes of the largest message (64 MiB) or line (1 MiB) that this side takes.
    - `users`: who may be on the other side of a Unix socket: user ids and names, or "any". If not given, this
      user and root; with other programs ("lines", "raw") the permissions of the file decide.
    - `key`: a secret that both sides have, 16 bytes at least. Each proves to the other that it has it,
      without showing it. What is sent afterwards is not protected by it: on a network that others can
      change, use `tls`.
    - `tls`, for TCP: True, a `Tls` or an `ssl.SSLContext`.
    - `descriptors`: how many descriptors may come with a message, over Unix sockets; 0, and what comes is
      closed.
    - `keepalive`, for TCP: after so many seconds (60) without an answer of its kernel the peer is `PeerDied`.

    Any number of threads may use a stream; one receives at a time, and one sends. In a forked child it goes
    on working, and `close` there ends the child's descriptor only.
    """

    @overload
    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        type: type[T],
        framing: Framing = "messages",
        **options: "Unpack[_MessageOptions]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Stream[str]",
        address: str | os.PathLike[str],
        *,
        type: None = None,
        framing: Literal["lines"],
        **options: "Unpack[_Options]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Stream[bytes]",
        address: str | os.PathLike[str],
        *,
        type: None = None,
        framing: Literal["raw"],
        **options: "Unpack[_Options]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Stream[Any]",
        address: str | os.PathLike[str],
        *,
        type: Any = None,
        framing: Framing = "messages",
        **options: "Unpack[_MessageOptions]",
    ) -> None: ...
    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        type: Any = None,
        framing: Framing = "messages",
        timeout: float | None = 30.0,
        retry: bool | Backoff = False,
        limit: int | None = None,
        users: Users = None,
        key: bytes | str | None = None,
        tls: Any = None,
        descriptors: int = 0,
        keepalive: float | None = 60.0,
    ) -> None:
        where, terms = connecting_terms(
            address, type, framing, limit, users, key, tls, descriptors, keepalive
        )
        opened = connect_again(where, terms, timeout, backoff_of(retry))
        self._begin(where, terms, opened, CONNECTED)

    # ---- other ways to have one

    @classmethod
    def pair(
        cls,
        *,
        type: Any = None,
        framing: Framing = "messages",
        limit: int | None = None,
        descriptors: int = 0,
    ) -> "tuple[Stream[Any], Stream[Any]]":
        """Two streams connected to each other, for a process and its forked child; see socketpair(2)."""
        where = Address("unix", "", 0, "(pair)")
        terms = terms_for(where, type, framing, limit, None, None, descriptors, None, None, None)
        return tuple(
            cls._made(
                where,
                terms,
                Opened(
                    sock,
                    sock,
                    None,
                    credentials_of(sock),
                    "the other end of the pair",
                    terms.limit,
                    descriptors,
                ),
                role,
            )
            for sock, role in zip(socket.socketpair(), (CONNECTED, ACCEPTED), strict=True)
        )  # type: ignore[return-value]

    @classmethod
    def from_socket(
        cls,
        sock: socket.socket,
        *,
        accepted: bool,
        type: Any = None,
        framing: Framing = "messages",
        timeout: float | None = 30.0,
        limit: int | None = None,
        users: Users = None,
        key: bytes | str | None = None,
        tls: Any = None,
        descriptors: int = 0,
        keepalive: float | None = 60.0,
    ) -> "Stream[Any]":
        """A stream of a connected socket, which it takes over and closes.

        `accepted` says which side this is: in the opening one side begins, and a TLS server has a
        certificate.
        """
        from ._tls import server_context

        unix = sock.family == socket.AF_UNIX
        where = of_socket("unix" if unix else "tcp", sock.getsockname() if accepted else sock.getpeername())
        context = None
        name = None
        if tls is not None:
            from ._tls import Tls, client_context

            context = server_context(tls) if accepted else client_context(tls)
            name = tls.server_name if isinstance(tls, Tls) else None
        terms = terms_for(where, type, framing, limit, key, users, descriptors, context, name, keepalive)
        sock.setblocking(True)
        tune(sock, keepalive)
        role = ACCEPTED if accepted else CONNECTED
        peer = "" if unix else str(of_socket("tcp", sock.getpeername()))
        steps = opening(sock, where, terms, role, peer)
        opened = run(steps, timeout, deadline_of(timeout), f"opening {where}")
        return cls._made(where, terms, opened, role)

    @classmethod
    def _made(cls, where: Address, terms: Terms, opened: Opened, role: int) -> "Stream[Any]":
        stream = cls.__new__(cls)
        stream._begin(where, terms, opened, role)
        return stream

    def _begin(self, where: Address, terms: Terms, opened: Opened, role: int) -> None:
        self._where = where
        self._terms = terms
        self._role = role
        self._framing = terms.framing
        self._owner = os.getpid()
        self._closed = False
        self._before_close: Callable[[int], None] | None = None
        self._attach(opened)

    def _attach(self, opened: Opened) -> None:
        self._sock = opened.sock
        self._number = opened.sock.fileno()
        self._who = opened.who
        self._pid = opened.credentials.pid if opened.credentials is not None else 0
        self._credentials = opened.credentials
        self._begin_sending(opened, self._terms)
        self._begin_receiving(opened, self._terms)

    # ---- what it is

    @property
    def address(self) -> str:
        """Where this stream is connected to, or where the listener that accepted it listens."""
        return str(self._where)

    @property
    def peer(self) -> str:
        """The other side, as errors name it: its address over TCP, its process over a Unix socket."""
        return self._who

    @property
    def credentials(self) -> Credentials | None:
        """Process, user and group on the other side of a Unix socket, from the kernel; None over TCP."""
        return self._credentials

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What the other side's certificate says, checked; None without TLS, or where it has shown none."""
        found: Any = None if self._tls is None else self._tls.engine.getpeercert()
        return found or None

    @property
    def type(self) -> Any:
        """The type of messages; `str` for lines."""
        if self._framing == "lines":
            return str
        return bytes if self._terms.codec is None else self._terms.codec.made_of

    @property
    def framing(self) -> Framing:
        """How messages are told apart: "messages", "lines" or "raw"."""
        return self._framing  # type: ignore[return-value]

    @property
    def limit(self) -> int:
        """Bytes of the largest message that this side takes."""
        return self._limit

    @property
    def peer_limit(self) -> int:
        """Bytes of the largest message that the other side takes."""
        return self._most

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def fileno(self) -> int:
        """The descriptor, for `isthmus.select` and poll(2); -1 when closed.

        What is read ahead it does not show: ask `poll(0)` first.
        """
        return -1 if self._closed else self._number

    def __repr__(self) -> str:
        what = f" {self.type.__name__}" if hasattr(self.type, "__name__") else ""
        return f"<isthmus.Stream{what} {self._who}{' (closed)' if self._closed else ''}>"

    # ---- more to send and to receive

    def recv_with_descriptors(self, timeout: float | None = None) -> tuple[T, list[int]]:
        """The next message and the descriptors that came with it: the caller's to close from now on.

        Takes a stream that was made with `descriptors=`. `recv` closes what comes with a message. Waits and
        fails as `recv` does.
        """
        self._only("messages", "recv_with_descriptors")
        item = self._next(timeout)
        data: Any = item.data if type(item) is WithDescriptors else item
        if type(data) is not bytes:
            self._special(data)
        if self._decode is not None:
            try:
                data = self._decode(data)
            except Exception as problem:
                raise self._invalid(data, problem) from problem
        return data, item.take() if type(item) is WithDescriptors else []

    def send_file(
        self,
        file: "IO[bytes] | HasFileno",
        *,
        offset: int = 0,
        count: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Sends `count` bytes of an open file from `offset` on (all of it); how many.

        They do not pass through Python, and no limit counts.

        With messages the other side takes it by `recv_file`. When it cannot be sent to its end (`Full`
        within `timeout` seconds, or the file became shorter) nothing more can be sent: close the stream.
        See sendfile(2).
        """
        return _files.send_file(self, file, offset, count, timeout)

    def recv_file(self, file: IO[bytes], *, count: int | None = None, timeout: float | None = None) -> int:
        """Writes the file that the other side sends into `file`, piece by piece; how many bytes.

        With messages: what one `send_file` sends; `TooLarge` when it is longer than `count`, and
        `Unsupported` when a message comes instead. With framing="raw": `count` bytes, or all until the
        other side finishes. After `Empty` (nothing came in `timeout` seconds) another call goes on where
        this one was; for what `send_file` sends the last one says how many bytes it had.
        """
        return _files.recv_file(self, file, count, timeout)

    def makefile(self, mode: str = "rb", *, buffering: int = -1, timeout: float | None = None) -> Any:
        """The stream as a file, "rb" or "wb" (`buffering=0`: unbuffered); framing="raw" only.

        Closing the file leaves the stream open.
        """
        self._only("raw", "makefile")
        if mode not in {"rb", "wb"}:
            raise ValueError(f'mode={mode!r} is "rb" or "wb"')
        import io

        raw = StreamFile(self, mode, timeout)
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering < 0 else buffering
        return io.BufferedReader(raw, size) if mode == "rb" else io.BufferedWriter(raw, size)

    # ---- ends

    def close(self, timeout: float | None = 1.0, *, finish: bool = True) -> None:
        """Ends the stream: sends what is here, for up to `timeout` seconds, and says that it has finished.

        The descriptor is given back, and calls in other threads end with `ClosedError`.

        With `finish=False` only the descriptor is given back: for a process that has handed the stream to a
        child. See close(2).
        """
        check_timeout(timeout)
        if self._closed:
            return
        ours = finish and os.getpid() == self._owner
        if ours:
            self._wind_up(timeout)
        self._closed = self._owed = True
        if ours:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes who waits in the kernel
        self._release()

    def _wind_up(self, timeout: float | None) -> None:
        with contextlib.suppress(IsthmusError, OSError):  # there is nobody to tell
            if self._broken is None:
                self.finish(timeout)
                self._linger()

    def _linger(self) -> None:
        """Over TCP, closing with bytes unread would throw away what is on its way: reads them."""
        with contextlib.suppress(BlockingIOError):
            while self._where.scheme == "tcp" and self._outstanding():
                if not self._sock.recv(_DISCARD, socket.MSG_DONTWAIT):
                    return

    def _outstanding(self) -> int:
        """Bytes that the other side's kernel has not acknowledged, SIOCOUTQ in tcp(7)."""
        count: int = struct.unpack("i", fcntl.ioctl(self._number, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        return count

    def _release(self) -> None:
        if self._before_close is not None:
            self._before_close(self._number)
        # Threads inside have been woken; with a descriptor closed under them they would meet another file.
        # In a forked child nobody is inside, and locks may be held for ever by threads that are not here.
        inside = []
        if os.getpid() == self._owner:
            inside = [lock for lock in (self._sending, self._receiving) if lock.acquire(timeout=1.0)]
        self._sock.close()
        if self._rights is not None:
            self._rights.close()
        if self._given is not None:
            close_all(self._given)
        self._ready.clear()
        self._chunk = self._rest = b""
        self._landing = None
        self._parts = {}
        self._packet[0] = None
        self._held = []
        for lock in inside:
            lock.release()

    def _shut_sending(self) -> None:
        if self._tls is not None:
            self._tls.finish()
        with contextlib.suppress(OSError):  # the other side was faster
            self._sock.shutdown(socket.SHUT_WR)

    def reconnect(self, timeout: float | None = None, *, backoff: Backoff | None = None) -> None:
        """Connects again, to the same address on the same terms; tries until it succeeds, or `Timeout`.

        For a stream that connected, after `PeerDied` or `ShutDown`. Attempts come after pauses as `backoff`
        says. What was received and not taken is gone, and so is what was sent and had not arrived; which
        messages these are only the application can know.
        """
        deadline = deadline_of(timeout)
        self._let_go()
        self._resume(connect_again(self._where, self._terms, left(deadline), backoff or Backoff()))

    def _let_go(self) -> None:
        """Ends the connection that there was."""
        if self._role != CONNECTED or self._where.path == "(pair)":
            raise Unsupported("only the side that connected can connect again: this stream was accepted")
        self._closed = self._owed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._release()

    def _resume(self, opened: Opened) -> None:
        """Goes on with a new one."""
        self._owner = os.getpid()
        self._attach(opened)
        self._closed = False

    def __reduce__(self) -> tuple[object, ...]:
        """For a child that multiprocessing spawns; TypeError elsewhere."""
        from . import _spawning

        return _spawning.stream(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    if TYPE_CHECKING:  # what they say is said in `Receiver` and `Sender`

        def recv(self, timeout: float | None = None) -> T: ...  # noqa: D102
        def recv_many(self, most: int | None = None, timeout: float | None = None) -> list[T]: ...  # noqa: D102
        def send_many(self, messages: Iterable[T], timeout: float | None = None) -> int: ...  # noqa: D102


def connecting_terms(
    address: str | os.PathLike[str],
    type: Any,
    framing: Framing,
    limit: int | None,
    users: Users,
    key: bytes | str | None,
    tls: Any,
    descriptors: int,
    keepalive: float | None,
) -> tuple[Address, Terms]:
    """Where to connect to and on which terms, for `Stream` here and in isthmus.aio."""
    where = parse(address, "unix", "tcp")
    context: ssl.SSLContext | None = None
    name = None
    if tls is not None and tls is not False:
        from ._tls import Tls, client_context

        context = client_context(tls)
        name = tls.server_name if isinstance(tls, Tls) else None
    return where, terms_for(where, type, framing, limit, key, users, descriptors, context, name, keepalive)


def backoff_of(retry: bool | Backoff) -> Backoff | None:
    """What `retry=` means."""
    if isinstance(retry, Backoff):
        return retry
    return Backoff() if retry else None


class Attempts:
    """What a failed attempt to connect leads to: another one after a pause, or an error that says why not."""

    def __init__(self, address: Address, timeout: float | None, backoff: Backoff | None) -> None:
        self.deadline = deadline_of(timeout)
        self.doing = f"connecting to {address}"
        self._timeout = timeout
        self._pauses = None if backoff is None else backoff.pauses()
        self._last: Exception | None = None

    def pause_after(self, problem: Exception) -> float:
        """Seconds until the next attempt; raises where there is none."""
        if isinstance(problem, Timeout):  # in the middle of an attempt: what ended the one before says more
            if self._last is None:
                raise problem
            raise self._over(self._last)
        if self._pauses is None:
            raise problem
        self._last = problem
        pause = next(self._pauses)
        rest = left(self.deadline)
        if rest is not None and rest <= pause:
            raise self._over(problem)
        return pause

    def _over(self, last: Exception) -> Timeout:
        over = Timeout(f"{self.doing}: not done in {self._timeout:g} s; the last attempt: {last}")
        over.__cause__ = last
        return over


def connect_again(address: Address, terms: Terms, timeout: float | None, backoff: Backoff | None) -> Opened:
    """Connects, with a backoff until it succeeds."""
    attempts = Attempts(address, timeout, backoff)
    while True:
        try:
            steps = connecting(address, address.places(), terms)
            return run(steps, timeout, attempts.deadline, attempts.doing)
        except TRY_AGAIN as problem:
            time.sleep(attempts.pause_after(problem))

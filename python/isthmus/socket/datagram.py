"""`Datagram`: messages of their own, over UDP or Unix sockets: no connection, no order, nothing promised.

A datagram comes whole or not at all. What is larger than there is room for is an error, not cut off in
silence.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Self, TypeVar, overload

from isthmus._codec import OBJECT, Codec, codec_for
from isthmus._errors import (
    ClosedError,
    Denied,
    Empty,
    Full,
    InvalidMessage,
    IsthmusError,
    ShutDown,
    TooLarge,
    Unsupported,
)

from . import _binding, _failures
from ._address import Address, of_socket, parse
from ._auth import Users, users_of
from ._numbers import HEADER_SIZE, DatagramStats, Numbers
from ._steps import WAITS, deadline_of, left, may_sleep, wait, wait_for_work

__all__ = ["Datagram", "Received"]

T = TypeVar("T")

_UDP_MOST = 65507
"""Bytes that fit into a UDP datagram over IPv4."""
_UNIX_MOST = 1 << 18
_REMEMBERED = 256
"""Addresses whose place is remembered."""
_UCRED = struct.Struct("iII")
_UCRED_SPACE = socket.CMSG_SPACE(_UCRED.size)
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29


class Received(NamedTuple):
    """A datagram, and what is known of it."""

    message: Any
    """The value, or bytes."""
    sender: str | None
    """The address it came from, to answer to; None for a Unix socket without a path."""
    number: int | None
    """Its number; None where datagrams have none."""
    missed: int
    """How many before it have not come (yet)."""


class Datagram(Generic[T]):
    """A socket for datagrams: messages that come whole or not at all, in any order, perhaps twice.

    `Datagram(at="udp://0.0.0.0:5000")` receives there ("*" is every interface, port 0 a free one), and
    `address` says where; `Datagram("udp://host:5000")` sends there, and hears nobody else. Unix sockets
    lose nothing and keep the order: "unix:///run/log.sock". Without `at` a Unix socket gets no answers.

    - `type`: bytes, or what `Queue` takes. Nobody compares types before, so each message is checked on its
      own. `object` (pickle) takes a Unix socket, and hears this user only.
    - `numbered`: each datagram has a number (24 bytes more), and `stats()` and `recv_from` say what is
      missing, late or came twice; both sides need it.
    - `limit`: bytes of the largest message that is received (65507 over UDP, 256 KiB over Unix sockets).
    - `broadcast`: allows to send to a broadcast address.
    - `share`: other sockets of this user may receive at the same UDP address: each gets every multicast and
      broadcast, and one of them each other datagram.
    - `users`: whose datagrams a Unix socket takes; "any" if not given, as the permissions of the file
      (`mode`, 0o600) decide who can send.
    """

    @overload
    def __init__(
        self: "Datagram[bytes]",
        to: str | os.PathLike[str] | None = None,
        *,
        at: str | os.PathLike[str] | None = None,
        numbered: bool = False,
        limit: int | None = None,
        broadcast: bool = False,
        share: bool = False,
        users: Users = "any",
        mode: int = 0o600,
    ) -> None: ...
    @overload
    def __init__(
        self,
        to: str | os.PathLike[str] | None = None,
        *,
        at: str | os.PathLike[str] | None = None,
        type: type[T],
        numbered: bool = False,
        limit: int | None = None,
        broadcast: bool = False,
        share: bool = False,
        users: Users = "any",
        mode: int = 0o600,
    ) -> None: ...
    @overload
    def __init__(
        self: "Datagram[Any]",
        to: str | os.PathLike[str] | None = None,
        *,
        at: str | os.PathLike[str] | None = None,
        type: Any,
        numbered: bool = False,
        limit: int | None = None,
        broadcast: bool = False,
        share: bool = False,
        users: Users = "any",
        mode: int = 0o600,
    ) -> None: ...
    def __init__(
        self,
        to: str | os.PathLike[str] | None = None,
        *,
        at: str | os.PathLike[str] | None = None,
        type: Any = bytes,
        numbered: bool = False,
        limit: int | None = None,
        broadcast: bool = False,
        share: bool = False,
        users: Users = "any",
        mode: int = 0o600,
    ) -> None:
        if to is None and at is None:
            raise ValueError(
                "a Datagram needs an address: to= where it sends, at= where it receives, or both"
            )
        target = None if to is None else parse(to, "udp", "unix")
        own = None if at is None else parse(at, "udp", "unix")
        if target is not None and own is not None and target.scheme != own.scheme:
            raise ValueError(f"to={to!r} and at={at!r} are different kinds of addresses")
        kind = target or own
        assert kind is not None
        unix = kind.scheme == "unix"
        codec = codec_for(type)
        allowed = users_of(users) if unix else None
        if codec is not None and codec.fingerprint == OBJECT:
            if not unix:
                raise Unsupported(
                    f"{kind}: type=object (pickle) lets who sends run code here, so it takes a Unix socket; "
                    "over UDP use a type that msgspec takes"
                )
            allowed = frozenset({os.geteuid()})
        if (broadcast or share) and unix:
            raise Unsupported(f"{kind}: broadcast= and share= are for udp://")
        most = limit if limit is not None else _UNIX_MOST if unix else _UDP_MOST
        if not 1 <= most < 1 << 30:
            raise ValueError(f"limit={limit}: it takes a number of bytes from 1 upwards")
        self._agree(target, unix, codec, allowed, most, numbered)
        self._settle_in(*self._make(own, broadcast, share, mode))

    def _agree(
        self,
        target: Address | None,
        unix: bool,
        codec: Codec | None,
        allowed: frozenset[int] | None,
        limit: int,
        numbered: bool,
    ) -> None:
        """What does not depend on the socket."""
        self._target = target
        self._unix = unix
        self._codec = codec
        self._allowed = allowed
        self._limit = limit
        self._numbers = Numbers(0 if codec is None else codec.fingerprint) if numbered else None
        self._closed = False
        self._before_close: Callable[[int], None] | None = None
        self._places: dict[str, Any] = {}
        self._counts = dict.fromkeys(("received", "too_large", "invalid", "denied"), 0)
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._buffer = bytearray(limit + (HEADER_SIZE if numbered else 0))
        self._view = memoryview(self._buffer)

    def _settle_in(self, sock: socket.socket, own: Address | None, identity: tuple[int, int] | None) -> None:
        """The socket, where it receives, and what identifies the file of a Unix socket."""
        self._sock = sock
        self._number = sock.fileno()
        self._own = own
        self._identity = identity
        self._owner = os.getpid()

    def _make(
        self, own: Address | None, broadcast: bool, share: bool, mode: int
    ) -> tuple[socket.socket, Address | None, tuple[int, int] | None]:
        target = self._target
        identity = None
        if self._unix:
            if own is not None:
                sock, identity = _binding.bind_unix(own, socket.SOCK_DGRAM, mode, None)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            else:  # with SO_PASSCRED it would get an abstract address, where everybody can send to
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        else:
            place = (own or target).places(passive=own is not None)[0]  # type: ignore[union-attr]
            sock = socket.socket(place.family, socket.SOCK_DGRAM)
            if broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if share:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _hear_joined_groups_only(sock)
            if own is not None:
                try:
                    if place.family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(own.host != "*"))
                    sock.bind(place.sockaddr)
                except OSError as problem:
                    sock.close()
                    if problem.errno == errno.EADDRINUSE:
                        raise OSError(
                            errno.EADDRINUSE,
                            f"{own}: somebody receives there already; share=True allows more",
                        ) from problem
                    raise _failures.annotated(problem, own) from problem
        try:
            if target is not None:
                sock.connect(self._place(target, sock))
        except OSError as problem:
            sock.close()
            if own is not None:
                _binding.unbind_unix(own, identity)
            raise self._failure(problem, target) from problem
        if own is not None and not self._unix:
            own = own._replace(port=sock.getsockname()[1])
        return sock, own, identity

    # ---- what it is

    @property
    def address(self) -> str | None:
        """Where this socket receives, with the port that it has; None where it has no address yet."""
        if self._own is not None:
            return str(self._own)
        if self._unix or self._closed:
            return None
        name = self._sock.getsockname()
        return str(of_socket("udp", name)) if name[1] else None

    @property
    def peer(self) -> str | None:
        """Where messages go if not said otherwise; None where each says it."""
        return None if self._target is None else str(self._target)

    @property
    def type(self) -> Any:
        """The type of messages."""
        return bytes if self._codec is None else self._codec.made_of

    @property
    def limit(self) -> int:
        """Bytes of the largest message that is received."""
        return self._limit

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def fileno(self) -> int:
        """The descriptor, for `isthmus.select` and poll(2); -1 when closed."""
        return -1 if self._closed else self._number

    def stats(self) -> DatagramStats:
        """What has been seen so far."""
        numbers = self._numbers
        return DatagramStats(
            missing=numbers.missing if numbers else 0,
            late=numbers.late if numbers else 0,
            duplicate=numbers.duplicate if numbers else 0,
            **self._counts,
        )

    def __repr__(self) -> str:
        where = " ".join(
            f"{what} {a}" for what, a in (("at", self._own), ("to", self._target)) if a is not None
        )
        return f"<isthmus.Datagram {where}{' (closed)' if self._closed else ''}>"

    # ---- sending

    def send(
        self, message: T, to: str | os.PathLike[str] | None = None, timeout: float | None = None
    ) -> None:
        """Sends one datagram, to `to` or where this socket is connected to. Nobody says whether it arrived.

        `Full` when the kernel takes no more within `timeout` seconds (None waits, 0 tries): over Unix
        sockets when the receiver is behind. `TooLarge` for what fits into no datagram. `Refused` when
        nobody receives there, as far as that is known: over UDP it concerns a datagram before. See send(2).
        """
        if self._closed:
            raise self._closed_error()
        place = None if to is None else self._place_of(to)
        if place is None and self._target is None:
            raise ValueError("this Datagram is connected to nobody: say to whom, send(message, to)")
        data: Any = message if self._codec is None else self._codec.encode(message)
        parts = data if type(data) is tuple else (data,)
        pieces: list[Any] = [memoryview(part).cast("B") for part in parts]
        deadline = deadline_of(timeout)
        while True:
            with self._sending:  # numbers go out in order
                flags = socket.MSG_NOSIGNAL if timeout is None else _NOW
                buffers = pieces if self._numbers is None else [self._numbers.header(), *pieces]
                try:
                    if place is None:
                        self._sock.sendmsg(buffers, (), flags)
                    else:
                        self._sock.sendmsg(buffers, (), flags, place)
                    return
                except OSError as problem:
                    if self._numbers is not None:
                        self._numbers.take_back()
                    if problem.errno not in {errno.EAGAIN, errno.ENOBUFS}:
                        size = sum(piece.nbytes for piece in pieces)
                        raise self._failure(problem, to or self._target, size=size) from problem
            rest = left(deadline)
            # Over an unconnected Unix socket POLLOUT says nothing about the receiver, hence the slices.
            slice_ = 0.01 if rest is None else min(rest, 0.01)
            if rest == 0.0:
                raise Full(f"{to or self._target}: took nothing in {timeout:g} s") from None
            if place is None:
                wait(self._number, select.POLLOUT, rest)
            else:
                wait(-1, 0, slice_)

    def _place_of(self, to: str | os.PathLike[str]) -> Any:
        text = os.fspath(to)
        place = self._places.get(text)
        if place is None:
            address = parse(to, "unix" if self._unix else "udp")
            place = self._place(address, self._sock)
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            self._places[text] = place
        return place

    def _place(self, address: Address, sock: socket.socket) -> Any:
        """What the kernel takes for an address, of the family that the socket has."""
        if self._unix:
            return address.unix_name
        places = address.places()
        for place in places:
            if place.family == sock.family:
                return place.sockaddr
        if sock.family == socket.AF_INET6:  # one that takes IPv4 too
            host, port = places[0].sockaddr[:2]
            return (f"::ffff:{host}", port, 0, 0)
        raise ValueError(f"{address} is an address of IPv6; this socket has one of IPv4")

    # ---- receiving

    def recv(self, timeout: float | None = None) -> T:
        """The next message; `Empty` after `timeout` seconds (None waits, 0 tries).

        `TooLarge` for a datagram over the limit and `InvalidMessage` for one that is not of the type: that
        one is gone, the next call takes the next. `Refused` on a connected socket when nobody receives
        there. `ShutDown` when this process is asked to end, by `graceful_shutdown`. See recv(2).
        """
        message: T = self.recv_from(timeout).message
        return message

    def recv_from(self, timeout: float | None = None) -> Received:
        """As `recv`, with the sender's address, and the datagram's number where it has one."""
        deadline = deadline_of(timeout)
        while True:
            if self._closed:
                raise self._closed_error()
            rest = left(deadline)
            held = False
            try:
                for held in map(self._receiving.acquire, WAITS, (-1 if rest is None else rest,)):
                    break
                if not held:
                    raise self._empty(timeout)
                taken = self._take(may_sleep(timeout))
            except BlockingIOError:
                rest = left(deadline)
                if rest == 0.0 or not wait_for_work(self._number, select.POLLIN, rest):
                    raise self._empty(timeout) from None
                continue
            finally:
                if held:
                    self._receiving.release()
            if taken is not None and (received := self._read(*taken)) is not None:
                return received

    def __iter__(self) -> Iterator[T]:
        """Messages until this socket is closed, or this process asked to end; errors as of `recv`."""
        while True:
            try:
                message = self.recv()
            except (ClosedError, ShutDown):
                return
            yield message

    def _take(self, may_wait: bool) -> tuple[bytes, str | None, int] | None:
        """One datagram: bytes, sender, process id; None for one that is not given out."""
        flags = socket.MSG_TRUNC if may_wait else socket.MSG_TRUNC | socket.MSG_DONTWAIT
        pid = 0
        try:
            if self._unix:
                # With MSG_TRUNC the size is that of the datagram, whatever there was room for.
                size, ancillary, _, sockaddr = self._sock.recvmsg_into([self._buffer], _UCRED_SPACE, flags)
                pid, uid = self._credentials(ancillary)
                if self._allowed is not None and uid not in self._allowed:
                    self._counts["denied"] += 1
                    return None
            else:
                size, sockaddr = self._sock.recvfrom_into(self._buffer, 0, flags)
        except BlockingIOError:
            raise
        except OSError as problem:
            if self._closed:
                raise self._closed_error() from problem
            raise self._failure(problem, self._target or self._own) from problem
        if self._closed and not size:  # woken by close()
            raise self._closed_error()
        sender = self._sender(sockaddr)
        if size > len(self._buffer):
            self._counts["too_large"] += 1
            raise TooLarge(
                f"{sender or 'a Unix socket'} sent a datagram of {size} bytes; limit={self._limit} has "
                "no room for it, and it is lost",
                size=size,
                limit=self._limit,
            )
        return bytes(self._view[:size]), sender, pid

    def _read(self, data: bytes, sender: str | None, pid: int) -> Received | None:
        """What a datagram says; None for one that came before."""
        number, missed = None, 0
        try:
            if self._numbers is not None:
                found = self._numbers.read(data)
                if found is None:
                    return None
                number, missed = found
                data = data[HEADER_SIZE:]
            message = data if self._codec is None else self._codec.decode(data)
        except Exception as problem:
            self._counts["invalid"] += 1
            raise InvalidMessage(
                f"a datagram of {sender or 'a Unix socket'} is not what it has to be: {problem}",
                number=number or 0,
                reason=str(problem),
                sender=pid or None,
                data=data,
            ) from problem
        self._counts["received"] += 1
        return Received(message, sender, number, missed)

    def _sender(self, sockaddr: Any) -> str | None:
        if not sockaddr:
            return None
        return str(of_socket("unix" if self._unix else "udp", sockaddr))

    @staticmethod
    def _credentials(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) == _UCRED.size:
                pid, uid, _ = _UCRED.unpack(data)
                return pid, uid
        return 0, -1

    # ---- groups

    def join(self, group: str, interface: str | None = None) -> None:
        """Receives what is sent to a multicast group ("239.1.2.3", "ff02::123"), by `interface` or any.

        A socket hears the groups that it has joined, and no others.
        """
        self._membership(group, interface, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP)

    def leave(self, group: str, interface: str | None = None) -> None:
        """Ends what `join` began."""
        self._membership(group, interface, socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP)

    def _membership(self, group: str, interface: str | None, four: int, six: int) -> None:
        self._only_udp("multicast groups")
        index = 0 if interface is None else socket.if_nametoindex(interface)
        try:
            if ":" in group:
                request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
                self._sock.setsockopt(socket.IPPROTO_IPV6, six, request)
            else:
                request = socket.inet_pton(socket.AF_INET, group) + struct.pack("@4si", bytes(4), index)
                self._sock.setsockopt(socket.IPPROTO_IP, four, request)
        except OSError as problem:
            raise _failures.annotated(problem, f"multicast group {group}") from problem

    def multicast(self, *, hops: int = 1, loop: bool = True, interface: str | None = None) -> None:
        """How this socket sends to groups.

        `hops`: how many networks far (1 is this one). `loop`: whether this machine hears it too.
        `interface`: by which one.
        """
        self._only_udp("multicast")
        if not 0 <= hops <= 255:
            raise ValueError(f"hops={hops}: it takes 0 to 255")
        index = 0 if interface is None else socket.if_nametoindex(interface)
        if self._sock.family == socket.AF_INET6:
            level = socket.IPPROTO_IPV6
            self._sock.setsockopt(level, socket.IPV6_MULTICAST_HOPS, hops)
            self._sock.setsockopt(level, socket.IPV6_MULTICAST_LOOP, int(loop))
            if interface is not None:
                self._sock.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
        level = socket.IPPROTO_IP  # a socket of IPv6 may send to groups of IPv4 too
        self._sock.setsockopt(level, socket.IP_MULTICAST_TTL, hops)
        self._sock.setsockopt(level, socket.IP_MULTICAST_LOOP, int(loop))
        if interface is not None:
            request = struct.pack("@4s4si", bytes(4), bytes(4), index)
            self._sock.setsockopt(level, socket.IP_MULTICAST_IF, request)

    def _only_udp(self, what: str) -> None:
        if self._closed:
            raise self._closed_error()
        if self._unix:
            raise Unsupported(f"{what}: Unix sockets have none, udp:// does")

    # ---- ends

    def close(self) -> None:
        """Ends this socket, and the file of a Unix socket. Calls in other threads end with `ClosedError`."""
        if self._closed:
            return
        self._closed = True
        ours = os.getpid() == self._owner
        if ours and self._own is not None:
            _binding.unbind_unix(self._own, self._identity)
        inside = False
        if ours:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes who waits, connected or not
            inside = self._receiving.acquire(timeout=1.0)
        if self._before_close is not None:
            self._before_close(self._number)
        self._sock.close()
        if inside:
            self._receiving.release()

    def __reduce__(self) -> tuple[object, ...]:
        """For a child that multiprocessing spawns; TypeError elsewhere."""
        from . import _spawning

        return _spawning.datagram(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _closed_error(self) -> ClosedError:
        return ClosedError("this Datagram is closed")

    def _empty(self, timeout: float | None) -> Empty:
        return Empty(f"{self._own or self._target}: nothing came in {timeout:g} s")

    def _failure(self, problem: OSError, who: object, *, size: int = 0) -> Exception:
        if isinstance(problem, IsthmusError):
            return problem
        if problem.errno == errno.EMSGSIZE:
            most = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) if self._unix else _UDP_MOST
            return TooLarge(
                f"{who}: {size} bytes fit into no datagram (at most {most})", size=size, limit=most
            )
        if problem.errno == errno.ENOENT:
            return _failures.connecting(problem, who)
        if problem.errno in {errno.EACCES, errno.EPERM}:
            hint = "" if self._unix else "; a broadcast address takes broadcast=True"
            return Denied(f"{who}: no permission to send there{hint}")
        return _failures.talking(problem, str(who))


def _hear_joined_groups_only(sock: socket.socket) -> None:
    """Otherwise the kernel delivers what is for groups that any other socket of this machine has joined."""
    sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    if sock.family == socket.AF_INET6:
        with contextlib.suppress(OSError):  # before Linux 4.20
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)

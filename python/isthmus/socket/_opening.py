"""Opening a connection: connecting, TLS, who is there, and the handshake of `_protocol`. All in steps."""

import contextlib
import errno
import hmac
import os
import select
import socket
from typing import Any, NamedTuple, Protocol

from isthmus._errors import Denied, IncompatibleError, IsthmusError, PeerDied, Refused

from . import _failures
from ._address import Address, Place
from ._auth import Credentials, check_user, credentials_of, proof
from ._protocol import (
    ACCEPTED,
    CONNECTED,
    HELLO,
    PROOF,
    RECORD,
    REFUSAL,
    WRONG_KEY,
    WRONG_TYPE,
    WRONG_USER,
    WRONG_VERSION,
    Hello,
    Refusal,
    kind_of,
    pack_proof,
    unpack_proof,
)
from ._steps import Need, Steps
from ._terms import Terms
from ._tls import TlsChannel, failures, open_tls

__all__ = ["Channel", "Opened", "connecting", "opening", "tune"]

_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_FULL_PAUSE = 0.01
"""Seconds until a Unix socket whose backlog is full is tried again: the kernel does not tell when to."""
_NEXT_PLACE = 1.0
"""Seconds that one of several addresses of a host has to answer before the next one is tried."""


class Channel(Protocol):
    """What a socket and TLS have in common."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As of a socket."""

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0, /) -> int:
        """As of a socket."""

    def send(self, data: Any, flags: int = 0, /) -> int:
        """As of a socket."""

    def sendmsg(self, buffers: Any, ancillary: Any = (), flags: int = 0, /) -> int:
        """As of a socket."""


class Opened(NamedTuple):
    """A connection that is ready."""

    sock: socket.socket
    channel: Channel
    tls: TlsChannel | None
    credentials: Credentials | None
    who: str
    """The other side, as errors name it."""
    limit: int
    """The largest message that it takes."""
    descriptors: int
    """The most descriptors with a message that it takes."""


def tune(sock: socket.socket, keepalive: float | None) -> None:
    """What every connection over TCP has: no waiting for more to send, and a look after silent peers."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive is None:
        return
    # Dead after `keepalive` seconds without an answer, whether we wait for data or for acknowledgements.
    seconds = max(1, round(keepalive))
    probes = min(4, seconds)
    each = max(1, seconds // (probes + 1))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, seconds - probes * each))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, each)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def connecting(address: Address, places: list[Place], terms: Terms) -> Steps[Opened]:
    """Connects to the first of `places` that answers, and opens; errors name the address."""
    for number, place in enumerate(places, 1):
        sock = socket.socket(place.family, socket.SOCK_STREAM)
        try:
            last = number == len(places)
            problem = yield from _connected(sock, place, None if last else _NEXT_PLACE)
            if problem:
                if last:
                    raise _failures.connecting(OSError(problem, os.strerror(problem)), address)
                sock.close()
                continue
            tune(sock, terms.keepalive)
            return (yield from opening(sock, address, terms, CONNECTED))
        except BaseException:
            sock.close()
            raise
    raise AssertionError("getaddrinfo gives an address or an error")


def _connected(sock: socket.socket, place: Place, seconds: float | None) -> Steps[int]:
    # An error number, 0 when connected.
    sock.setblocking(False)
    try:
        while (problem := sock.connect_ex(place.sockaddr)) == errno.EAGAIN:
            yield Need(-1, 0, _FULL_PAUSE)
        if problem in {errno.EINPROGRESS, errno.EINTR}:
            if not (yield Need(sock.fileno(), select.POLLOUT, seconds)):
                return errno.ETIMEDOUT
            problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError as error:  # a name that the kernel does not take, say
        return error.errno or errno.EINVAL
    sock.setblocking(True)
    return problem


def opening(sock: socket.socket, address: Address, terms: Terms, role: int, peer: str = "") -> Steps[Opened]:
    """All that comes between the connection and the first message. Whoever called closes `sock` on an error.

    `peer` is who connected, for the side that accepted.
    """
    credentials = credentials_of(sock)
    who = str(address)
    pid = 0
    if credentials is not None:
        pid = credentials.pid
        who = f"{who} (process {pid})"
    elif peer:
        who = peer
    messages = terms.framing == "messages"
    channel: Channel = sock
    tls = None
    try:
        try:
            check_user(credentials, terms.users, address)
            if terms.pickles and credentials is not None and credentials.uid != os.geteuid():
                raise Denied(
                    f"{who} is of user {credentials.uid}; type=object (pickle) is for user {os.geteuid()}"
                )
        except Denied:
            if messages:
                _refuse(sock, Refusal(WRONG_USER, "your user is not allowed here"))
            raise
        if terms.context is not None:
            channel = tls = yield from open_tls(
                sock,
                terms.context,
                server=role == ACCEPTED,
                name=(terms.server_name or address.host) if role == CONNECTED else None,
                who=who,
            )
        if not messages:
            return Opened(sock, channel, tls, credentials, who, 1 << 62, 0)
        with failures(who):
            shake = _greet if role == CONNECTED else _answer
            theirs = yield from shake(channel, sock.fileno(), terms, who)
    except IsthmusError:
        raise
    except OSError as error:
        if role == CONNECTED and error.errno in {errno.ECONNRESET, errno.EPIPE}:
            raise _hung_up(who) from error
        raise _failures.talking(error, who, pid) from error
    return Opened(sock, channel, tls, credentials, who, theirs.limit, theirs.descriptors)


def _hello(terms: Terms, role: int) -> Hello:
    return Hello(
        role, int(terms.key is not None), terms.descriptors, terms.fingerprint, terms.limit, terms.type_name,
        os.urandom(32),
    )  # fmt: skip


def _greet(channel: Channel, fd: int, terms: Terms, who: str) -> Steps[Hello]:
    """The side that connected."""
    mine = _hello(terms, CONNECTED).pack()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have said why before it hung up
        yield from _send(channel, fd, mine)
    record = yield from _record(channel, fd, who, CONNECTED)
    theirs = Hello.unpack(_expect(record, HELLO, who))
    if theirs.role != ACCEPTED:
        raise IncompatibleError(f"{who} answers as if it had connected")
    problem = _disagreement(terms, theirs, who)
    if problem is not None:
        raise problem[0]
    if terms.key is not None:
        yield from _send(channel, fd, pack_proof(proof(terms.key, CONNECTED, mine, record)))
        answer = yield from _record(channel, fd, who, CONNECTED)
        _check_proof(answer, proof(terms.key, ACCEPTED, mine, record), who)
    return theirs


def _answer(channel: Channel, fd: int, terms: Terms, who: str) -> Steps[Hello]:
    """The side that accepted."""
    try:
        record = yield from _record(channel, fd, who, ACCEPTED)
    except IncompatibleError as error:
        _refuse(channel, Refusal(WRONG_VERSION, "this is an isthmus stream, protocol version 1"))
        raise error
    theirs = Hello.unpack(_expect(record, HELLO, who))
    problem = _disagreement(terms, theirs, who)
    if problem is not None:
        _refuse(channel, problem[1])
        raise problem[0]
    mine = _hello(terms, ACCEPTED).pack()
    yield from _send(channel, fd, mine)
    if terms.key is not None:
        shown = yield from _record(channel, fd, who, ACCEPTED)
        try:
            _check_proof(shown, proof(terms.key, CONNECTED, record, mine), who)
        except Denied:
            _refuse(channel, Refusal(WRONG_KEY, "the keys differ"))
            raise
        yield from _send(channel, fd, pack_proof(proof(terms.key, ACCEPTED, record, mine)))
    return theirs


def _disagreement(terms: Terms, theirs: Hello, who: str) -> tuple[Exception, Refusal] | None:
    """Why these two do not get on with each other, for both sides."""
    if (terms.key is not None) != bool(theirs.authentication):
        if terms.key is None:
            return Denied(f"{who} insists on a shared key, and this side has none"), Refusal(
                WRONG_KEY, "no shared key is used here"
            )
        return Denied(f"{who} shows no shared key, and this side insists on one"), Refusal(
            WRONG_KEY, "a shared key is needed here"
        )
    if terms.fingerprint != theirs.fingerprint:
        ours = terms.type_name
        same = " of another shape" if ours == theirs.name else ""
        return IncompatibleError(f"{who} has type {theirs.name}{same}, this side has type {ours}"), Refusal(
            WRONG_TYPE, f"messages here have type {ours}"
        )
    return None


def _check_proof(record: bytes, expected: bytes, who: str) -> None:
    if not hmac.compare_digest(unpack_proof(_expect(record, PROOF, who)), expected):
        raise Denied(f"{who} does not have the shared key")


def _expect(record: bytes, kind: int, who: str) -> bytes:
    found = kind_of(record, who)
    if found == REFUSAL:
        refusal = Refusal.unpack(record)
        text = f"{who} refused: {refusal.why}"
        if refusal.code in {WRONG_KEY, WRONG_USER}:
            raise Denied(text)
        if refusal.code in {WRONG_TYPE, WRONG_VERSION}:
            raise IncompatibleError(text)
        raise Refused(text)
    if found != kind:
        raise IncompatibleError(f"{who} sent record {found} where {kind} belongs")
    return record


def _refuse(channel: Channel, refusal: Refusal) -> None:
    """Says why, if that can be said at once; the connection is then closed anyway."""
    with contextlib.suppress(OSError):
        channel.send(refusal.pack(), _NOW)


def _send(channel: Channel, fd: int, record: bytes) -> Steps[None]:
    while record:
        try:
            record = record[channel.send(record, _NOW) :]
        except BlockingIOError:
            yield Need(fd, select.POLLOUT)
    while isinstance(channel, TlsChannel) and channel.pending:
        try:
            channel.flush(_NOW)
        except BlockingIOError:
            yield Need(fd, select.POLLOUT)


def _record(channel: Channel, fd: int, who: str, role: int) -> Steps[bytes]:
    """The next record of the opening; never a byte more is read."""
    record = b""
    while len(record) < RECORD:
        try:
            part = channel.recv(RECORD - len(record), socket.MSG_DONTWAIT)
        except BlockingIOError:
            yield Need(fd, select.POLLIN)
            continue
        if not part:
            if role == CONNECTED and not record:
                raise _hung_up(who)
            raise PeerDied(f"{who} ended the connection while it was opened")
        record += part
        kind_of(record, who)
    return record


def _hung_up(who: str) -> Refused:
    return Refused(
        f"{who}: hung up before it answered. It is full, or ended, or speaks something else (TLS?)"
    )

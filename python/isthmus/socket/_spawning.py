"""Streams, listeners and datagram sockets for children that multiprocessing spawns.

They are pickled only while a child is started, as multiprocessing does it with its own connections: their
descriptors go along with the child. What a stream has read ahead goes too, as the bytes that it came as. In
the child they are what they are in a forked one: copies, whose `close` gives back a descriptor and no more.
"""

import os
import socket
import sys
from typing import TYPE_CHECKING, Any, cast

from isthmus._errors import ClosedError

from ._opening import Opened
from ._protocol import END, descriptors_header, file_header, frame_header
from ._receive import FileComes, WithDescriptors

if TYPE_CHECKING:
    from .datagram import Datagram
    from .listener import Listener
    from .stream import Stream

__all__ = ["datagram", "listener", "stream"]


def stream(given: "Stream[Any]") -> tuple[object, ...]:
    """A stream, taken apart."""
    _check(given, given.closed)
    if given._tls is not None:
        raise TypeError(
            f"{given!r} cannot go to another process: the state of its TLS is here. Accept or connect there"
        )
    if given._broken is not None:
        raise TypeError(f"{given!r} cannot go to another process: {given._broken}")
    given.flush(0)
    if not given._receiving.acquire(blocking=False):
        raise TypeError(f"{given!r} cannot go to another process while a thread here receives from it")
    try:
        if given._over is not None and given._over != given._finished:
            raise given._over()
        came, passed = _unread(given)
    finally:
        given._receiving.release()
    kept = (
        given._where, given._terms, given._role, given._owner, given._credentials, given._who, given._most,
        given._takes_descriptors, given._finished_here,
    )  # fmt: skip
    return _stream, (type(given), _passed(given._number), kept, came, [_passed(number) for number in passed])


def _stream(
    cls: "type[Stream[Any]]", handle: Any, kept: tuple[Any, ...], came: bytes, passed: list[Any]
) -> "Stream[Any]":
    where, terms, role, owner, credentials, who, most, takes, finished = kept
    sock = _socket(handle)
    made = cls._made(where, terms, Opened(sock, sock, None, credentials, who, most, takes), role)
    made._owner = owner
    made._finished_here = made._owed = finished
    made._chunk, made._single = came, made._single and not came
    if made._rights is not None:
        made._rights.held = tuple(_detached(each) for each in passed)
    return made


def _unread(given: "Stream[Any]") -> tuple[bytes, list[int]]:
    """What was received and nobody has taken: as bytes that say the same, and descriptors."""
    parts: list[bytes] = []
    passed: list[int] = []
    for item in given._ready:
        if type(item) is FileComes:
            parts.append(file_header(item.size))
            continue
        data = item
        if type(item) is WithDescriptors:
            data = item.data
            passed += item.descriptors
            parts.append(descriptors_header(len(item.descriptors)))
        parts += [frame_header(len(data)), data] if given._framed else [data]
        if given.framing == "lines":
            parts.append(b"\n")
    if given._given is not None:
        passed += given._given
        parts.append(descriptors_header(len(given._given)))
    if given._landing is not None:
        parts += [frame_header(given._landing.size), given._landing.begun()]
    parts += [*given._parts.values(), given._rest, given._chunk]
    if given._over is not None and given._framed:
        parts.append(END)
    if given._rights is not None:
        passed += given._rights.held
    return b"".join(parts), passed


def listener(given: "Listener[Any]") -> tuple[object, ...]:
    """A listener, taken apart; connections in their opening stay here."""
    _check(given, given.closed)
    terms = given._terms
    if terms.context is not None:
        if terms.tls is None:
            raise TypeError(
                f"{given!r} cannot go to another process: its ssl.SSLContext is here. A Tls goes there"
            )
        terms = terms._replace(context=None)
    kept = (given._where, terms, given._identity, given._owner, given._opening_timeout, given._most_opening)
    return _listener, (type(given), [_passed(sock.fileno()) for sock in given._socks], kept)


def _listener(cls: "type[Listener[Any]]", handles: list[Any], kept: tuple[Any, ...]) -> "Listener[Any]":
    where, terms, identity, owner, opening_timeout, most_opening = kept
    socks = [_socket(handle) for handle in handles]
    if terms.tls is not None:
        from ._tls import server_context

        terms = terms._replace(context=server_context(terms.tls))
    made = cls.__new__(cls)
    made._begin(where, terms, socks, identity, opening_timeout, most_opening)
    made._owner = owner
    return made


def datagram(given: "Datagram[Any]") -> tuple[object, ...]:
    """A socket for datagrams, taken apart."""
    _check(given, given.closed)
    kept = (
        given._target, given._unix, given._codec, given._allowed, given._limit, given._numbers is not None,
    )  # fmt: skip
    place = (given._own, given._identity, given._owner)
    return _datagram, (type(given), _passed(given._number), kept, place)


def _datagram(
    cls: "type[Datagram[Any]]", handle: Any, kept: tuple[Any, ...], place: tuple[Any, ...]
) -> "Datagram[Any]":
    own, identity, owner = place
    made = cls.__new__(cls)
    made._agree(*kept)
    made._settle_in(_socket(handle), own, identity)
    made._owner = owner
    return made


def _check(given: Any, closed: bool) -> None:
    if closed:
        raise ClosedError(f"{given!r} cannot go to another process")
    context = sys.modules.get("multiprocessing.context")
    if context is None or context.get_spawning_popen() is None:
        raise TypeError(
            f"{given!r} is pickled only for a child that multiprocessing starts: give it to Process(args=…). "
            "To a running process its descriptor goes over a stream, send(…, descriptors=[…])"
        )


def _passed(number: int) -> Any:
    from multiprocessing.reduction import DupFd

    return cast("Any", DupFd)(number)  # typed for Windows too; here it has detach()


def _detached(handle: Any) -> int:
    number: int = handle.detach()
    os.set_inheritable(number, False)
    return number


def _socket(handle: Any) -> socket.socket:
    return socket.socket(fileno=_detached(handle))

"""Descriptors that come with bytes of a Unix socket: SCM_RIGHTS, unix(7) and cmsg(3).

They are taken only by a stream that was made with `descriptors=`: where a socket is read without room for
them, the kernel closes what comes. What is here and belongs to no message (yet) is closed when the stream
ends.
"""

import array
import os
import socket
from collections.abc import Iterable

from isthmus._errors import CorruptError, TooLarge

__all__ = ["Rights", "ancillary", "close_all"]


def close_all(descriptors: Iterable[int]) -> None:
    """Closes them all."""
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            continue


def ancillary(descriptors: Iterable[int]) -> list[tuple[int, int, bytes]]:
    """What sendmsg(2) takes to send them."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]


class Rights:
    """Receives bytes of a socket and the descriptors with them; up to `limit` wait for their message."""

    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._recvmsg = sock.recvmsg
        self._space = socket.CMSG_SPACE(limit * array.array("i").itemsize)
        self._limit = limit
        # Replaced, never changed: whoever is interrupted leaves the one or the other.
        self.held: tuple[int, ...] = ()
        self._got: tuple[bytes, list[tuple[int, int, bytes]], int, object] | None = None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As of a socket; a peer that sends more descriptors than agreed is a `TooLarge`."""
        if self._got is None:
            arguments = ((size,), (self._space,), (flags | socket.MSG_CMSG_CLOEXEC,))
            for self._got in map(self._recvmsg, *arguments):
                break
        assert self._got is not None
        data, messages, came, _ = self._got
        found = array.array("i")
        for level, kind, raw in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found.frombytes(raw[: len(raw) - len(raw) % found.itemsize])
        if came & socket.MSG_CTRUNC or len(self.held) + len(found) > self._limit:
            self._got = None
            close_all(found)
            self.close()
            raise TooLarge(
                f"more descriptors came than the {self._limit} agreed, or than this process may open",
                limit=self._limit,
            )
        self.held, self._got = (*self.held, *found), None
        return data

    def first(self, count: int) -> list[int]:
        """The first `count` of those that wait; CorruptError where there are fewer."""
        if not 1 <= count <= len(self.held):
            raise CorruptError(f"a message says that it has {count} descriptors, {len(self.held)} came")
        return list(self.held[:count])

    def close(self) -> None:
        """Closes what waits."""
        held, self.held = self.held, ()
        close_all(held)

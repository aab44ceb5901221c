"""Files over a stream: sendfile(2) out, straight into a file in; never in memory as a whole."""

import os
import select
import socket
import struct
from typing import IO, TYPE_CHECKING, Any, Protocol

from isthmus._errors import IsthmusError, PeerDied, ShutDown, Unsupported

from ._protocol import file_header
from ._receive import FileComes
from ._steps import WAITS, deadline_of, left, may_sleep, wait_for_work

if TYPE_CHECKING:
    from .stream import Stream

__all__ = ["recv_file", "send_file"]

_PIECE = 1 << 20
_SENDFILE_MOST = 1 << 30


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""


def send_file(
    stream: "Stream[Any]",
    file: "IO[bytes] | HasFileno",
    offset: int,
    count: int | None,
    timeout: float | None,
) -> int:
    """As `Stream.send_file`."""
    stream._only_not("lines", "send_file")
    if not hasattr(file, "fileno"):
        raise TypeError(f"send_file takes an open file, not {file!r}")
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    if not 0 <= offset <= size or not 0 <= (size - offset if count is None else count) <= size - offset:
        raise ValueError(f"offset={offset}, count={count}: the file has {size} bytes")
    count = size - offset if count is None else count
    deadline = deadline_of(timeout)

    def put() -> None:
        stream._prepare(timeout, deadline)
        if stream._framed:
            stream._transmit(file_header(count), timeout, deadline)
            stream._finish_begun(None)
        try:
            _send_bytes(stream, descriptor, offset, count, timeout, deadline)
        except BaseException:
            # The other side counts on `count` bytes: without them nothing else can follow.
            stream._break(f"a file to {stream._who} was not sent to its end, so nothing can be sent after it")
            raise

    stream._alone(timeout, put)
    return count


def _send_bytes(
    stream: "Stream[Any]",
    descriptor: int,
    offset: int,
    count: int,
    timeout: float | None,
    deadline: float | None,
) -> None:
    end = offset + count
    try:
        while offset < end:
            piece = min(end - offset, _SENDFILE_MOST)
            if stream._tls is None:
                # sendfile(2) has no flag for not waiting; the socket has a time limit, and we have its lock.
                if (rest := left(deadline)) is not None:
                    _limit_sending(stream, rest)
                sent = os.sendfile(stream._number, descriptor, offset, piece)
            else:
                data = os.pread(descriptor, min(piece, _PIECE), offset)
                sent = len(data)
                stream._transmit(data, timeout, deadline)
                stream._finish_begun(timeout)
            if sent == 0:
                raise EOFError(f"the file ended {end - offset} bytes before what was to be sent of it")
            offset += sent
    except BlockingIOError:
        raise stream._full(timeout) from None
    except OSError as problem:
        if isinstance(problem, IsthmusError):
            raise
        raise stream._send_failure(problem) from problem
    finally:
        if deadline is not None and stream._tls is None:
            _limit_sending(stream, None)


def _limit_sending(stream: "Stream[Any]", seconds: float | None) -> None:
    # 0 means for ever.
    micros = 0 if seconds is None else max(1000, int(seconds * 1e6))
    value = struct.pack("ll", *divmod(micros, 1_000_000))
    stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def recv_file(stream: "Stream[Any]", file: "IO[bytes]", count: int | None, timeout: float | None) -> int:
    """As `Stream.recv_file`."""
    stream._only_not("lines", "recv_file")
    deadline = deadline_of(timeout)
    if stream._owed:
        stream._pay()
    held = False
    try:
        for held in map(stream._receiving.acquire, WAITS, (-1 if timeout is None else timeout,)):
            break
        if not held:
            raise stream._empty(timeout)
        if stream._framing == "raw":
            return _raw_file(stream, file, count, timeout, deadline)
        stream._fill(timeout, deadline)
        item = stream._ready[0]
        if type(item) is not FileComes:
            raise Unsupported(f"{stream._who} sends a message, not a file: recv() takes it")
        if count is not None and item.size > count:
            raise stream._does_not_fit(item.size, count)
        while item.size:
            if not stream._rest:
                stream._rest = _next_bytes(stream, item.size, timeout, deadline)
            part = stream._rest[: item.size]
            file.write(part)
            item.size, stream._rest = item.size - len(part), stream._rest[len(part) :]
        rest = stream._rest
        stream._ready.popleft()
        stream._chunk, stream._rest = rest, b""
        return item.total
    finally:
        if held:
            stream._receiving.release()


def _next_bytes(stream: "Stream[Any]", most: int, timeout: float | None, deadline: float | None) -> bytes:
    size = min(most, _PIECE)
    while True:
        if stream._over is not None:
            raise stream._over()
        flags = 0 if may_sleep(timeout) else socket.MSG_DONTWAIT
        try:
            for data in map(stream._recv, (size,), (flags,)):
                if data:
                    return data
            stream._at_end()
        except BlockingIOError:
            rest = left(deadline)
            if rest == 0.0 or not wait_for_work(stream._number, select.POLLIN, rest):
                raise stream._empty(timeout) from None
        except OSError as problem:
            stream._over = stream._failure(problem)


def _raw_file(
    stream: "Stream[Any]", file: "IO[bytes]", count: int | None, timeout: float | None, deadline: float | None
) -> int:
    got = 0
    while count is None or got < count:
        try:
            stream._fill(timeout, deadline)
        except ShutDown:
            if stream._over is None:  # this process was asked to end, and the stream goes on
                raise
            if count is None:
                return got
            raise PeerDied(f"{stream._who} finished after {got} of {count} bytes") from None
        data = stream._ready.popleft()
        if count is not None and got + len(data) > count:
            stream._ready.appendleft(data[count - got :])
            data = data[: count - got]
        file.write(data)
        got += len(data)
    return got

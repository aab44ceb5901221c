"""`FifoServer`, `FifoClient`: requests through one FIFO, each client's replies through one of its own.

A client makes its FIFO beside the server's, `<path>.<pid>-<random>`, and names it in each request; the
server opens only FIFOs of that directory whose name begins so. Both carry messages as `_fifo_ends.py` says:

    request     number (8 bytes, little-endian), length of the name (2), name, the request
    reply       number (8 bytes), the reply

The number ties a reply to its request: one that comes after its caller's timeout is thrown away. What a
killed client leaves behind is removed by the server when it finds nobody reading there.
"""

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast

from . import _descriptors as descriptors
from ._codec import codec_for
from ._descriptors import SLICE, deadline_of
from ._errors import ClosedError, Empty, InvalidMessage, PeerDied, ShutDown, Timeout
from ._fifo_ends import FifoReader, FifoWriter
from .fifo import LIMIT, Fifo

__all__ = ["FifoClient", "FifoRequest", "FifoServer"]

S = TypeVar("S")
T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds that a server waits for a client who does not take its reply."""


class FifoRequest(Generic[S, T]):
    """A request that a server has received: `message`, and `reply()` for the answer."""

    def __init__(self, message: S, number: bytes, name: str, server: "FifoServer[S, T]") -> None:
        self._message = message
        self._number = number
        self._name = name
        self._server = server

    @property
    def message(self) -> S:
        """What the client asks."""
        return self._message

    def reply(self, answer: T, timeout: float | None = _PATIENCE) -> bool:
        """Answers; False where the client has gone, which is no error for a server.

        `Full` when the client does not take it in `timeout` seconds (1 by default): a stopped client must not
        stop the server. None waits.
        """
        return self._server._reply(self._number, self._name, answer, timeout)

    def __repr__(self) -> str:
        return f"<isthmus.FifoRequest {self._message!r}>"


class FifoServer(Generic[S, T]):
    """Receives requests at the FIFO `path`, which it makes with `mode` where it is not there.

    `type` is what requests are, `reply` what answers are. `for request in server: request.reply(…)`. One
    process serves at a time; when it is killed, the next takes over the FIFO with what waits in it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        type: Any = bytes,
        reply: Any = bytes,
        mode: int = 0o600,
        limit: int = LIMIT,
        timeout: float | None = None,
    ) -> None:
        self._codec = codec_for(type)
        self._reply_codec = codec_for(reply)
        self._fifo: Fifo[bytes] = Fifo(path, type=bytes, mode=mode, limit=limit)
        self._reader: FifoReader[bytes] = self._fifo.reader(timeout)
        self._limit = limit

    @property
    def path(self) -> str:
        """Where clients ask."""
        return self._fifo.path

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._reader.closed

    def recv(self, timeout: float | None = None) -> FifoRequest[S, T]:
        """The next request; `Empty` when none came in `timeout` seconds.

        `InvalidMessage` where it is no request or not of the type; the next call takes the next.
        """
        return self._parsed(self._reader.recv(timeout))

    def _parsed(self, data: bytes) -> FifoRequest[S, T]:
        end = 10 + int.from_bytes(data[8:10], "little")
        name = data[10:end].decode(errors="replace")
        if len(data) < end or not name.startswith(f"{Path(self.path).name}.") or "/" in name:
            raise InvalidMessage(f"no request: {data[:64]!r}", reason="no request", data=data)
        message: Any = data[end:]
        if self._codec is not None:
            try:
                message = self._codec.decode(message)
            except Exception as error:
                raise InvalidMessage(
                    f"a request is not of type {self._codec.name}: {error}", reason=str(error), data=message
                ) from error
        return FifoRequest(message, data[:8], name, self)

    def __iter__(self) -> Iterator[FifoRequest[S, T]]:
        """Every request, until the server is closed or this process is asked to end."""
        while not self.closed:
            try:
                request = self.recv()
            except (ClosedError, ShutDown):
                return
            yield request

    def _reply(self, number: bytes, name: str, answer: Any, timeout: float | None) -> bool:
        data = self._reply_data(number, answer)
        writer = self._writer_to(name)
        if writer is None:
            return False
        with writer:
            try:
                writer.send(data, timeout)
            except (ShutDown, PeerDied):
                return False
        return True

    def _reply_data(self, number: bytes, answer: Any) -> bytes:
        data: Any = answer if self._reply_codec is None else self._reply_codec.encode(answer)
        return b"".join((number, *(data if isinstance(data, tuple) else (data,))))

    def _writer_to(self, name: str) -> FifoWriter[bytes] | None:
        """Opens the FIFO of a client; None where the client has gone."""
        path = Path(self.path).with_name(name)
        try:
            return Fifo.open(path, type=bytes, limit=self._limit + 8).writer(0)
        except FileNotFoundError:
            return None
        except Timeout:
            with contextlib.suppress(OSError):  # nobody reads there any more: killed
                path.unlink()
            return None

    def close(self) -> None:
        """Ends this server; the FIFO stays for the next."""
        self._fifo.close()

    def unlink(self) -> None:
        """Removes the FIFO. `FileNotFoundError` where it is gone."""
        self._fifo.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class FifoClient(Generic[S, T]):
    """Asks the server at the FIFO `path`: `client.call(request)` gives the reply.

    `type` and `reply` are what requests and answers are, as the server says it. Waits up to `timeout` seconds
    for a server. `mode` is that of the FIFO for the replies, to which the server has to be able to write. The
    requests of a `patient` client wait for the next server where there is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        type: Any = bytes,
        reply: Any = bytes,
        mode: int = 0o600,
        limit: int = LIMIT,
        patient: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._codec = codec_for(type)
        self._reply_codec = codec_for(reply)
        self._number = 0
        server: Fifo[bytes] = Fifo.open(path, type=bytes, limit=limit)
        self._writer: FifoWriter[bytes] = server.writer(timeout, patient=patient)
        own = f"{os.fsdecode(path)}.{os.getpid()}-{os.urandom(4).hex()}"
        self._fifo: Fifo[bytes] = Fifo.create(own, type=bytes, mode=mode, limit=limit + 8)
        self._name = Path(own).name.encode()
        try:
            self._reader: FifoReader[bytes] = self._fifo.reader(0)
        except BaseException:
            self._fifo.unlink()
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._writer.closed

    def call(self, message: S, timeout: float | None = None) -> T:
        """Asks, and waits for the reply.

        `Full` when the request found no room in `timeout` seconds, `Empty` when the reply did not come in
        time: it is thrown away should it come later. `ShutDown` when there is no server (`Full` for a patient
        client), `PeerDied` when it went before it answered. One thread at a time.
        """
        deadline = deadline_of(timeout)
        request = self._request(message)
        self._writer.send(request, descriptors.left(deadline))
        while True:
            reply = self._next(deadline)
            if reply[:8] == request[:8]:
                return cast("T", self._decoded(reply))

    def _request(self, message: Any) -> bytes:
        data: Any = message if self._codec is None else self._codec.encode(message)
        parts = data if isinstance(data, tuple) else (data,)
        self._number += 1
        head = self._number.to_bytes(8, "little") + len(self._name).to_bytes(2, "little") + self._name
        return b"".join((head, *parts))

    def _decoded(self, reply: bytes) -> Any:
        if self._reply_codec is None:
            return reply[8:]
        try:
            return self._reply_codec.decode(reply[8:])
        except Exception as error:
            raise InvalidMessage(
                f"a reply is not of type {self._reply_codec.name}: {error}", reason=str(error), data=reply[8:]
            ) from error

    def _next(self, deadline: float | None) -> bytes:
        """The next reply; looks now and then whether the server still is there."""
        while True:
            left = descriptors.left(deadline)
            try:
                return self._reader.recv(SLICE if left is None else min(left, SLICE))
            except Empty:
                self._check_server()
                if left is not None and left <= SLICE:
                    raise

    def _check_server(self) -> None:
        if descriptors.is_ready(self._writer._fd, select.POLLERR):
            raise PeerDied("the server has gone before it answered", since=time.time())

    def close(self) -> None:
        """Ends this client, and removes its FIFO."""
        self._writer.close()
        self._fifo.close()
        with contextlib.suppress(FileNotFoundError):  # a second time, or somebody has tidied up
            self._fifo.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_fifo") and not self._fifo.closed:
            self.close()

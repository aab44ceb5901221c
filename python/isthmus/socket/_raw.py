"""Byte and line streams: reading exactly so much, up to a mark, or into a buffer; and as a file."""

import io
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isthmus import _core
from isthmus._errors import ShutDown, TooLarge, Unsupported

from ._receive import AHEAD, FileComes, Receiver
from ._steps import WAITS, deadline_of, left, may_sleep, wait_for_work

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BytesReceiver"]


class BytesReceiver(Receiver):
    """What a stream of bytes can do besides `recv`."""

    _framing: str

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """Exactly `size` bytes; only with framing="raw".

        `Empty` when they have not come within `timeout` seconds, `ShutDown` when the other side finished
        before. What had come then stays, and the next call goes on with it.
        """
        self._only("raw", "read")
        if size < 0:
            raise ValueError(f"size is {size}: it takes 0 or more bytes")
        return self._gather(timeout, lambda _parts, got: (got >= size, size), missing=lambda got: size - got)

    def read_until(
        self, mark: bytes = b"\n", timeout: float | None = None, *, limit: int | None = None
    ) -> bytes:
        """All bytes up to `mark` and with it; only with framing="raw".

        `TooLarge` when there is none in `limit` bytes; that of the stream if not given. Otherwise as `read`.
        """
        self._only("raw", "read_until")
        if not mark:
            raise ValueError("mark is empty: there is nothing to look for")
        most = self._limit if limit is None else limit
        looked = bytearray()

        def find(parts: list[bytes], got: int) -> tuple[bool, int]:
            before = max(0, len(looked) - len(mark) + 1)
            looked.extend(parts[-1] if parts else b"")
            at = looked.find(mark, before)
            if (at < 0 and got > most) or at + len(mark) > most:
                raise TooLarge(
                    f"{self._who} sent {got} bytes without {mark!r}; the limit is {most}",
                    size=got,
                    limit=most,
                )
            return at >= 0, at + len(mark)

        return self._gather(timeout, find)

    def _gather(
        self,
        timeout: float | None,
        enough: Callable[[list[bytes], int], tuple[bool, int]],
        missing: Callable[[int], int] | None = None,
    ) -> bytes:
        """Takes what comes until it is enough; what is too much, or all of it after an error, is put back."""
        deadline = deadline_of(timeout)
        if self._owed:
            self._pay()
        parts: list[bytes] = []
        got = 0
        held = False
        try:
            for held in map(self._receiving.acquire, WAITS, (-1 if timeout is None else timeout,)):
                break
            if not held:
                raise self._empty(timeout)
            done, cut = enough(parts, 0)
            while not done:
                if missing is not None and missing(got) > AHEAD and not self._ready:
                    self._missing = missing(got)
                try:
                    self._fill(timeout, deadline)
                except ShutDown:
                    if self._over is None:  # this process was asked to end
                        raise
                    raise ShutDown(f"{self._who} finished after {got} bytes of what was to be read") from None
                finally:
                    self._missing = 0
                part = self._ready.popleft()
                parts.append(part)
                got += len(part)
                done, cut = enough(parts, got)
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts = [] if got == cut else [data[cut:]]
            return data if got == cut else data[:cut]
        finally:
            if held:
                self._ready.extendleft(reversed(parts))
                self._receiving.release()

    def recv_into(self, buffer: "Buffer", timeout: float | None = None) -> int:
        """Receives into a writable buffer; how many bytes.

        With framing="raw" what came, up to the buffer's size. With messages it takes type=bytes: one
        message, without a copy when it is large. `TooLarge` when it does not fit: it stays, and can be
        received into a larger one. Otherwise as `recv`.
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("recv_into needs a buffer that can be written to")
        if self._framing == "lines" or self._decode is not None:
            raise Unsupported('recv_into is for framing="raw", and for messages with type=bytes')
        deadline = deadline_of(timeout)
        if self._owed:
            self._pay()
        held = False
        try:
            for held in map(self._receiving.acquire, WAITS, (-1 if timeout is None else timeout,)):
                break
            if not held:
                raise self._empty(timeout)
            if self._framing == "raw":
                return self._raw_into(view, timeout, deadline)
            return self._message_into(view, timeout, deadline)
        finally:
            if held:
                self._receiving.release()

    def _raw_into(self, view: memoryview, timeout: float | None, deadline: float | None) -> int:
        while not self._ready and not self._chunk and self._over is None and not self._closed and view.nbytes:
            try:
                flags = 0 if may_sleep(timeout) else socket.MSG_DONTWAIT
                if got := self._recv_into(view, 0, flags):
                    return got
                self._at_end()
            except BlockingIOError:
                rest = left(deadline)
                if rest == 0.0 or not wait_for_work(self._number, select.POLLIN, rest):
                    raise self._empty(timeout) from None
            except OSError as problem:
                self._over = self._failure(problem)
        self._fill(timeout, deadline)
        data = self._ready.popleft()
        size = min(len(data), view.nbytes)
        view[:size] = data[:size]
        if size < len(data):
            self._ready.appendleft(data[size:])
        return size

    def _message_into(self, view: memoryview, timeout: float | None, deadline: float | None) -> int:
        """A large message whose header alone has come is received where it belongs."""
        while not self._ready:
            landing = self._landing
            if landing is not None and landing.missing == landing.size and self._given is None:
                size = landing.size
                if size > view.nbytes:
                    raise self._does_not_fit(size, view.nbytes)
                self._large_into(view[:size], timeout, deadline)
                return size
            self._step(timeout, deadline)
        item = self._ready[0]
        if type(item) is FileComes:
            self._ready.popleft()
            self._special(item)
        data = item if type(item) is bytes else item.data
        size = len(data)
        if size > view.nbytes:
            raise self._does_not_fit(size, view.nbytes)
        view[:size] = data
        self._ready.popleft()
        if type(item) is not bytes:
            self._special(item)
        return size

    def _step(self, timeout: float | None, deadline: float | None) -> None:
        """One turn of `_fill`."""
        if self._chunk:
            self._take()
        elif self._over is not None:
            raise self._over()
        elif self._closed:
            raise self._closed_error()
        else:
            try:
                self._read(may_sleep(timeout))
            except BlockingIOError:
                rest = left(deadline)
                if rest == 0.0 or not wait_for_work(self._number, select.POLLIN, rest):
                    raise self._empty(timeout) from None

    def _large_into(self, view: memoryview, timeout: float | None, deadline: float | None) -> None:
        size = view.nbytes
        got = 0
        try:
            while got < size:
                before = got
                try:
                    for came in map(self._recv_into, (view[got:],), (0,), (socket.MSG_DONTWAIT,)):
                        got = before + came
                except BlockingIOError:
                    rest = left(deadline)
                    if rest != 0.0 and self._patience.look(self._number):
                        continue
                    if rest == 0.0 or not wait_for_work(self._number, select.POLLIN, rest):
                        raise self._empty(timeout) from None
                except OSError as problem:
                    self._over = self._failure(problem)
                    raise self._over() from problem
                else:
                    if got == before:
                        self._at_end()
                        assert self._over is not None
                        raise self._over()
        except BaseException:
            if got:
                self._landing = _core.Landing(size, bytes(view[:got]))
            raise
        self._came, self._landing = self._came + 1, None

    def _does_not_fit(self, size: int, room: int) -> TooLarge:
        return TooLarge(
            f"{self._who} sent {size} bytes; the buffer has room for {room}", size=size, limit=room
        )

    def _only_not(self, framing: str, what: str) -> None:
        if self._framing == framing:
            raise Unsupported(f'{what} is not for framing="{framing}"')

    def _only(self, framing: str, what: str) -> None:
        if self._framing != framing:
            raise Unsupported(f'{what} is for framing="{framing}"; this stream has framing="{self._framing}"')


class StreamFile(io.RawIOBase):
    """A stream of bytes as a file, for code that wants one. Closing it leaves the stream open."""

    def __init__(self, stream: Any, mode: str, timeout: float | None) -> None:
        super().__init__()
        self._stream = stream
        self._mode = mode
        self._timeout = timeout

    def readable(self) -> bool:
        """Whether it was made for reading."""
        return "r" in self._mode

    def writable(self) -> bool:
        """Whether it was made for writing."""
        return "w" in self._mode

    def fileno(self) -> int:
        """The stream's descriptor."""
        return int(self._stream.fileno())

    def readinto(self, buffer: Any) -> int:
        """Bytes that came, 0 at the end."""
        try:
            return int(self._stream.recv_into(buffer, self._timeout))
        except ShutDown:
            if self._stream._over is None:  # this process was asked to end, and the stream goes on
                raise
            return 0

    def write(self, data: Any) -> int:
        """Sends it all."""
        self._stream.send(data, self._timeout)
        return memoryview(data).nbytes

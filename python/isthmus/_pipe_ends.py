"""`PipeReader`, `PipeWriter`: the ends of a pipe, and what messages look like in it.

So that a program in another language can read and write them:

    length      4 bytes, little-endian: the size n of the message, at most 2**31 - 1
    message     n bytes

A frame of at most 4096 bytes is written in one piece. A larger one may be given up half way, when its
`timeout` passes: then what is missing of it is filled up with zeros, before anything else is sent, and the
receiver has to throw it away. So a frame of more than 4096 bytes that has a timeout says in its length (bit
31 is set) that one more byte follows the message: 1 when the message is whole, 0 when it was given up. A
frame without a timeout is always completed: where Ctrl+C comes in the middle, the rest goes first with the
next call.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from . import _core
from . import _descriptors as descriptors
from ._codec import codec_for
from ._descriptors import PIPE_BUF, HasFileno
from ._errors import Full, ShutDown, TooLarge, Unsupported
from ._stream import AHEAD, End, flat
from ._stream_reader import ByteReader
from ._stream_writer import ByteWriter, Sending

__all__ = ["LIMIT", "PipeReader", "PipeWriter", "at_least_1"]

T = TypeVar("T")

LIMIT = 1 << 28
"""Bytes of the largest message, unless `limit` says otherwise: 256 MiB."""
_MAY_BE_REVOKED = 1 << 31
_KEEP = 1 << 23
"""Bytes of the buffer for large messages that a reader keeps from one to the next."""
_SMALL = PIPE_BUF - 4
"""Bytes of a message whose frame is written in one piece."""


class _PipePart(End):
    """What both ends of a pipe have in common: type, limit, and a way to other processes."""

    _flags = 0

    def __init__(self, source: int | HasFileno, type: Any, limit: int, private: bool) -> None:
        if not 0 <= limit < _MAY_BE_REVOKED:
            raise ValueError(f"limit={limit}: a message has 0 to {_MAY_BE_REVOKED - 1} bytes")
        codec = None if type is None else codec_for(type)
        super().__init__(_descriptor(source, self._flags), private=private)
        self._framed = type is not None
        self._type = type
        self._limit = limit
        self._codec = codec

    @property
    def type(self) -> Any:
        """What messages are; None where bytes go through without limits between them."""
        return self._type

    @property
    def limit(self) -> int:
        """Bytes of the largest message."""
        return self._limit

    def __reduce__(self) -> tuple[object, ...]:
        """To a child that multiprocessing starts: the descriptor goes along with it.

        Otherwise, as through a queue: the receiver opens the pipe through /proc, and this process has to live
        and keep the end open until then.
        """
        fd = self.fileno()
        self._may_leave()
        context = sys.modules.get("multiprocessing.context")
        if context is not None and context.get_spawning_popen() is not None:
            from multiprocessing.reduction import DupFd

            # Typed for Windows too; here it has detach().
            return _inherit, (type(self), cast("Any", DupFd)(fd), self._type, self._limit)
        status = os.fstat(fd)
        place = (os.getpid(), fd, status.st_dev, status.st_ino)
        return _reopen, (type(self), place, self._type, self._limit)

    def _may_leave(self) -> None:
        """Whether this end can go on elsewhere."""


def _descriptor(source: int | HasFileno, flags: int) -> int:
    fd = descriptors.fd_of(source)
    import fcntl

    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if mode not in (flags, os.O_RDWR):
        word = "reading" if mode == os.O_RDONLY else "writing"
        raise ValueError(f"descriptor {fd} is open for {word} only")
    return fd if isinstance(source, int) else os.dup(fd)


def _inherit(cls: Any, handle: Any, type: Any, limit: int) -> Any:
    return cls(handle.detach(), type=type, limit=limit)


def _reopen(cls: Any, place: tuple[int, int, int, int], type: Any, limit: int) -> Any:
    pid, number, *file = place
    try:
        fd = os.open(f"/proc/{pid}/fd/{number}", cls._flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, f"process {pid}, which sent this end of a pipe, is gone or has closed it"
        ) from None
    status = os.fstat(fd)
    if [status.st_dev, status.st_ino] != file:
        os.close(fd)
        raise FileNotFoundError(f"process {pid}, which sent this end of a pipe, has closed it")
    return cls(fd, type=type, limit=limit, _private=True)


class PipeReader(_core.FrameReceiver, _PipePart, ByteReader, Generic[T]):
    """The end of a pipe where things come out: of a `Pipe`, or of any descriptor.

    `PipeReader(0)` takes over a descriptor: closing the reader closes it. Of a file or another object with
    `fileno()` the descriptor is duplicated. With a `type` messages come out (`recv`, iteration), without one
    bytes (`read`, `readline`, iteration by lines). A message of more than `limit` bytes is not taken.
    """

    _what = "the writing end of the pipe"
    _flags = os.O_RDONLY

    @overload
    def __init__(
        self, source: int | HasFileno, *, type: type[T], limit: int = LIMIT, _private: bool = False
    ) -> None: ...
    @overload
    def __init__(
        self: "PipeReader[Any]",
        source: int | HasFileno,
        *,
        type: Any = None,
        limit: int = LIMIT,
        _private: bool = False,
    ) -> None: ...
    def __init__(
        self, source: int | HasFileno, *, type: Any = None, limit: int = LIMIT, _private: bool = False
    ) -> None:
        super().__init__(source, type, limit, _private)
        self._decode = None if self._codec is None else self._codec.decode
        # A message of more than AHEAD bytes that is being read: its frame, and how much of it has come.
        self._large: memoryview | None = None
        self._got = 0
        self._room = bytearray()
        if self._decode is not None:
            self._decode_by(self._decode)
        self._hand_out()

    if TYPE_CHECKING:

        def recv(self, timeout: float | None = None) -> T:
            """See the native class: it does what is short, and the rest by `_recv`."""
            raise NotImplementedError

    def recv_many(self, most: int | None = None, timeout: float | None = None) -> list[T]:
        """The messages that are there, at most `most`, at least one: waits for it as `recv` does."""
        at_least_1(most)
        return self._and_more(self.recv(timeout), most)

    def _and_more(self, first: T, most: int | None) -> list[T]:
        """A message, and those that are there already."""
        messages = [first]
        # What is not of the type is met, and said, by the next call.
        while (most is None or len(messages) < most) and (found := self._next(True)):
            messages.append(found[0])
        return messages

    def __iter__(self) -> Iterator[T]:
        """Every message to the end; without a type every line."""
        if not self._framed:
            yield from cast("Iterator[T]", self.lines())
            return
        while True:
            try:
                message = self.recv()
            except ShutDown:
                return
            yield message

    def close(self) -> None:
        """Closes this end in this process. When the last copy is closed, writers get `ShutDown`."""
        super().close()

    def _recv(self, timeout: float | None) -> Any:
        """What `recv` does when it is not short."""
        if not self._framed:
            raise Unsupported("bytes go through this pipe: take read(), or make it with a type")
        return self._wait_for(self._message, timeout, eager=True)[0]

    def _hand_out(self) -> None:
        at_rest = self._large is None and not (self._ended or self._foreign or self._counts)
        if self._framed and at_rest and self._fd >= 0 and self._ahead() <= AHEAD:
            self._hand_over(self._fd, descriptors.way_of(self._read_now), self._limit)

    def _take_back(self) -> None:
        if self._framed:
            self._take_over()

    def _after_fork(self) -> None:
        self._take_back()
        super()._after_fork()
        self._hand_out()

    def _message(self) -> tuple[Any] | None:
        """The next whole message in a tuple; None when there is none yet. The lock is held."""
        while True:
            if self._large is not None:
                if len(self._large) > self._got:
                    if self._ended:
                        raise self._end_error(len(self._large))
                    self._target = self._large[self._got :]
                    if not self._read_now(self._fd, [self._target], self._counts):
                        return None
                    self._settle()
                    continue
                frame, self._large = self._large, None
            else:
                have = self._ahead()
                size = self._frame_size(have)
                if size > have:
                    if self._ended:
                        raise self._end_error(size)
                    if size > AHEAD:
                        self._begin_large(size)
                    elif not self._fill():
                        return None
                    continue
                self._join()
                frame = memoryview(self._data)[self._at : self._at + size]
                self._at += size
            found = self._unpacked(frame)
            if found is not None:
                return found

    def _frame_size(self, have: int) -> int:
        """Bytes of the frame that comes next, or of its length where that is not known yet."""
        if have < 4:
            return 4
        self._join()
        length = int.from_bytes(self._data[self._at : self._at + 4], "little")
        more, length = divmod(length, _MAY_BE_REVOKED)
        if length > self._limit:
            raise TooLarge(
                f"a message of {length} bytes comes, over the limit of {self._limit}: raise limit= at both "
                "ends, or see whether what is sent are messages; nothing more can be received from here",
                size=length,
                limit=self._limit,
            )
        return 4 + length + more

    def _begin_large(self, size: int) -> None:
        """Reads on straight into a buffer of its own."""
        self._join()
        have = len(self._data) - self._at
        if len(self._room) < size:
            self._room = bytearray(size)
        view = memoryview(self._room)[:size]
        view[:have] = self._data[self._at :]
        self._data = b""
        self._at = 0
        self._got = have
        self._large = view

    def _settle(self) -> None:
        if self._large is None:
            super()._settle()
            return
        count = self._counts[0]
        # No call between these three: nothing can interrupt them.
        self._got += count
        self._ended = count == 0
        self._counts.clear()

    def _ahead(self) -> int:
        return super()._ahead() if self._large is None else self._got

    def _unpacked(self, frame: memoryview) -> tuple[Any] | None:
        """What a frame says; None when it was given up by its sender."""
        length = int.from_bytes(frame[:4], "little")
        message = frame[4:]
        if length & _MAY_BE_REVOKED:
            if not frame[-1]:
                return None
            message = frame[4:-1]
        found = (bytes(message) if self._decode is None else self._decoded(message),)
        if len(self._room) > _KEEP and frame.obj is self._room:
            self._room = bytearray()
        return found

    def _decoded(self, message: "bytes | memoryview") -> Any:
        assert self._decode is not None
        try:
            return self._decode(message)
        except Exception as error:
            raise self._invalid(bytes(message), error) from error

    def _may_leave(self) -> None:
        with self._lock:
            self._take_back()
            ahead = self._ahead()
            self._hand_out()
        if ahead:
            raise Unsupported(f"this end has read {ahead} bytes ahead: hand it over before reading")


def at_least_1(most: int | None) -> None:
    """ValueError for less than one message."""
    if most is not None and most < 1:
        raise ValueError(f"most={most}: at least 1")


def _refuse(_message: object) -> Any:
    raise Unsupported("bytes go through this pipe: take write(), or make it with a type")


class PipeWriter(_core.FrameSender, _PipePart, ByteWriter, Generic[T]):
    """The end of a pipe where things go in: of a `Pipe`, or of any descriptor.

    `PipeWriter(1)` takes over a descriptor: closing the writer closes it. Of a file or another object with
    `fileno()` the descriptor is duplicated. With a `type` messages go in (`send`), without one bytes
    (`write`). A message of more than `limit` bytes is refused.
    """

    _what = "the reading end of the pipe"
    _flags = os.O_WRONLY
    _own = -1

    @overload
    def __init__(
        self, source: int | HasFileno, *, type: type[T], limit: int = LIMIT, _private: bool = False
    ) -> None: ...
    @overload
    def __init__(
        self: "PipeWriter[Any]",
        source: int | HasFileno,
        *,
        type: Any = None,
        limit: int = LIMIT,
        _private: bool = False,
    ) -> None: ...
    def __init__(
        self, source: int | HasFileno, *, type: Any = None, limit: int = LIMIT, _private: bool = False
    ) -> None:
        super().__init__(source, type, limit, _private)
        self._own = -1
        self._encode: Callable[[Any], Any] | None = None
        if type is None:
            self._encode = _refuse
        elif self._codec is not None:
            self._encode = self._codec.encode
        if self._encode is not None:
            self._encode_by(self._encode)
        self._piped = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
        self._hand_out()

    if TYPE_CHECKING:

        def send(self, message: T, timeout: float | None = None) -> None:
            """See the native class: it does what is short, and the rest by `_send`."""

    def _send(self, data: Any, timeout: float | None) -> None:
        """What `send` does when it is not short, with what the type has made of the message."""
        self._transmit(self._framed_parts(self._parts(data), timeout), timeout, self._give_up)

    def _hand_out(self) -> None:
        # Only a pipe takes a small message whole or not at all.
        if self._framed and self._piped and self._current is None and self._fd >= 0:
            if self._own >= 0:
                self._arm(self._own, 1, self._limit)
            else:
                self._arm(self._fd, descriptors.way_of(self._write_now), self._limit)

    def _take_back(self) -> None:
        self._arm(-1, 0, 0)

    def _speed_up(self) -> None:
        """Opens the same pipe once more, for this process alone and so with O_NONBLOCK.

        Then write(2) is enough. Called by the native class once it has sent many messages; without /proc, or
        the permission, all stays as it is.
        """
        with self._lock, contextlib.suppress(OSError):
            if self._fd >= 0 and self._own < 0:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self._own = os.open(f"/proc/self/fd/{self._fd}", flags)
                if self._current is None:
                    self._hand_out()

    def _after_fork(self) -> None:
        self._take_back()
        super()._after_fork()
        self._hand_out()

    def _cancellable(self, message: Any) -> Sending:
        """A message as it is sent where that may end half way at any time."""
        data: Any = message if self._encode is None else self._encode(message)
        return self._framed_parts(self._parts(data), 0.0)

    def send_many(self, messages: Sequence[T], timeout: float | None = None) -> None:
        """Sends messages with few system calls, for small ones far faster than one by one.

        `Full` says in `sent` how many went out before `timeout`; the others were not sent.
        """
        deadline = descriptors.deadline_of(timeout)
        sent = 0
        while sent < len(messages):
            count, sending = self._together(messages[sent : sent + 512])
            rest = descriptors.left(deadline)
            try:
                if sending is None:
                    self.send(messages[sent], rest)
                else:
                    self._transmit(sending, rest, self._give_up)
                sent += count
            except Full as error:
                error.sent = sent
                raise

    def _together(self, messages: Sequence[T]) -> tuple[int, Sending | None]:
        """How many of the first messages go out in one piece, and that piece; None where one goes alone."""
        batch: list[bytes] = []
        size = 0
        for message in messages:
            data: Any = message if self._encode is None else self._encode(message)
            if data.__class__ is not bytes or len(data) > _SMALL:
                break
            if size + len(data) > _SMALL - 4 * len(batch):
                break
            size += len(data)
            batch.append(data)
        if len(batch) < 2:
            return 1, None
        frame = b"".join([part for data in batch for part in (len(data).to_bytes(4, "little"), data)])
        return len(batch), Sending([memoryview(frame)], len(frame))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until the rest of an interrupted message is in the pipe; `Full` after `timeout` seconds.

        Otherwise there is nothing to wait for: what was sent is in the pipe.
        """
        if (owed := self._owed()) is not None:
            self._transmit(owed, timeout, lambda _sending, _error: None)

    def _owed(self) -> Sending | None:
        with self._lock:
            self._check()
            return self._current

    def close(self) -> None:
        """Closes this end in this process. When the last copy is closed, readers come to the end.

        What an interrupted call still owes goes out as far as there is room; `flush()` before waits for it.
        """
        with self._lock:
            if self._current is not None and self._fd >= 0:
                try:
                    self._settle()
                    if self._current is not None:
                        self._push(self._current)
                except OSError:  # nobody reads
                    pass
            self._take_back()
            own, self._own = self._own, -1
            if own >= 0:
                os.close(own)
        super().close()

    def _parts(self, data: Any) -> list[memoryview]:
        try:
            return [flat(part) for part in (data if isinstance(data, tuple) else (data,))]
        except TypeError:
            raise TypeError(
                f"the message is a {data.__class__}; type=bytes takes bytes and other objects with the "
                "buffer protocol"
            ) from None

    def _framed_parts(self, parts: list[memoryview], timeout: float | None) -> Sending:
        size = sum(map(len, parts))
        if size > self._limit:
            raise TooLarge(
                f"a message of {size} bytes is over the limit of {self._limit}: raise limit= at both ends",
                size=size,
                limit=self._limit,
            )
        length, total = size, size + 4
        if timeout is not None and total > PIPE_BUF:
            length, total = size | _MAY_BE_REVOKED, total + 1
            parts = [*parts, memoryview(b"\1")]
        return Sending([memoryview(length.to_bytes(4, "little")), *parts], total)

    def _give_up(self, sending: Sending, _error: BaseException) -> None:
        """What becomes of a frame whose sender stops here. The lock is held."""
        if self._current is not sending:
            return
        if sending.sent == 0:
            self._current = None
            return
        rest = sending.total - sending.sent
        if sending.parts[0][3] & 0x80:
            parts = [memoryview(bytes(rest - 1)), memoryview(b"\0")]
        else:
            parts = [memoryview(b"".join(sending.all_the_rest()))]
        self._current = Sending(parts, rest, owed=True)

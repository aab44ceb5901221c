"""`FifoReader`, `FifoWriter`: the ends of a FIFO, and what messages look like in it.

Many processes write to a FIFO at once, and each may be killed at any instruction. So nothing is ever written
but *packets*: at most 4096 bytes (PIPE_BUF) with one write(2), which the kernel does whole or not at all, and
never mixes with others'. A message that fits goes in one packet, a larger one in several, between which
packets of other writers may come; each says what it is part of. No lock is held while writing. A writer that
is killed in the middle, or stopped, disturbs nobody: its message stays incomplete, the reader forgets it, and
the next packet of anybody else is at the next byte.

    0   magic       f1 1f
    2   kind        0 a whole message, 1 a part, 2 a message that was given up
    3   zero
    4   size        bytes of this packet after its header, 4 bytes, little-endian like all below
    of kind 1 and 2 more:
    8   sender      8 bytes, drawn by each writing handle
    16  number      of the message, 4 bytes, counted by the sender
    20  total       bytes of the message, 4 bytes
    24  offset      of this part, 4 bytes
    28  pid         of the sender, 4 bytes

The writers set O_DIRECT on their descriptors ("packet mode", pipe(2)), so that one read(2) takes one packet.
A reader that is killed has taken one packet at most that it did not hand over, and the next reader begins
where a packet begins. What somebody else writes into such a FIFO (`echo`) is an `InvalidMessage`, and may
stick to a packet written behind it: the reader finds that by its magic and size.

One process reads messages at a time, or the parts of one would go to several: it holds flock(2) on the FIFO,
which the kernel takes back when it dies. A message of several parts that it was receiving dies with it.

Messages in one packet go the short way, in `_core.PacketReceiver` and `PacketSender`, and all else by the
methods here.

The reader forgets an incomplete message when its sender has given it up; when no process has the sender's id
and it has been silent for `_SILENT` (the sender may live in another PID namespace); and the one that was
silent longest where there are more than 64 or they take more than twice `limit`.
"""

import contextlib
import errno
import fcntl
import os
import select
import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import _core
from . import _descriptors as descriptors
from ._codec import codec_for
from ._descriptors import AGAIN, PIPE_BUF, deadline_of
from ._errors import Full, InvalidMessage, NoSpaceError, PeerDied, ShutDown, Timeout, TooLarge, Unsupported
from ._stream import flat
from ._stream_reader import TURN, ByteReader
from ._stream_writer import ByteWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FifoReader", "FifoWriter"]

T = TypeVar("T")

MAGIC = b"\xf1\x1f"
WHOLE, PART, GIVEN_UP = 0, 1, 2
SHORT, LONG = 8, 32
"""Bytes of the two headers."""
_SMALL = PIPE_BUF - SHORT
"""Bytes of a message that goes in one packet."""
_PARTIAL = 64
_SILENT = 5.0
"""Seconds."""
_CAPACITY = 1 << 20
"""A packet takes a page of it, however small it is: this is room for 256."""


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def _check_type(type: Any) -> Any:
    return None if type is None else codec_for(type)


class FifoReader(_core.PacketReceiver, ByteReader, Generic[T]):
    """The end of a FIFO where things come out; made by `Fifo.reader`."""

    _what = "the FIFO"

    def __init__(
        self, path: str, type: Any, limit: int, *, ends_with_writers: bool, deadline: float | None
    ) -> None:
        codec = _check_type(type)
        try:
            # Being a writer too keeps the end of the stream away while nobody else is one.
            fd = _open(path, os.O_RDONLY if ends_with_writers else os.O_RDWR)
        except PermissionError as error:
            if ends_with_writers or not os.access(path, os.R_OK):
                raise
            raise PermissionError(
                error.errno,
                "staying while no writer is there needs the permission to write as well; without it take "
                "ends_with_writers=True",
                path,
            ) from None
        super().__init__(fd, private=True)
        self._path = path
        self._framed = type is not None
        self._codec = codec
        self._limit = limit
        # Of the inbox so many were taken: to take one must not copy the others, and be no call (Ctrl+C).
        self._inbox: list[tuple[bool, bytes]] = []
        self._taken = 0
        self._raw: list[bytes] = []
        self._partial: dict[bytes, _Partial] = {}
        self._abandoned = 0
        # Looks before it reads where it is no writer itself: without one a read says "end", also before the
        # first came.
        self._read_now = descriptors.calls_for(fd, careful=ends_with_writers)[0]
        if self._framed:
            try:
                with contextlib.suppress(NoSpaceError):
                    descriptors.set_capacity(fd, _CAPACITY)
                self._take_turn(deadline)
                if codec is not None:
                    self._decode_by(codec.decode)
                self._hand_out()
            except BaseException:
                self.close()
                raise

    @property
    def abandoned(self) -> int:
        """Messages that were forgotten incomplete, because their sender died or gave them up."""
        return self._abandoned

    if TYPE_CHECKING:

        def recv(self, timeout: float | None = None) -> T:
            """See the native class: it does what is short, and the rest by `_recv`."""
            raise NotImplementedError

    def _recv(self, timeout: float | None) -> Any:
        """What `recv` does when it is not short."""
        if not self._framed:
            raise Unsupported("bytes go through this FIFO: take read(), or open it with a type")
        return self._decoded(self._wait_for(self._message, timeout, eager=True))

    def _decoded(self, data: bytes) -> Any:
        if self._codec is None:
            return data
        try:
            return self._codec.decode(data)
        except Exception as error:
            raise self._invalid(data, error) from error

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

    def _take_turn(self, deadline: float | None) -> None:
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left = descriptors.left(deadline)
                if left == 0.0:
                    raise Timeout(f"another process reads messages from {self._path}") from None
                time.sleep(AGAIN if left is None else min(AGAIN, left))
            else:
                return

    def _message(self) -> bytes | None:
        for reads in range(TURN + 1):
            if self._raw:
                self._sort()
            if self._taken < len(self._inbox):
                good, message = self._inbox[self._taken]
                self._taken += 1
                if not good:
                    raise InvalidMessage(
                        f"{len(message)} bytes in {self._path} are no message", reason="foreign", data=message
                    )
                return message
            if self._ended:
                raise ShutDown(f"the last writer of {self._path} has closed it")
            if reads == TURN or not self._read_now(self._fd, [self._scratch], self._counts):
                break
            self._settle()
        return None

    def _settle(self) -> None:
        if not self._framed:
            super()._settle()
            return
        count = self._counts[0]
        data = bytes(memoryview(self._scratch)[:count])
        # No call between these: nothing can interrupt them.
        if count:
            self._raw = [*self._raw, data]
        self._ended = count == 0
        self._counts.clear()

    def _sort(self) -> None:
        """Puts whole messages of what was read into the inbox; again after Ctrl+C, which changes nothing."""
        found: list[tuple[bool, bytes]] = []
        for data in self._raw:
            for good, packet in _packets(data):
                if not good:
                    found.append((False, packet))
                elif packet[2] == WHOLE:
                    found.append((True, packet[SHORT:]))
                elif (whole := self._add(packet)) is not None:
                    found.append((True, whole))
        # No call between these either.
        self._inbox = [*self._inbox[self._taken :], *found]
        self._taken = 0
        self._raw = []

    def _add(self, packet: bytes) -> bytes | None:
        """Adds a part to its message, and gives that when it is whole."""
        key = packet[8:20]
        total, offset, pid = (int.from_bytes(packet[at : at + 4], "little") for at in (20, 24, 28))
        if packet[2] == GIVEN_UP:
            self._forget(key)
            return None
        partial = self._partial.get(key)
        if partial is None:
            if offset:
                return None  # its beginning went to a reader before this one, or was forgotten
            if total > self._limit:
                self._abandoned += 1
                return None
            self._make_room(total)
            partial = self._partial[key] = _Partial(total, pid)
        if offset == len(partial.data):
            partial.data += packet[LONG:]
            partial.touched = time.monotonic()
        if len(partial.data) < total:
            return None
        del self._partial[key]
        return bytes(partial.data)

    def _make_room(self, more: int) -> None:
        silent = time.monotonic() - _SILENT
        for key, partial in list(self._partial.items()):
            if partial.touched < silent and _is_gone(partial.pid):
                self._forget(key)
        while self._partial and (
            len(self._partial) >= _PARTIAL
            or more + sum(partial.total for partial in self._partial.values()) > 2 * self._limit
        ):
            self._forget(min(self._partial, key=lambda key: self._partial[key].touched))

    def _forget(self, key: bytes) -> None:
        if self._partial.pop(key, None) is not None:
            self._abandoned += 1

    def _hand_out(self) -> None:
        at_rest = not (self._raw or self._taken < len(self._inbox) or self._ended or self._counts)
        if self._framed and at_rest and self._fd >= 0:
            self._hand_over(self._fd, descriptors.way_of(self._read_now), _SMALL)

    def _take_back(self) -> None:
        if self._framed:
            self._take_over()
            if self._data:  # it stopped at what is no whole message
                self._raw = [self._data]
                self._data = b""

    def _after_fork(self) -> None:
        super()._after_fork()
        if self._framed:
            self.close()  # it belongs to the parent, and so does its turn


class _Partial:
    def __init__(self, total: int, pid: int) -> None:
        self.total = total
        self.pid = pid
        self.data = bytearray()
        self.touched = time.monotonic()


def _is_gone(pid: int) -> bool:
    """Whether no process of this PID namespace has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _packets(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """The packets in what was read, and as False what stands between them."""
    at = junk = 0
    while at < len(data):
        size = _packet_size(data, at)
        if size:
            if junk < at:
                yield False, data[junk:at]
            yield True, data[at : at + size]
            at = junk = at + size
        else:
            at = data.find(MAGIC, at + 1)
            if at < 0:
                break
    if junk < len(data):
        yield False, data[junk:]


def _packet_size(data: bytes, at: int) -> int:
    """Bytes of the packet that begins there; 0 where none does."""
    if data[at : at + 2] != MAGIC or len(data) - at < SHORT or data[at + 3]:
        return 0
    kind = data[at + 2]
    header = SHORT if kind == WHOLE else LONG
    size = header + int.from_bytes(data[at + 4 : at + 8], "little")
    return size if kind <= GIVEN_UP and size <= min(PIPE_BUF, len(data) - at) else 0


# ------------------------------------------------------------------------------------------ writing


class FifoWriter(_core.PacketSender, ByteWriter, Generic[T]):
    """The end of a FIFO where things go in; made by `Fifo.writer`."""

    _what = "the FIFO"

    def __init__(self, path: str, type: Any, limit: int, *, patient: bool, deadline: float | None) -> None:
        codec = _check_type(type)
        super().__init__(_open_for_writing(path, deadline), private=True)
        self._path = path
        self._framed = type is not None
        self._codec = codec
        self._limit = limit
        self._patient = patient
        self._number = 0
        self._sender = os.urandom(8)
        self._given_up: list[bytes] = []
        if self._framed:
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        if codec is not None:
            self._encode_by(codec.encode)
        self._hand_out()

    if TYPE_CHECKING:

        def send(self, message: T, timeout: float | None = None) -> None:
            """See the native class: it does what is short, and the rest by `_send`."""

    def _send(self, data: Any, timeout: float | None) -> None:
        """What `send` does when it is not short, with what the type has made of the message."""
        steps = self._steps_of(data)
        try:
            deadline: float | None = -1.0  # not known yet: mostly there is nothing to wait for
            for what in steps:
                if deadline == -1.0:
                    deadline = deadline_of(timeout)
                if what == "reader":
                    left = descriptors.left(deadline)
                    if left == 0.0:
                        raise Full(f"nobody reads {self._path}")
                    time.sleep(AGAIN if left is None else min(AGAIN, left))
                elif not descriptors.wait(self._fd, select.POLLOUT, deadline):
                    raise Full("no room came in time")
        except BaseException as error:
            with contextlib.suppress(StopIteration):
                steps.throw(error)
            raise

    def _hand_out(self) -> None:
        # Packets of several threads may come in any order, but what was given up is said before any other.
        if self._framed and self._fd >= 0 and not self._given_up:
            self._arm(self._fd, descriptors.way_of(self._write_now), self._limit)
        else:
            self._take_back()

    def _take_back(self) -> None:
        self._arm(-1, 0, 0)

    def _parts(self, data: Any) -> tuple[list[memoryview], int]:
        if not self._framed:
            raise Unsupported("bytes go through this FIFO: take write(), or open it with a type")
        try:
            parts = [flat(part) for part in (data if isinstance(data, tuple) else (data,))]
        except TypeError:
            raise TypeError(
                f"the message is a {data.__class__}; type=bytes takes bytes and other objects with the "
                "buffer protocol"
            ) from None
        size = sum(map(len, parts))
        if size > self._limit:
            raise TooLarge(
                f"a message of {size} bytes is over the limit of {self._limit}: raise limit= at both ends",
                size=size,
                limit=self._limit,
            )
        return parts, size

    def _steps(self, message: Any) -> Generator[str]:
        """See `_steps_of`."""
        return self._steps_of(message if self._codec is None else self._codec.encode(message))

    def _steps_of(self, data: Any) -> Generator[str]:
        """Sends, and yields where it has to be waited for: for "room", or for a "reader".

        Whoever drives it throws in what ends the wait, so that a message half sent is given up.
        """
        parts, size = self._parts(data)
        if size <= _SMALL:
            header = MAGIC + b"\0\0" + size.to_bytes(4, "little")
            yield from self._put([header, *parts], 0, size)
            return
        whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        with self._lock:
            self._number += 1
            number = self._number.to_bytes(8, "little")[:4]
        pid = os.getpid().to_bytes(4, "little")

        def header_of(kind: int, length: int) -> bytes:
            start = MAGIC + bytes([kind, 0]) + length.to_bytes(4, "little") + self._sender + number
            return start + size.to_bytes(4, "little") + at.to_bytes(4, "little") + pid

        at = 0
        try:
            while at < size:
                piece = whole[at : at + PIPE_BUF - LONG]
                new_reader = yield from self._put([header_of(PART, len(piece)), piece], at, size)
                # Who comes new has not seen the beginning.
                at = 0 if new_reader and at else at + len(piece)
        except BaseException:
            if at:
                with self._lock:
                    self._given_up = [*self._given_up, header_of(GIVEN_UP, 0)]
                    self._hand_out()
                    with contextlib.suppress(OSError):
                        self._write_given_up()
            raise

    def _put(self, packet: "Sequence[Buffer]", at: int, size: int) -> Generator[str, None, bool]:
        """Writes one packet, whole. True: it waited for a new reader."""
        waited = False
        while True:
            with self._lock:
                self._check()
                try:
                    if self._write_given_up() and self._write_now(self._fd, packet, self._counts):
                        self._counts.clear()
                        return waited
                except BrokenPipeError as error:
                    self._given_up = []
                    self._hand_out()
                    if not self._patient:
                        raise self._gone(at, size) from error
                    waited = True
            yield "reader" if waited and descriptors.is_ready(self._fd, select.POLLERR) else "room"

    def _gone(self, at: int, size: int) -> ShutDown | PeerDied:
        if not at:
            return ShutDown(f"nobody reads {self._path}")
        return PeerDied(f"the last reader of {self._path} has gone in the middle: {at} of {size} bytes went")

    def _write_given_up(self) -> bool:
        """Tells the reader what it need not keep any more; False where there is no room for that."""
        while self._given_up:
            if not self._write_now(self._fd, [self._given_up[0]], self._counts):
                return False
            self._counts.clear()
            self._given_up = self._given_up[1:]
            self._hand_out()
        return True

    def _after_fork(self) -> None:
        super()._after_fork()
        self._sender = os.urandom(8)
        self._given_up = []
        self._hand_out()

    def close(self) -> None:
        """Closes this end in this process."""
        if self._fd >= 0 and self._given_up:
            with self._lock:
                try:
                    self._write_given_up()
                except OSError:  # nobody reads
                    self._given_up = []
        super().close()


def _open_for_writing(path: str, deadline: float | None) -> int:
    """Opens as soon as somebody reads. There is nothing to wait in for that, so it looks again and again."""
    while True:
        try:
            return _open(path, os.O_WRONLY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        left = descriptors.left(deadline)
        if left == 0.0:
            raise Timeout(f"nobody opened {path} for reading in time")
        time.sleep(AGAIN if left is None else min(AGAIN, left))

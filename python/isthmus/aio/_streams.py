"""What the asyncio faces of `Pipe` and `Fifo` have in common: they try, and wait with `_ready`."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from isthmus._descriptors import AGAIN, WOULD_BLOCK, HasFileno, deadline_of, fd_of, left
from isthmus._errors import Empty, Full, Timeout
from isthmus._stream import AHEAD, MOVE, End, flat
from isthmus._stream_reader import ByteReader, Output, at_least_0
from isthmus._stream_writer import ByteWriter, Sending

from ._driver import TURN, checkpoint
from ._ready import readable, writable

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Reads", "Side", "Writes", "again"]

T = TypeVar("T")


class Side:
    """One end, wrapped."""

    _end: End
    _calls = 0

    async def _turn(self) -> None:
        """Before anything is taken: a task that never has to wait must not starve the loop."""
        self._calls += 1
        if self._calls % TURN == 0:
            await checkpoint()

    @property
    def sync(self) -> Any:
        """The end for code that is not asynchronous."""
        return self._end

    @property
    def closed(self) -> bool:
        """Whether this end was closed here."""
        return self._end.closed

    @property
    def capacity(self) -> int:
        """Bytes that the kernel's buffer takes; assign to it for more, as in `isthmus`."""
        return self._end.capacity

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        self._end.capacity = capacity

    def fileno(self) -> int:
        """The descriptor, for other programs."""
        return self._end.fileno()

    def close(self) -> None:
        """Closes this end in this process; tasks that wait in it get `ClosedError`."""
        self._end.close()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<isthmus.aio.{type(self).__name__} of {self._end!r}>"


class Reads(Side):
    """Reading bytes; see `isthmus.PipeReader` for each call. A task that is cancelled loses no byte."""

    _end: ByteReader

    async def read(self, size: int = AHEAD, timeout: float | None = None) -> bytes:
        """What is there, at most `size` bytes; b"" is the end. `Empty` after `timeout` seconds."""
        at_least_0(size)
        return await self._bytes(lambda: self._end._some(size), timeout)

    async def read_exactly(self, size: int, timeout: float | None = None) -> bytes:
        """`size` bytes; `ShutDown` at the end, `PeerDied` when it comes before all are there."""
        at_least_0(size)
        return await self._bytes(lambda: self._end._exactly(size), timeout)

    async def read_all(self, timeout: float | None = None) -> bytes:
        """Everything to the end of the stream."""
        return await self._bytes(self._end._all, timeout)

    async def readline(self, timeout: float | None = None) -> bytes:
        r"""One line with its b"\n"; b"" is the end."""
        return await self._bytes(self._end._line, timeout)

    async def readinto(self, buffer: "Buffer", timeout: float | None = None) -> int:
        """Fills a writable buffer with what is there, says with how many bytes; 0 is the end."""
        target = flat(buffer)
        return await self._bytes(lambda: self._end._into(target), timeout)

    async def lines(self) -> AsyncIterator[bytes]:
        r"""The lines to the end of the stream, each with its b"\n"."""
        while line := await self.readline():
            yield line

    async def splice_to(
        self, target: int | HasFileno, size: int | None = None, timeout: float | None = None
    ) -> int:
        """Moves bytes to a file, a socket or a pipe inside the kernel; says how many."""
        self._end._only_bytes()
        fd, moved, output = fd_of(target), 0, Output()
        while size is None or moved < size:
            deadline = deadline_of(timeout)
            count = self._end._try_move(fd, None if size is None else size - moved, output)
            if count is None:
                if not await readable(self._end._fd, left(deadline)):
                    raise Timeout(f"no byte to move for {timeout:g} s; {moved} were moved before")
                if not await writable(fd, left(deadline)):
                    raise Timeout(f"no room to move to for {timeout:g} s; {moved} bytes were moved before")
                continue
            if count == 0:
                break
            moved += count
        return moved

    async def tee_to(self, target: "Writes | End", size: int = MOVE, timeout: float | None = None) -> int:
        """Copies what is there, at most `size` bytes, into another pipe, and takes none of it."""
        self._end._only_bytes()
        other = target._end if isinstance(target, Writes) else target
        deadline = deadline_of(timeout)
        while (count := self._end._try(lambda: self._end._tee(other, size))) is None:
            if not await readable(self._end._open_fd(), left(deadline)):
                raise Timeout(f"no byte to copy for {timeout:g} s")
            if not await writable(other._open_fd(), left(deadline)):
                raise Timeout(f"no room to copy to for {timeout:g} s")
        return count

    async def _bytes(self, step: Callable[[], T | None], timeout: float | None) -> T:
        self._end._only_bytes()
        return await self._until(step, timeout)

    async def _until(self, step: Callable[[], T | None], timeout: float | None) -> T:
        """Calls `step` until it has an answer."""
        deadline = deadline_of(timeout)
        await self._turn()
        in_time = True
        while (found := self._end._try(step)) is None:
            if not in_time:
                raise Empty("nothing came in time")
            in_time = await readable(self._end._open_fd(), left(deadline))
        return found


class Writes(Side):
    """Writing bytes; see `isthmus.PipeWriter` for each call."""

    _end: ByteWriter

    async def write(self, data: Any, timeout: float | None = None) -> int:
        """Writes all of a buffer; `Full` after `timeout` seconds says in `sent` how many bytes went."""
        self._end._only_bytes()
        sending = self._end._sending(data)
        await self._transmit(sending, timeout, self._end._cut)
        return sending.total

    async def splice_from(
        self, source: int | HasFileno, size: int | None = None, timeout: float | None = None
    ) -> int:
        """Moves bytes from a file, a socket or a pipe into this pipe inside the kernel; says how many.

        Where the kernel cannot they are read and written.
        """
        self._end._only_bytes()
        fd, moved, by_hand = fd_of(source), 0, False
        while size is None or moved < size:
            deadline = deadline_of(timeout)
            if not await readable(fd, left(deadline)):
                raise Timeout(f"no byte to move for {timeout:g} s; {moved} were moved before")
            rest = None if size is None else size - moved
            count = None if by_hand else self._end._splice(fd, rest)
            if count is None:
                by_hand = True
                count = await self.write(os.read(fd, AHEAD if rest is None else min(rest, AHEAD)), timeout)
            elif count == WOULD_BLOCK:
                if not await writable(self._end._open_fd(), left(deadline)):
                    raise Timeout(f"no room to move to for {timeout:g} s; {moved} bytes were moved before")
                continue
            if count == 0:
                break
            moved += count
        return moved

    async def _transmit(self, sending: Sending, timeout: float | None, give_up: Any) -> None:
        deadline = deadline_of(timeout)
        await self._turn()
        end = self._end
        try:
            in_time = True
            while not end._advance(sending):
                if not in_time:
                    raise Full(end._full_text(sending))
                in_time = await writable(end._open_fd(), left(deadline))
        except BaseException as error:
            with end._lock:
                end._settle()
                give_up(sending, error)
                end._hand_out()
            raise


async def again(deadline: float | None, late: Exception) -> None:
    """Sleeps a moment where there is nothing to wait in; raises `late` at the deadline."""
    rest = left(deadline)
    if rest == 0.0:
        raise late
    await asyncio.sleep(AGAIN if rest is None else min(AGAIN, rest))

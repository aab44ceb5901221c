"""`ByteReader`: the end of a byte stream where bytes come out. How ends work is said in `_stream.py`."""

import select
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import _descriptors as descriptors
from ._descriptors import HasFileno, deadline_of, fd_of
from ._errors import Empty, InvalidMessage, PeerDied, ShutDown, Timeout, Unsupported
from ._stream import AHEAD, MOVE, End, flat

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["TURN", "ByteReader", "Output", "at_least_0"]

T = TypeVar("T")

TURN = 256
"""How often one step reads, at most, before the clock is asked: a writer may be faster than its reader."""
_LOOKS = 64
"""How often a reader looks, at most, before it sleeps: about 40 us."""
_SHORT = 100e-6
"""Seconds of a wait that would have been worth looking through."""


class ByteReader(End):
    """The end of a byte stream where bytes come out."""

    _what = "the other end"
    _framed = False
    _codec: Any = None

    def __init__(self, fd: int, *, private: bool = False) -> None:
        super().__init__(fd, private=private)
        # Read ahead: `_data` from `_at` on, then `_chunks`, which are `_more` bytes.
        self._data = b""
        self._at = 0
        self._chunks: list[bytes] = []
        self._more = 0
        self._scratch = bytearray(AHEAD)
        self._target: bytearray | memoryview = self._scratch
        self._ended = False
        self._foreign = 0
        self._looks = 8  # learned: waits that were short raise it, others lower it

    def _after_fork(self) -> None:
        super()._after_fork()
        self._foreign = self._ahead()

    def read(self, size: int = AHEAD, timeout: float | None = None) -> bytes:
        """What is there, at most `size` bytes: waits for the first, and b"" is the end of the stream.

        `Empty` when nothing came in `timeout` seconds. See read(2).
        """
        at_least_0(size)
        return self._bytes(lambda: self._some(size), timeout, eager=size == 0)

    def read_exactly(self, size: int, timeout: float | None = None) -> bytes:
        """`size` bytes, neither more nor less.

        `ShutDown` at the end of the stream, `PeerDied` when it ends with fewer bytes, `Empty` after `timeout`
        seconds; what has come until then stays for the next call.
        """
        at_least_0(size)
        return self._bytes(lambda: self._exactly(size), timeout, eager=size == 0)

    def read_all(self, timeout: float | None = None) -> bytes:
        """All to the end of the stream; `Empty` after `timeout` seconds, and what has come stays here."""
        return self._bytes(self._all, timeout)

    def readline(self, timeout: float | None = None) -> bytes:
        r"""One line with its b"\n"; the last may be without, and b"" is the end of the stream.

        `Empty` when no whole line came in `timeout` seconds; what has come of it stays for the next call.
        """
        with self._lock:
            if not self._chunks and not self._framed and not self._foreign and self._fd >= 0:
                end = self._data.find(b"\n", self._at) + 1
                if end:
                    line = self._data[self._at : end]
                    self._at = end
                    return line
        return self._bytes(self._line, timeout)

    def readinto(self, buffer: "Buffer", timeout: float | None = None) -> int:
        """Fills a writable buffer with what is there, says with how many bytes; 0 is the end of the stream.

        `Empty` when nothing came in `timeout` seconds.
        """
        target = flat(buffer)
        return self._bytes(lambda: self._into(target), timeout, eager=not target)

    def lines(self) -> Iterator[bytes]:
        r"""The lines to the end of the stream, each with its b"\n"."""
        while line := self.readline():
            yield line

    def splice_to(
        self, target: int | HasFileno, size: int | None = None, timeout: float | None = None
    ) -> int:
        """Moves bytes to a file, a socket or a pipe inside the kernel; says how many.

        All to the end of the stream, or `size` bytes. Where the kernel cannot (terminals, files opened for
        appending) they are read and written. `Timeout` after `timeout` seconds without a byte; what was
        moved until then is gone from here. `ShutDown` says that nobody reads `target` any more. See
        splice(2).
        """
        self._only_bytes()
        fd, moved, output = fd_of(target), 0, Output()
        while size is None or moved < size:
            deadline = deadline_of(timeout)
            rest = None if size is None else size - moved
            while (count := self._try_move(fd, rest, output)) is None:
                if not descriptors.wait(self._fd, select.POLLIN, deadline):
                    raise Timeout(f"no byte to move for {timeout:g} s; {moved} were moved before")
                if not descriptors.wait(fd, select.POLLOUT, deadline):
                    raise Timeout(f"no room to move to for {timeout:g} s; {moved} bytes were moved before")
            if count == 0:
                break
            moved += count
        return moved

    def tee_to(self, target: End, size: int = MOVE, timeout: float | None = None) -> int:
        """Copies what is there, at most `size` bytes, into another pipe, and takes none of it.

        Waits for the first byte and says how many went; 0 is the end of the stream. `Timeout` after `timeout`
        seconds, `ShutDown` when nobody reads `target` any more. See tee(2).
        """
        self._only_bytes()
        deadline = deadline_of(timeout)
        while True:
            count = self._try(lambda: self._tee(target, size))
            if count is not None:
                return count
            if not descriptors.wait(self._fd, select.POLLIN, deadline):
                raise Timeout(f"no byte to copy for {timeout:g} s")
            if not descriptors.wait(target._fd, select.POLLOUT, deadline):
                raise Timeout(f"no room to copy to for {timeout:g} s")

    # ------------------------------------------------------------------ what is there now
    #
    # Each answers from what was read ahead, reads on where that is not enough, and answers None when it would
    # block. The lock is held.

    def _some(self, size: int) -> bytes | None:
        if not self._ahead() and size and not self._ended and not self._fill():
            return None
        self._join()
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def _exactly(self, size: int) -> bytes | None:
        while (have := self._ahead()) < size:
            if self._ended:
                raise self._end_error(size)
            if not self._fill(size - have):
                return None
        self._join()
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def _all(self) -> bytes | None:
        for _ in range(TURN):
            if self._ended or not self._fill(MOVE):
                break
        if not self._ended:
            return None
        self._join()
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken

    def _line(self) -> bytes | None:
        if not self._chunks and (end := self._data.find(b"\n", self._at) + 1):
            taken = self._data[self._at : end]
            self._at = end
            return taken
        looked = 0  # chunks known to have no end of a line
        for _ in range(TURN):
            if self._ended or any(b"\n" in chunk for chunk in self._chunks[looked:]):
                break
            looked = len(self._chunks)
            if not self._fill():
                return None
        else:
            return None
        self._join()
        end = (self._data.find(b"\n", self._at) + 1) or len(self._data)
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _lines(self) -> list[bytes] | None:
        """Every whole line that is there, at least one; at the end what is left, and then none."""
        line = self._line()
        if line is None:
            return None
        if not line:
            return []
        end = self._data.rfind(b"\n", self._at) + 1
        if not end:
            return [line]
        taken = self._data[self._at : end - 1]
        self._at = end
        return [line, *[part + b"\n" for part in taken.split(b"\n")]]

    def _into(self, target: memoryview) -> int | None:
        if self._ahead():
            self._join()
            taken = self._data[self._at : self._at + len(target)]
            target[: len(taken)] = taken
            self._at += len(taken)
            return len(taken)
        if self._ended or not target:
            return 0
        counts: list[int] = []
        if not self._read_now(self._fd, [target], counts):
            return None
        self._ended = counts[0] == 0
        return counts[0]

    def _try_move(self, fd: int, rest: int | None, output: "Output") -> int | None:
        return self._try(lambda: self._move(fd, MOVE if rest is None else min(MOVE, rest), output))

    def _move(self, fd: int, size: int, output: "Output") -> int | None:
        """Moves once: how many bytes, 0 at the end."""
        if not self._ahead():
            if self._ended:
                return 0
            if not output.by_hand:
                if not descriptors.is_ready(fd, select.POLLOUT):  # a socket would block, whatever it is asked
                    return None
                try:
                    count = descriptors.splice_now(self._fd, fd, size)
                except BrokenPipeError as error:
                    raise ShutDown("nobody reads what is moved to any more") from error
                if count is not None:
                    self._ended = count == 0
                    return None if count == descriptors.WOULD_BLOCK else count
                output.by_hand = True
            if not self._fill():
                return None
        self._join()
        if self._at == len(self._data):
            return 0
        count = output.write(fd, memoryview(self._data)[self._at : self._at + size])
        self._at += count or 0
        return count

    def _tee(self, target: End, size: int) -> int | None:
        if self._ahead() or self._ended:
            self._join()
            rest = memoryview(self._data)[self._at : self._at + size]
            return Output().write(target._open_fd(), rest) if rest else 0
        try:
            count = descriptors.tee_now(self._fd, target._open_fd(), size)
        except BrokenPipeError as error:
            raise ShutDown("nobody reads what is copied to any more") from error
        if count == 0:
            self._ended = True
        return None if count == descriptors.WOULD_BLOCK else count

    # ------------------------------------------------------------------ reading on and waiting

    def _ahead(self) -> int:
        """Bytes that are read ahead."""
        return len(self._data) - self._at + self._more

    def _check(self) -> None:
        if self._fd < 0:
            raise self._closed_error()
        if self._foreign:
            raise Unsupported(
                f"the parent of this process had read {self._foreign} bytes ahead when it forked, and they "
                "are the parent's: fork before reading"
            )
        if self._counts:
            self._settle()

    def _fill(self, wanted: int = 0) -> bool:
        """Reads on into what is read ahead; False when it would block. The end sets `_ended`."""
        if wanted > len(self._scratch):
            self._scratch = bytearray(MOVE)
        self._target = self._scratch
        if not self._read_now(self._fd, [self._target], self._counts):
            return False
        self._settle()
        return True

    def _settle(self) -> None:
        """Takes note of what the last read brought; also where Ctrl+C came between the read and the note."""
        count = self._counts[0]
        chunk = bytes(memoryview(self._target)[:count])
        # No call between these four: nothing can interrupt them.
        if count:
            self._chunks = [*self._chunks, chunk]
        self._more += count
        self._ended = count == 0
        self._counts.clear()

    def _join(self) -> None:
        """Puts what is read ahead into one piece."""
        if self._chunks:
            data = b"".join((self._data[self._at :], *self._chunks))
            self._data = data
            self._at = self._more = 0
            self._chunks = []

    def _end_error(self, wanted: int) -> ShutDown | PeerDied:
        have = self._ahead()
        if have == 0:
            return ShutDown(f"{self._what} is closed: nothing more will come")
        return PeerDied(
            f"{self._what} was closed in the middle, as when its process is killed: "
            f"{have} of {wanted} bytes came"
        )

    def _invalid(self, data: bytes, error: Exception) -> InvalidMessage:
        """What to raise where a message cannot be decoded."""
        found = InvalidMessage(
            f"a message is not of type {self._codec.name if self._codec else 'bytes'}: {error}",
            reason=str(error),
            data=data,
        )
        found.__cause__ = error
        return found

    def _only_bytes(self) -> None:
        if self._framed:
            raise Unsupported("messages go through this pipe: take recv(), or make it without a type")

    def _bytes(self, step: Callable[[], T | None], timeout: float | None, *, eager: bool = False) -> T:
        self._only_bytes()
        return self._wait_for(step, timeout, eager=eager)

    def _try(self, step: Callable[[], T | None]) -> T | None:
        with self._lock:
            self._take_back()
            try:
                self._check()
                return step()
            finally:
                self._hand_out()

    def _wait_for(self, step: Callable[[], T | None], timeout: float | None, *, eager: bool = False) -> T:
        """Calls `step` until it has an answer; `Empty` when it has none in time."""
        # With nothing read ahead a try would mostly be in vain, and costs more than to look first.
        eager = eager or self._ended or self._fd < 0 or self._ahead() > 0
        found = self._try(step) if eager else None
        if found is None:
            deadline = deadline_of(timeout)
            in_time = True
            begun = time.monotonic()
            # Falling asleep and being woken costs both sides more than to look for a moment.
            if timeout != 0 and self._fd >= 0 and descriptors.look(self._fd, select.POLLIN, self._looks):
                found = self._try(step)
            while in_time and found is None:
                descriptors.wait(self._fd, select.POLLIN, deadline)
                in_time = descriptors.left(deadline) != 0.0
                found = self._try(step)
            short = time.monotonic() - begun < _SHORT
            self._looks = min(_LOOKS, 2 * self._looks) if short else max(1, self._looks // 2)
            if found is None:
                raise self._empty()
        return found

    def _empty(self) -> Empty:
        return Empty("nothing came in time")


def at_least_0(size: int) -> None:
    """ValueError for a negative size."""
    if size < 0:
        raise ValueError(f"size={size}: 0 or more bytes are read; read_all() reads to the end")


class Output:
    """Where bytes are moved to by hand: how to write there is found out when it is needed."""

    def __init__(self) -> None:
        self.by_hand = False
        self._calls: Any = None
        self._fd = -1

    def write(self, fd: int, piece: memoryview) -> int | None:
        """Writes some of it: how many bytes, None when it would block."""
        if fd != self._fd:
            self._fd, self._calls = fd, descriptors.calls_for(fd)[1]
        counts: list[int] = []
        try:
            return counts[0] if self._calls(fd, [piece], counts) else None
        except BrokenPipeError as error:
            raise ShutDown("nobody reads what is moved to any more") from error

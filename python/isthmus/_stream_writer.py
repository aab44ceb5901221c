"""`ByteWriter`: the end of a byte stream where bytes go in. How ends work is said in `_stream.py`."""

import os
import select
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _descriptors as descriptors
from ._descriptors import HasFileno, deadline_of, fd_of
from ._errors import Full, PeerDied, ShutDown, Timeout, Unsupported
from ._stream import AHEAD, MOVE, End, flat

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ByteWriter", "Sending"]

_IOV_MAX = 1024


class Sending:
    """Bytes on their way: what one call writes. They go in one run, whoever else writes to the same end."""

    __slots__ = ("owed", "parts", "sent", "total")

    def __init__(self, parts: "Sequence[memoryview]", total: int, *, owed: bool = False) -> None:
        self.parts = parts
        self.owed = owed  # the rest of what was begun
        self.total = total
        self.sent = 0

    def rest(self) -> list[memoryview]:
        """What is left to be written, as much of it as one call takes."""
        skip, rest = self.sent, []
        for part in self.parts:
            size = len(part)
            if skip >= size:
                skip -= size
                continue
            rest.append(part[skip:] if skip else part)
            skip = 0
            if len(rest) == _IOV_MAX:
                break
        return rest

    def all_the_rest(self) -> list[memoryview]:
        """What is left to be written, all of it."""
        first = self.rest()
        return first if len(first) < _IOV_MAX else [*first, *self._after(sum(map(len, first)))]

    def _after(self, more: int) -> list[memoryview]:
        later = Sending(self.parts, self.total)
        later.sent = self.sent + more
        return later.all_the_rest()


class ByteWriter(End):
    """The end of a byte stream where bytes go in."""

    _what = "the other end"
    _framed = False

    def __init__(self, fd: int, *, private: bool = False) -> None:
        super().__init__(fd, private=private)
        self._current: Sending | None = None

    def _after_fork(self) -> None:
        super()._after_fork()
        self._current = None  # the parent goes on with it

    def write(self, data: "Buffer", timeout: float | None = None) -> int:
        """Writes all of a buffer and says how many bytes that were.

        `Full` when there was no room in `timeout` seconds: its `sent` says how many bytes went. `ShutDown`
        when nobody reads any more; SIGPIPE is not raised. Up to 4096 bytes go in one piece, whoever else
        writes to the same pipe. See pipe(7).
        """
        self._only_bytes()
        sending = self._sending(data)
        self._transmit(sending, timeout, self._cut)
        return sending.total

    @staticmethod
    def _sending(data: "Buffer") -> Sending:
        view = flat(data)
        return Sending([view], len(view))

    def splice_from(
        self, source: int | HasFileno, size: int | None = None, timeout: float | None = None
    ) -> int:
        """Moves bytes from a file, a socket or a pipe into this pipe inside the kernel; says how many.

        All to the end of `source`, or `size` bytes. Where the kernel cannot they are read and written.
        `Timeout` after `timeout` seconds without a byte, and `ShutDown` when nobody reads this pipe any more.
        See splice(2).
        """
        self._only_bytes()
        fd, moved, by_hand = fd_of(source), 0, False
        while size is None or moved < size:
            deadline = deadline_of(timeout)
            rest = None if size is None else size - moved
            while not descriptors.is_ready(fd, select.POLLIN):
                if not descriptors.wait(fd, select.POLLIN, deadline):
                    raise Timeout(f"no byte to move for {timeout:g} s; {moved} were moved before")
            count = None if by_hand else self._splice(fd, rest)
            if count is None:
                by_hand = True
                count = self.write(os.read(fd, AHEAD if rest is None else min(rest, AHEAD)), timeout)
            elif count == descriptors.WOULD_BLOCK:
                if not descriptors.wait(self._fd, select.POLLOUT, deadline):
                    raise Timeout(f"no room to move to for {timeout:g} s; {moved} bytes were moved before")
                continue
            if count == 0:
                break
            moved += count
        return moved

    def _splice(self, fd: int, rest: int | None) -> int | None:
        with self._lock:
            self._check()
            if self._current is not None and not self._push(self._current):
                return descriptors.WOULD_BLOCK
            try:
                return descriptors.splice_now(fd, self._fd, MOVE if rest is None else min(MOVE, rest))
            except BrokenPipeError as error:
                raise self._nobody() from error

    # ------------------------------------------------------------------ writing on and waiting

    def _only_bytes(self) -> None:
        if self._framed:
            raise Unsupported("messages go through this pipe: take send(), or make it without a type")

    def _check(self) -> None:
        if self._fd < 0:
            raise self._closed_error()

    def _transmit(self, sending: Sending, timeout: float | None, give_up: Any) -> None:
        """Writes it all; on whatever ends this before, `give_up(sending)` says what becomes of the rest."""
        try:
            if self._advance(sending):
                return
            deadline = deadline_of(timeout)
            while True:
                in_time = descriptors.wait(self._fd, select.POLLOUT, deadline)
                if self._advance(sending):
                    return
                if not in_time:
                    raise Full(self._full_text(sending))
        except BaseException as error:
            with self._lock:
                self._settle()
                give_up(sending, error)
                self._hand_out()
            raise

    def _full_text(self, sending: Sending) -> str:
        return f"no room came in time: {sending.sent} of {sending.total} bytes went"

    def _advance(self, sending: Sending) -> bool:
        """Writes as much as there is room for; True when `sending` is through."""
        with self._lock:
            self._check()
            self._take_back()
            try:
                self._settle()
                while sending.sent < sending.total:
                    current = self._current or sending
                    self._current = current
                    if not self._push(current):
                        if current is sending and sending.sent == 0 and not sending.owed:
                            self._current = None  # not begun: others may come first
                        return False
                return True
            finally:
                self._hand_out()

    def _push(self, current: Sending) -> bool:
        """Writes of `current`, which is `_current`; False when it would block."""
        while current.sent < current.total:
            try:
                if not self._write_now(self._fd, current.rest(), self._counts):
                    return False
            except BrokenPipeError as error:
                self._current = None
                raise self._nobody(current) from error
            self._settle()
        self._current = None
        return True

    def _settle(self) -> None:
        if self._counts:
            if self._current is not None:
                self._current.sent += self._counts[0]
            self._counts.clear()
        if self._current is not None and self._current.sent >= self._current.total:
            self._current = None

    def _nobody(self, sending: Sending | None = None) -> ShutDown | PeerDied:
        if sending is None or sending.sent == 0:
            return ShutDown(f"{self._what} is closed: nobody will read this")
        return PeerDied(
            f"{self._what} was closed in the middle, as when its process is killed: "
            f"{sending.sent} of {sending.total} bytes went"
        )

    def _cut(self, sending: Sending, error: BaseException) -> None:
        """Bytes without frames end where they end."""
        if self._current is sending:
            self._current = None
        if isinstance(error, Full):
            error.sent = sending.sent

"""The receiving half of a stream: reads ahead, and finds the messages in what came.

**Few system calls.** One `recv` takes what is there, up to 64 KiB, and all messages in it wait in `_ready`.
Behind a large message only the next header is read, so that a large one that follows is received into its own
memory (`_core.Landing`) and not copied again. The socket stays blocking: without a timeout the kernel waits;
with one, or in a `graceful_shutdown`, a call tries (MSG_DONTWAIT) and poll(2) waits.

**Awake as long as it pays.** Falling asleep and being woken costs 20 to 60 us, and over TCP the sender would
have to wake us several times in each large message. So a wait looks for some time before it sleeps
(`_core.Patience`), without the interpreter's lock, and where nothing comes in that time the next waits look
half as long, down to not at all.

**Ctrl+C costs no byte.** A signal handler may raise between any two calls. So what a call returns is stored
by the loop that made it (`for self._chunk in map(recv, …)`: Python looks for signals after calls and at
jumps back, and a `for` is neither), and what was found in a chunk takes its place by neighbouring stores.
Who is interrupted in `recv` and calls again goes on where the stream was.

**Bounded memory.** A stream holds what one read ahead brought, and at most one message that is not complete,
whose memory becomes real as its bytes come in and not by what its header says.
"""

import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from struct import error as too_short
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from isthmus import _core, _stopping
from isthmus._errors import (
    ClosedError,
    CorruptError,
    Empty,
    InvalidMessage,
    IsthmusError,
    PeerDied,
    ShutDown,
    TooLarge,
    Unsupported,
)

from . import _failures
from ._opening import Opened
from ._protocol import DESCRIPTORS, FILE, FINISHED, HEADER, LONG, NO_LENGTH, has_end
from ._rights import Rights, close_all
from ._steps import WAITS, deadline_of, left, may_sleep, wait_for_work

if TYPE_CHECKING:
    from ._terms import Terms

_length_of = HEADER.unpack_from

__all__ = ["FileComes", "Receiver", "WithDescriptors"]

AHEAD = 1 << 16
"""Bytes read at once, if they are there."""
_HEADER = 4
_APART = 1 << 14
"""Bytes missing of a message from which on they are received by themselves."""
_MOST_NOW = 1 << 20
"""Bytes asked for by a call that does not wait: memory is taken before it is known what there is."""

_Item = Any
"""What waits to be taken: the bytes of a message, a `WithDescriptors` or a `FileComes`."""


class FileComes:
    """In the place of a message: a file of `total` bytes, which are not read ahead; `size` are missing."""

    __slots__ = ("size", "total")

    def __init__(self, size: int) -> None:
        self.size = self.total = size


class WithDescriptors:
    """In the place of a message: one with descriptors."""

    __slots__ = ("data", "descriptors")

    def __init__(self, data: bytes, descriptors: list[int]) -> None:
        self.data = data
        self.descriptors = descriptors

    def take(self) -> list[int]:
        """The descriptors, now the caller's to close."""
        taken, self.descriptors = self.descriptors, []
        return taken

    def __del__(self) -> None:
        close_all(self.descriptors)


class Receiver:
    """What a stream knows of what comes in. Mixed into `Stream`, which opens and closes."""

    _who: str
    _pid: int
    _number: int
    _closed: bool
    _owed: bool
    _framed: bool
    _sock: socket.socket
    _tls: Any

    if TYPE_CHECKING:  # the sending half has it

        def _pay(self) -> None: ...
        def _unsent(self) -> bool: ...

    def _begin_receiving(self, opened: Opened, terms: "Terms") -> None:
        self._receiving = threading.Lock()
        self._ready: deque[_Item] = deque()
        self._limit = terms.limit
        self._rights = Rights(opened.sock, terms.descriptors) if terms.descriptors else None
        self._recv = opened.channel.recv if self._rights is None else self._rights.recv
        self._recv_into = opened.channel.recv_into
        self._decode: Callable[[Any], Any] | None
        if terms.framing == "messages":
            self._decode = None if terms.codec is None else terms.codec.decode
            self._take = self._take_messages
        elif terms.framing == "lines":
            self._decode = _line
            self._take = self._take_lines
        else:
            self._decode = None
            self._take = self._take_raw
        # Came in and not looked at yet; the beginning of a frame or line; the large message that comes; parts
        # of a line by where they begin; bytes that who reads raw ones waits for.
        self._chunk = b""
        self._rest = b""
        self._landing: _core.Landing | None = None
        self._parts: dict[int, bytes] = {}
        self._missing = 0
        self._line_length = 0
        # Descriptors for the message that is next; how many messages came; why no more will.
        self._given: list[int] | None = None
        self._patience = _core.Patience()
        # The bytes of messages are those of the socket: the kernel may put them where they belong.
        self._direct = opened.tls is None and self._rights is None
        # Nothing of the above is there, and what comes next begins with a frame.
        self._single = self._framed and self._direct
        self._came = 0
        self._over: Callable[[], Exception] | None = None
        self._ask_for(AHEAD)

    def _ask_for(self, size: int) -> None:
        self._asked = size
        self._reads: Iterator[bytes] = map(self._recv, repeat(size))
        self._reads_now: Iterator[bytes] = map(self._recv, repeat(size), repeat(socket.MSG_DONTWAIT))

    # ---- what users call

    def recv(self, timeout: float | None = None) -> Any:
        """The next message: a value of the stream's type, a line without its end, or the bytes that came.

        `Empty` after `timeout` seconds (None waits, 0 tries). When the other side has finished: `ShutDown`.
        When its process died or the connection was cut: `PeerDied`, after everything that came before. What
        came and is no value of the type is an `InvalidMessage`, and the stream goes on with the next; one
        over the limit is `TooLarge` and ends it. `ShutDown` too when this process is asked to end, by
        `graceful_shutdown`: that does not end the stream. See recv(2).
        """
        if self._ready:
            try:
                data = self._ready.popleft()
            except IndexError:  # another thread took it
                data = self._next(timeout)
        else:
            data = self._next(timeout)
        if type(data) is not bytes:
            data = self._special(data)
        decode = self._decode
        if decode is None:
            return data
        try:
            return decode(data)
        except Exception as problem:
            raise self._invalid(data, problem) from problem

    def recv_many(self, most: int | None = None, timeout: float | None = None) -> list[Any]:
        """The messages that are here, at least one and at most `most`; waits and fails as `recv` does."""
        if most is not None and most < 1:
            raise ValueError(f"most is {most}: it takes at least 1")
        found = [self.recv(timeout)]
        while self._ready and (most is None or len(found) < most):
            if type(self._ready[0]) is FileComes:
                break
            try:
                found.append(self.recv(0))
            except Empty:  # another thread took it
                break
            except InvalidMessage as problem:  # for the next call: what is found already is given out
                self._ready.appendleft(problem.data)
                break
        return found

    def poll(self, timeout: float | None = 0.0) -> bool:
        """True when `recv` would not wait: a message is here, or the end; False after `timeout` seconds."""
        if self._ready:
            return True
        deadline = deadline_of(timeout)
        if self._owed:
            self._pay()
        held = False
        try:
            for held in map(self._receiving.acquire, WAITS, (-1 if timeout is None else timeout,)):
                break
            if not held:
                return False
            self._fill(timeout, deadline)
        except Empty:
            return False
        except IsthmusError as problem:
            if self._over is None or isinstance(problem, ClosedError):  # this process was asked to end
                raise
            return True  # it stays, and `recv` raises it
        finally:
            if held:
                self._receiving.release()
        return True

    def __iter__(self) -> Iterator[Any]:
        """Messages until the other side finishes; fails as `recv` does."""
        while True:
            try:
                message = self.recv()
            except ShutDown:
                return
            yield message

    # ---- how messages come

    def _next(self, timeout: float | None) -> _Item:
        """The next item, waited for."""
        if self._owed:
            self._pay()
        single = timeout is None and self._single and not self._owed and _stopping.bell is None
        if single:
            # What follows below does the same; this is 2 us faster where messages come one at a time.
            with self._receiving:
                if self._single and not self._ready:
                    self._single = False
                    self._patience.look(self._number)
                    try:
                        for self._chunk in self._reads:
                            break
                    except OSError as problem:
                        self._over = self._failure(problem)
                    chunk = self._chunk
                    after = len(chunk)
                    if after > 4 and _length_of(chunk)[0] == after - 4 <= self._limit:
                        data = chunk[4:]
                        came = self._came + 1
                        self._came, self._chunk, self._single = came, b"", True
                        return data
                    if not chunk:
                        self._at_end()
        deadline = deadline_of(timeout)
        held = False
        try:
            for held in map(self._receiving.acquire, WAITS, (-1 if timeout is None else timeout,)):
                break
            if not held:
                raise self._empty(timeout)
            self._fill(timeout, deadline)
            return self._ready.popleft()
        finally:
            if held:
                self._receiving.release()

    def _special(self, item: _Item) -> bytes:
        """What `recv` gives for an item that is not just bytes."""
        if type(item) is WithDescriptors:  # nobody asked for them
            close_all(item.take())
            return item.data
        self._ready.appendleft(item)
        raise Unsupported(f"{self._who} sends a file of {item.size} bytes: recv_file() takes it")

    def _fill(self, timeout: float | None, deadline: float | None) -> None:
        """Until something is in `_ready`. The lock is held."""
        plain = self._tls is None
        while not self._fill_now(plain and may_sleep(timeout) and not (self._owed and self._unsent())):
            rest = left(deadline)
            if rest != 0.0 and self._patience.look(self._number):
                continue
            events = select.POLLIN
            if self._owed and self._unsent():
                # Who is on the other side may wait for it, and not send before.
                events |= select.POLLOUT
            if rest == 0.0 or not wait_for_work(self._number, events, rest):
                raise self._empty(timeout)
            if events & select.POLLOUT:
                self._pay()

    def _fill_now(self, may_wait: bool = False) -> bool:
        """Whether something is in `_ready`, after reading what there is. The lock is held."""
        while not self._ready:
            if self._chunk:
                self._take()
            elif self._over is not None:
                raise self._over()
            elif self._closed:
                raise self._closed_error()
            else:
                try:
                    self._read(may_wait)
                except BlockingIOError:
                    return False
        return True

    def _read(self, may_wait: bool) -> None:
        """One system call: `_chunk` is what came. BlockingIOError when nothing did and it may not wait."""
        try:
            if self._landing is not None:
                self._land(self._landing, may_wait)
                return
            if self._missing:
                size = self._missing if may_wait else min(self._missing, _MOST_NOW)
                flags = socket.MSG_WAITALL if may_wait else socket.MSG_DONTWAIT
                for self._chunk in map(self._recv, (size,), (flags,)):
                    break
            elif may_wait:
                self._patience.look(self._number)
                for self._chunk in self._reads:
                    break
            else:
                for self._chunk in self._reads_now:
                    break
        except BlockingIOError:
            raise
        except TooLarge as problem:  # descriptors
            text, limit = f"{self._who}: {problem}", problem.limit
            self._over = lambda: TooLarge(text, limit=limit)
        except OSError as problem:
            self._over = self._failure(problem)
        else:
            if not self._chunk:
                self._at_end()

    def _land(self, landing: _core.Landing, may_wait: bool) -> None:
        """Receives more of a large message. What came is in `landing`, whatever happens here."""
        if landing.missing:
            if self._direct:
                more = landing.fill(self._number, self._patience if may_wait else None)
            else:
                size = min(landing.missing, _MOST_NOW)
                flags = 0 if may_wait else socket.MSG_DONTWAIT
                (more,) = map(landing.add, map(self._recv, (size,), (flags,)))
            if not more:
                self._at_end()
            if landing.missing:
                return
        data = landing.take()
        ready: deque[_Item] = deque([data if self._given is None else WithDescriptors(data, self._given)])
        came = self._came + 1
        self._ready, self._came, self._landing, self._given = ready, came, None, None
        if self._asked != _HEADER:
            self._ask_for(_HEADER)

    # ---- what came

    def _take_messages(self) -> None:
        """The messages in `_chunk` go to `_ready`. Before the last line nothing has changed."""
        chunk = self._chunk
        if self._rest:
            chunk = self._rest + chunk
        if self._given is not None:
            self._take_others(chunk, 0, [])
            return
        found: list[_Item] = []
        add = found.append
        limit = self._limit
        end = len(chunk)
        at = 0
        try:
            while True:
                (size,) = unpack_from("<I", chunk, at)
                head = at + 4
                after = head + size
                if after > end or size > limit:
                    break
                add(chunk[head:after])
                at = after
        except too_short:
            ready = deque(found)
            came = self._came + len(found)
            rest = chunk[at:]
            single = not rest and self._direct
            self._ready, self._came, self._rest, self._single, self._chunk = ready, came, rest, single, b""
        else:
            self._take_others(chunk, at, found)
        if found and self._asked != AHEAD:
            self._ask_for(AHEAD)

    def _take_others(self, chunk: bytes, at: int, found: list[_Item]) -> None:
        """From `at` on: frames that are not complete, and what is not a plain message."""
        self._single = False
        given = self._given
        held: tuple[int, ...] = () if self._rights is None else self._rights.held
        over = self._over
        landing: _core.Landing | None = None
        end = len(chunk)
        rest = b""
        while True:
            begin = at
            try:
                (size,) = unpack_from("<I", chunk, at)
                at += 4
                if size == DESCRIPTORS:
                    (count,) = unpack_from("<I", chunk, at)
                    if not 1 <= count <= len(held) or given is not None:
                        over = self._corrupt(f"{count} descriptors were announced, {len(held)} came")
                        break
                    given, held = list(held[:count]), held[count:]
                    at += 4
                    continue
                if size in {LONG, FILE}:
                    what = size
                    (size,) = unpack_from("<Q", chunk, at)
                    at += 8
                    if what == FILE:
                        found.append(FileComes(size))
                        rest = chunk[at:]
                        break
            except too_short:
                rest = chunk[begin:]
                break
            if size >= NO_LENGTH and at - begin == 4:
                no_frame = self._corrupt(f"no frame begins with {size:08x}")
                over = self._finished if size == FINISHED else no_frame
                break
            if size > self._limit:
                over = self._too_large(size)
                break
            if at + size > end:
                if at + size - end >= _APART:
                    landing = _core.Landing(size, chunk[at:])
                else:
                    rest = chunk[begin:]
                break
            data = chunk[at : at + size]
            found.append(data if given is None else WithDescriptors(data, given))
            given = None
            at += size
        ready = deque(found)
        came = self._came + len(found)
        if self._rights is not None:
            self._rights.held = held
        self._ready, self._came, self._rest, self._landing = ready, came, rest, landing
        self._given, self._over, self._chunk = given, over, b""

    def _take_lines(self) -> None:
        chunk = self._chunk
        got = self._line_length
        first, newline, others = chunk.partition(b"\n")
        if got + len(first) > self._limit:
            over = self._too_large(got + len(first))
            self._over, self._chunk = over, b""
            return
        if not newline:
            self._parts[got] = chunk
            self._line_length, self._chunk = got + len(chunk), b""
            return
        lines = others.split(b"\n")
        rest = lines.pop()
        longest = max(map(len, (*lines, rest)))
        over_now = self._over
        if longest > self._limit:
            over_now = self._too_large(longest)
            lines = lines[
                : next((at for at, line in enumerate(lines) if len(line) > self._limit), len(lines))
            ]
        ready: deque[_Item] = deque([b"".join([*self._parts.values(), first]), *lines])
        parts = {0: rest}
        came = self._came + len(ready)
        length = len(rest)
        self._ready, self._came, self._parts, self._line_length, self._over, self._chunk = (
            ready, came, parts, length, over_now, b"",
        )  # fmt: skip

    def _take_raw(self) -> None:
        ready: deque[_Item] = deque([self._chunk])
        self._ready, self._missing, self._chunk = ready, 0, b""

    # ---- ends

    def _says_finished(self) -> bool:
        """Whether the other side has said that it has finished, as far as can be seen."""
        if self._over == self._finished:
            return True
        if not self._framed or self._tls is not None:
            return False
        item = self._ready[-1] if self._ready else None
        begun = item.size if type(item) is FileComes else 0
        if self._landing is not None:
            begun = self._landing.missing
        try:
            comes = self._sock.recv(_MOST_NOW, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return has_end(self._rest + self._chunk + comes, begun)

    def _at_end(self) -> None:
        """The connection gives no more bytes."""
        if self._over is not None:
            return
        if self._closed:
            self._over = self._closed_error
        elif self._take == self._take_messages:
            self._over = self._died
        else:
            if self._line_length:  # a last line without its end
                self._ready = deque([b"".join(self._parts.values())])
                self._line_length = 0
            self._over = self._finished

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this stream to {self._who} is closed")

    def _finished(self) -> ShutDown:
        return ShutDown(f"{self._who} has finished: nothing more comes")

    def _died(self) -> PeerDied:
        file = bool(self._ready) and type(self._ready[0]) is FileComes
        middle = " in the middle of a message" if self._rest or self._landing is not None or file else ""
        return PeerDied(
            f"{self._who} is gone{middle}: the connection ended, and it did not say that it has finished",
            pid=self._pid,
        )

    def _failure(self, problem: OSError) -> Callable[[], Exception]:
        if self._closed:
            return self._closed_error
        made = _failures.talking(problem, self._who, self._pid)
        kind, text = type(made), str(made)
        if kind is PeerDied:
            return lambda: PeerDied(text, pid=self._pid)
        if isinstance(made, IsthmusError):
            return lambda: kind(text)
        return lambda: OSError(made.args[0], text)

    def _too_large(self, size: int) -> Callable[[], Exception]:
        what = f"{self._who} sends a message of {size} bytes; the limit of this stream is {self._limit}"
        return lambda: TooLarge(what, size=size, limit=self._limit)

    def _corrupt(self, why: str) -> Callable[[], Exception]:
        what = f"{self._who} sent what no stream sends: {why}"
        return lambda: CorruptError(what)

    def _empty(self, timeout: float | None) -> Empty:
        return Empty(f"{self._who}: nothing came in {timeout:g} s")

    def _invalid(self, data: bytes, problem: Exception) -> InvalidMessage:
        number = self._came - len(self._ready) - 1
        return InvalidMessage(
            f"message {number} of {self._who} is not what it has to be: {problem}",
            number=number,
            reason=str(problem),
            sender=self._pid or None,
            data=data,
        )


def _line(data: bytes) -> str:
    return data.removesuffix(b"\r").decode()

"""The sending half of a stream: frames messages, and knows at every moment what the kernel has taken.

A small message goes out at once, header and all in one buffer, by one call. A large one goes out by
sendmsg(2) from where it is. `send_many`, and `send(…, flush=False)`, put small ones together and send them
as one.

A message is sent when its first byte is: what is begun is finished. Where the time is over in the middle of
one, or Ctrl+C comes, the rest stays in `_packet` and goes first with the next call on the stream; the rest
of one message at most, so memory stays bounded. `_sent` is stored by the loop that made the call, as in
`_receive`.
"""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

from isthmus._errors import ClosedError, Full, IsthmusError, PeerDied, ShutDown, TooLarge, Unsupported

from . import _failures
from ._opening import Opened
from ._protocol import END, HEADER, descriptors_header, frame_header
from ._rights import ancillary
from ._steps import WAITS, deadline_of, left, wait

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._terms import Terms

__all__ = ["Sender"]

R = TypeVar("R")

_process = os.getpid()
os.register_at_fork(after_in_child=lambda: globals().update(_process=os.getpid()))

_SMALL = 1 << 14
"""Bytes up to which copying a message behind its header costs less than sendmsg(2) from two places."""
_IOV_MAX = 1024
_TOGETHER = 1 << 16
"""Bytes of small messages that are sent as one."""
_GROW_FROM = 1 << 16
_GROWN = 1 << 20
"""Bytes asked for as a Unix socket's buffer once messages are large; the kernel may give less."""
_NO_ANCILLARY = ((),)
_WAIT = socket.MSG_NOSIGNAL
_NOW = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
_WAIT_ARGUMENT = (_WAIT,)
_NOW_ARGUMENT = (_NOW,)


class Sender:
    """What a stream knows of what goes out. Mixed into `Stream`, which opens and closes."""

    _who: str
    _pid: int
    _number: int
    _closed: bool
    _sock: socket.socket
    _over: Callable[[], Exception] | None

    if TYPE_CHECKING:  # the receiving half and the stream have these

        def _closed_error(self) -> ClosedError: ...
        def _says_finished(self) -> bool: ...
        def _shut_sending(self) -> None: ...

    def _begin_sending(self, opened: Opened, terms: "Terms") -> None:
        self._sending = threading.Lock()
        self._process = _process
        self._channel = opened.channel
        self._tls = opened.tls
        self._send = opened.channel.send
        self._most = opened.limit
        self._takes_descriptors = opened.descriptors
        self._encode: Callable[[Any], Any] | None = None
        self._framed = terms.framing == "messages"
        if self._framed:
            self._encode = None if terms.codec is None else terms.codec.encode
        elif terms.framing == "lines":
            self._encode = _line
        # What is being sent (in a cell, which `_sends` reads), and how much of it the kernel has; small
        # messages that wait for others.
        self._packet: list[Any] = [None]
        self._sent = 0
        packets = map(self._packet.__getitem__, repeat(0))
        self._sends: Iterator[int] = map(self._send, packets, repeat(_WAIT))
        self._held: list[bytes] = []
        self._held_size = 0
        self._owed = False
        self._grown = False
        self._finished_here = False
        self._broken: Exception | None = None

    # ---- what users call

    def send(
        self,
        message: Any,
        timeout: float | None = None,
        *,
        flush: bool = True,
        descriptors: Iterable[Any] = (),
    ) -> None:
        """Sends a message: a value of the stream's type, a line, or bytes.

        Returns when the kernel has it; it may wait there until the other side takes it. `Full` when nothing
        of it could be sent within `timeout` seconds (None waits, 0 tries); a message of which a part went
        out in time counts as sent, and the next call on this stream sends its rest before anything else.
        `TooLarge` beyond the other side's limit. `ShutDown` when the other side has closed the stream,
        `PeerDied` when its process died or the connection was cut. See send(2).

        With `flush=False` a small message waits until 64 KiB of them have come together, or for the next call
        that sends or receives, `flush` or `close`: many small messages then cost few system calls.

        `descriptors` are open descriptors (numbers, or objects with `fileno()`) of which the other side gets
        copies, over a Unix socket to a stream that takes them (`descriptors=`). They stay open here.
        """
        encode = self._encode
        data = message if encode is None else encode(message)
        if type(data) is not bytes or descriptors or not self._framed:
            self._send_other(data, timeout, flush, descriptors)
            return
        size = len(data)
        if size > _SMALL:
            self._send_large(data, size, timeout)
            return
        if size > self._most:
            raise self._over_limit(size)
        packet = HEADER.pack(size) + data
        if not flush:
            if timeout is None:
                # What `_hold` does where nothing is in the way, in a third of its time.
                with self._sending:
                    if (
                        self._held_size + len(packet) <= _TOGETHER
                        and self._packet[0] is None
                        and self._broken is None
                        and not (self._finished_here or self._closed)
                        and self._process == _process
                    ):
                        self._held_size += len(packet)
                        self._owed = True
                        self._held.append(packet)
                        return
            self._hold(packet, timeout)
            return
        if timeout is not None:
            self._send_within(packet, timeout)
            return
        with self._sending:
            if self._owed:
                self._prepare(None, None)
            self._packet[0] = packet
            self._sent = 0
            try:
                for self._sent in self._sends:
                    break
                if self._sent == len(packet) and self._tls is None:
                    self._packet[0] = None
                    return
            except OSError as problem:
                self._packet[0] = None
                raise self._send_failure(problem) from problem
            except BaseException:
                self._owed = True
                raise
            self._finish_packet(None, None)

    def send_many(self, messages: Iterable[Any], timeout: float | None = None) -> int:
        """Sends messages, small ones together; how many. `Full` says in `sent` how many went out in time.

        `timeout` is for all of them. Any other error (of a message that cannot be sent, say) comes after
        what was before it has been sent.
        """
        deadline = deadline_of(timeout)
        count = 0
        encode = self._encode
        parts: list[bytes] = []
        size = 0
        try:
            for message in messages:
                data = message if encode is None else encode(message)
                if type(data) is not bytes or len(data) > _SMALL or not self._framed:
                    if parts:
                        self._send_together(parts, timeout, deadline)
                        count += len(parts)
                        parts, size = [], 0
                    self._send_other(data, left(deadline), True, ())
                    count += 1
                    continue
                if len(data) > self._most:
                    raise self._over_limit(len(data))
                parts.append(HEADER.pack(len(data)) + data)
                size += len(data) + 4
                if size >= _TOGETHER:
                    self._send_together(parts, timeout, deadline)
                    count += len(parts)
                    parts, size = [], 0
        except Full as full:
            full.sent += count
            raise
        except Exception:
            if parts:
                self._send_together(parts, timeout, deadline)
            raise
        if parts:
            try:
                self._send_together(parts, timeout, deadline)
            except Full as full:
                full.sent += count
                raise
            count += len(parts)
        return count

    def flush(self, timeout: float | None = None) -> None:
        """Sends what `flush=False` kept, and the rest of a message begun; `Full` when time is over."""
        deadline = deadline_of(timeout)

        def pay() -> None:
            if self._owed and not self._finished_here:
                self._prepare(timeout, deadline)

        self._alone(timeout, pay)

    def finish(self, timeout: float | None = None) -> None:
        """Says that nothing more comes from this side, after what was sent; receiving goes on (half-close).

        The other side gets `ShutDown` when it has taken everything. See shutdown(2).
        """
        deadline = deadline_of(timeout)

        def say() -> bool:
            if self._finished_here:
                return False
            self._prepare(timeout, deadline)
            if self._framed:
                self._transmit(END, timeout, deadline)
            self._finished_here = self._owed = True
            return True

        if self._alone(timeout, say):
            self._shut_sending()

    # ---- how messages go

    def _send_other(self, data: Any, timeout: float | None, flush: bool, descriptors: Iterable[Any]) -> None:
        """Anything but a small message in one piece."""
        pieces = data if type(data) is tuple else (data,)
        views = [piece if type(piece) is bytes else memoryview(piece).cast("B") for piece in pieces]
        size = sum(map(len, views))
        if size > self._most:
            raise self._over_limit(size)
        if size > _GROW_FROM and not self._grown:
            self._grow()
        passed = [_number(descriptor) for descriptor in descriptors]
        if passed and len(passed) > self._takes_descriptors:
            raise Unsupported(
                f"{self._who} takes {self._takes_descriptors} descriptors with a message, not {len(passed)}: "
                "both ends say at opening how many they take (descriptors=), and only over Unix sockets"
            )
        if self._framed:
            views.insert(0, frame_header(size))
            if passed:
                views.insert(0, descriptors_header(len(passed)))
            size += sum(map(len, views[: 2 if passed else 1]))
        elif not size:
            return
        packet: Any = b"".join(views) if size <= _SMALL + 16 else views
        if not flush and type(packet) is bytes and not passed:
            self._hold(packet, timeout)
            return
        self._send_within(packet, timeout, passed)

    def _send_large(self, data: bytes, size: int, timeout: float | None) -> None:
        """A message in one piece, from where it is."""
        if size > self._most:
            raise self._over_limit(size)
        if size > _GROW_FROM and not self._grown:
            self._grow()
        packet = [frame_header(size), data]
        if timeout is not None:
            self._send_within(packet, timeout)
            return
        with self._sending:
            if self._owed:
                self._prepare(None, None)
            self._packet[0] = packet
            self._sent = 0
            try:
                for self._sent in map(self._channel.sendmsg, (packet,), _NO_ANCILLARY, _WAIT_ARGUMENT):
                    break
            except OSError as problem:
                self._packet[0] = None
                raise self._send_failure(problem) from problem
            except BaseException:
                self._keep()
                raise
            self._finish_packet(None, None)

    def _grow(self) -> None:
        """With the first large message: the other side then finds more at a time. TCP does it itself."""
        self._grown = True
        if self._sock.family == socket.AF_UNIX and not self._closed:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _GROWN)

    def _alone(self, timeout: float | None, work: Callable[[], R]) -> R:
        """Does `work` while nobody else sends; `Full` when others do for `timeout` seconds."""
        held = False
        try:
            for held in map(self._sending.acquire, WAITS, (-1 if timeout is None else timeout,)):
                break
            if not held:
                raise self._full(timeout)
            return work()
        finally:
            if held:
                self._sending.release()

    def _send_within(self, packet: Any, timeout: float | None, passed: list[int] | None = None) -> None:
        deadline = deadline_of(timeout)

        def put() -> None:
            self._prepare(timeout, deadline)
            self._transmit(packet, timeout, deadline, passed)

        self._alone(timeout, put)

    def _send_together(self, parts: list[bytes], timeout: float | None, deadline: float | None) -> None:
        """A run of frames; what is begun of it is sent, so `Full` means that none was."""
        try:
            self._send_within(b"".join(parts), left(deadline))
        except Full as full:
            raise Full(f"{self._who}: took nothing in {timeout:g} s" if timeout else str(full)) from None

    def _hold(self, packet: bytes, timeout: float | None) -> None:
        deadline = deadline_of(timeout)
        held = False
        try:
            for held in map(self._sending.acquire, WAITS, (-1 if timeout is None else timeout,)):
                break
            if not held:
                raise self._full(timeout)
            if self._process != _process:
                self._forget_what_was_begun()
            looked_after = self._packet[0] is None and not self._finished_here and self._broken is None
            if self._closed or not looked_after or self._held_size + len(packet) > _TOGETHER:
                self._prepare(timeout, deadline)
            self._held_size += len(packet)
            self._owed = True
            self._held.append(packet)
        finally:
            if held:
                self._sending.release()

    def _unsent(self) -> bool:
        """Whether something waits here to be sent, and can be."""
        if self._broken is not None or self._finished_here or self._closed:
            return False
        return bool(
            self._packet[0] is not None or self._held or (self._tls is not None and self._tls.pending)
        )

    def _pay(self) -> None:
        """Sends what can be sent, before waiting for the other side, which may be waiting for it."""
        if not self._unsent():
            return
        held = False
        try:
            for held in map(self._sending.acquire, (False,)):  # otherwise who has the lock sends it
                break
            if held:
                with contextlib.suppress(
                    Full, ShutDown, PeerDied, ClosedError
                ):  # receiving says what is wrong
                    self._prepare(0.0, 0.0)
        finally:
            if held:
                self._sending.release()

    def _prepare(self, timeout: float | None, deadline: float | None) -> None:
        """Sends what has to go first. The lock is held."""
        if self._process != _process:
            self._forget_what_was_begun()
        if self._closed:
            raise self._closed_error()
        if self._broken is not None:
            raise copy(self._broken)
        if self._packet[0] is not None or (self._tls is not None and self._tls.pending):
            self._finish_packet(timeout, deadline, old=True)
        if self._held:
            packet = b"".join(self._held)
            self._packet[0], self._sent, self._held, self._held_size = packet, 0, [], 0
            self._finish_packet(timeout, deadline, old=True)
        if self._finished_here:
            raise ClosedError(f"sending to {self._who} was finished by this side")
        self._owed = False

    def _forget_what_was_begun(self) -> None:
        """In a forked child: what its parent keeps is the parent's to send, and would come twice."""
        self._process = _process
        self._held, self._held_size = [], 0
        if self._packet[0] is not None:
            self._packet[0] = None
            self._broken = Unsupported(
                f"the parent of this process is in the middle of a message to {self._who}: only it can send"
            )

    def _transmit(
        self, packet: Any, timeout: float | None, deadline: float | None, passed: list[int] | None = None
    ) -> None:
        """Sends a packet: bytes, or a list of buffers. `Full` when nothing of it went. The lock is held."""
        self._packet[0] = packet
        self._sent = 0
        if passed:
            self._send_first(packet, ancillary(passed), timeout, deadline)
        self._finish_packet(timeout, deadline)

    def _send_first(
        self, packet: Any, rights: list[Any], timeout: float | None, deadline: float | None
    ) -> None:
        """The first bytes, with the descriptors."""
        buffers = packet if type(packet) is list else [packet]
        flags = _WAIT if timeout is None else _NOW
        while True:
            try:
                for self._sent in map(self._channel.sendmsg, (buffers,), (rights,), (flags,)):
                    break
            except BlockingIOError:
                rest = left(deadline)
                if rest == 0.0 or not wait(self._number, select.POLLOUT, rest):
                    self._packet[0] = None
                    raise self._full(timeout) from None
                continue
            except OSError as problem:
                self._packet[0] = None
                raise self._send_failure(problem) from problem
            except BaseException:
                # The descriptors cannot be sent again, so neither can the message; nothing of it went.
                if not self._sent:
                    self._packet[0] = None
                raise
            return

    def _finish_packet(self, timeout: float | None, deadline: float | None, *, old: bool = False) -> None:
        """Sends what is missing of `_packet`.

        When time is over: `Full` where nothing of it went, or where it is `old` (of a call before);
        otherwise the rest is kept for the next call.
        """
        flags = _WAIT_ARGUMENT if timeout is None else _NOW_ARGUMENT
        try:
            while self._packet[0] is not None:
                packet = self._packet[0]
                if type(packet) is bytes:
                    rest: Any = packet if not self._sent else memoryview(packet)[self._sent :]
                    size = len(packet)
                else:
                    rest = _behind(packet, self._sent)
                    size = sum(map(len, packet))
                if self._sent >= size:
                    self._packet[0] = None
                    break
                try:
                    before = self._sent
                    if type(rest) is list:
                        for sent in map(self._channel.sendmsg, (rest,), ((),), flags):
                            self._sent = before + sent
                    else:
                        for sent in map(self._send, (rest,), flags):
                            self._sent = before + sent
                except BlockingIOError:
                    time_left = left(deadline)
                    if time_left == 0.0 or not wait(self._number, select.POLLOUT, time_left):
                        if not old and not self._sent:
                            self._packet[0] = None
                            raise self._full(timeout) from None
                        if old:
                            raise self._full(timeout) from None
                        self._keep()
                        return
            self._flush_tls(timeout, deadline, old)
        except OSError as problem:
            if isinstance(problem, IsthmusError):
                raise
            self._packet[0] = None
            raise self._send_failure(problem) from problem
        except Full:
            raise
        except BaseException:
            self._keep()
            raise

    def _flush_tls(self, timeout: float | None, deadline: float | None, old: bool) -> None:
        """What TLS has encrypted and the socket has not taken: its message counts as sent."""
        tls = self._tls
        while tls is not None and tls.pending:
            try:
                tls.flush(_WAIT if timeout is None else _NOW)
            except BlockingIOError:
                rest = left(deadline)
                if rest == 0.0 or not wait(self._number, select.POLLOUT, rest):
                    self._owed = True
                    if old:
                        raise self._full(timeout) from None
                    return

    def _keep(self) -> None:
        """The rest of a message is ours to keep: the buffers of the caller may change."""
        self._owed = True
        if type(self._packet[0]) is not list:
            return
        rest = b"".join(_behind(self._packet[0], self._sent, most=len(self._packet[0])))
        self._packet[0], self._sent = rest, 0

    def _finish_begun(self, timeout: float | None) -> None:
        """The rest of what `_transmit` began."""
        if self._packet[0] is not None:
            self._finish_packet(timeout, deadline_of(timeout), old=True)

    # ---- ends

    def _break(self, why: str) -> None:
        """Nothing can be sent any more."""
        self._packet[0] = None
        if self._broken is None:
            self._broken = PeerDied(why)
        self._owed = True

    def _full(self, timeout: float | None) -> Full:
        return Full(f"{self._who}: took nothing in {timeout:g} s; it does not receive")

    def _over_limit(self, size: int) -> TooLarge:
        return TooLarge(
            f"a message of {size} bytes: {self._who} takes at most {self._most} (limit=)",
            size=size,
            limit=self._most,
        )

    def _send_failure(self, problem: OSError) -> Exception:
        """Why nothing can be sent any more; kept, for the calls to come."""
        if self._closed:
            return self._closed_error()
        made = _failures.talking(problem, self._who, self._pid)
        if isinstance(made, PeerDied) and self._says_finished():
            made = ShutDown(f"{self._who} has closed the stream: it takes nothing more")
        self._broken = made
        self._owed = True
        return made


def _line(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"a line is a str, not {text!r}")
    if "\n" in text or "\r" in text:
        raise ValueError(f"a line has no line ends in it: {text[:80]!r}")
    return text.encode() + b"\n"


def _behind(buffers: "list[Buffer]", sent: int, *, most: int = _IOV_MAX) -> "list[Any]":
    """What follows the first `sent` bytes, in at most `most` buffers."""
    rest: list[Any] = []
    for buffer in buffers:
        if len(rest) == most:
            break
        view = memoryview(buffer)
        if sent >= view.nbytes:
            sent -= view.nbytes
        else:
            rest.append(view[sent:] if sent else view)
            sent = 0
    return rest


def _number(descriptor: Any) -> int:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    if number < 0:
        raise ValueError(f"{descriptor!r} is closed: it cannot be passed")
    return int(number)

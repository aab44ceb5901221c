"""`QueueHandler` and `QueueListener`: the log records of many processes come together in one.

A record travels as MessagePack, made of plain fields and checked on receipt: whoever can write to the queue
can forge records, but cannot run code in the listener, as they could where records are pickles.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Self

import msgspec

import isthmus

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["QueueHandler", "QueueListener"]


class _Fields(msgspec.Struct, array_like=True):
    """What of a record travels; new fields go to the end, with defaults."""

    name: str | None
    levelno: int
    levelname: str | None
    pathname: str | None
    filename: str | None
    module: str | None
    lineno: int | None
    funcName: str | None  # noqa: N815 - the names of the standard library
    created: float
    msecs: float
    relativeCreated: float  # noqa: N815
    thread: int | None
    threadName: str | None  # noqa: N815
    process: int | None
    processName: str | None  # noqa: N815
    taskName: str | None  # noqa: N815
    msg: str
    """The message with its arguments merged in."""
    exc_text: str | None
    stack_info: str | None
    extra: dict[str, Any]
    """What the program added."""


_NAMES = _Fields.__struct_fields__[:-4]
"""Fields that go as they stand in the record."""

# What is not one of these was added by the program. A method's name is no field.
_RESERVED = {*_Fields.__struct_fields__, *vars(logging.makeLogRecord({})), *dir(logging.LogRecord)}
_RESERVED |= {"message", "asctime"}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Fields)
_Unfit = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""How an encoder or decoder refuses."""

_FORMATTER = logging.Formatter()
_SHORTENED = 1000
"""Characters that are left of the message of a record too large for the queue."""
_LOOK = 0.2
"""Seconds after which a waiting listener looks whether it shall stop."""


class QueueHandler(logging.Handler):
    """Sends the records of this process to a `QueueListener`, in this or another process.

    `queue` is a queue of bytes, or the name of one, which is opened or created (with `capacity` and
    `namespace`, as `isthmus.Queue` takes them) and closed with the handler. Any number of processes and
    threads may log to it; a forked child goes on using its parent's handler.

    Logging does not wait for the listener: where the queue is full, a record waits `timeout` seconds (0) and
    is lost then. `lost` counts those of this process. Before the next record that gets through comes a
    warning that says how many were lost; until then none waits.

    A message arrives with its arguments merged in, an exception as text, and of the fields added by `extra`
    those that MessagePack can carry. With a formatter the message is what that makes of the record.
    """

    def __init__(
        self,
        queue: isthmus.Queue[bytes] | str,
        timeout: float = 0.0,
        *,
        level: int | str = logging.NOTSET,
        capacity: int | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> None:
        if not timeout >= 0:
            raise ValueError(f"timeout is {timeout}: it takes seconds from 0 (does not wait) upwards")
        super().__init__(level)
        self.timeout = timeout
        self.queue, self._owned = _opened(queue, capacity, namespace)
        self.lost = 0
        self._untold = 0
        self._ended = False
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record; what goes wrong is handled as by every handler (`handleError`)."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.lost = self._untold = 0  # those were the parent's, and it tells them
        try:
            if self._untold:
                self._tell()
            self._send(record)
        except isthmus.Full:
            self.lost += 1
            self._untold += 1
        except Exception:  # noqa: BLE001 - logging never raises
            if not self._ended:
                self.handleError(record)

    def _tell(self) -> None:
        count, plural = self._untold, "s were" if self._untold > 1 else " was"
        text = f"{count} log record{plural} lost: there was no room in the queue"
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
        self.queue.put(_encode(logging.makeLogRecord({**about, "lost": count}), text, None, None), 0.0)
        self._untold = 0

    def _send(self, record: logging.LogRecord) -> None:
        if self.formatter is not None:
            text, exception, stack = self.format(copy.copy(record)), None, None
        else:
            text, exception, stack = record.getMessage(), record.exc_text, record.stack_info
            if record.exc_info and not exception:
                exception = _FORMATTER.formatException(record.exc_info)
        try:
            self.queue.put(_encode(record, text, exception, stack), self.timeout)
        except isthmus.TooLarge:
            text = f"{text[:_SHORTENED]}… (shortened: the record was larger than the queue takes)"
            self.queue.put(_encode(record, text, None, None, extra=False), self.timeout)

    def close(self) -> None:
        """Says what was lost and not told yet, and closes the queue where the handler has opened it."""
        self.acquire()
        try:
            if not self._ended:
                self._ended = True
                if self._untold and self._pid == os.getpid():
                    # Where it is still full, or closed, nobody is left to be told.
                    with contextlib.suppress(isthmus.IsthmusError):
                        self._tell()
                if self._owned:
                    self.queue.close()
        finally:
            self.release()
        super().close()


class QueueListener:
    """Hands the records that come in by a queue to handlers, in a thread of its own.

    `start()` begins, `stop()` first hands on what is in the queue; a `with` block does both. `queue` is a
    queue of bytes, or the name of one, as for `QueueHandler`; it is opened by `start()` and closed by
    `stop()`. Of several listeners at one queue each gets a part.

    A handler gets the records of its level and above, or all of them with `respect_handler_level=False`.
    What a handler raises is reported as its own errors are, and the next record is handed on. A listener
    that is killed takes with it the one record it has in hand.
    """

    def __init__(
        self,
        queue: isthmus.Queue[bytes] | str,
        *handlers: logging.Handler,
        respect_handler_level: bool = True,
        capacity: int | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> None:
        self.handlers = handlers
        self.respect_handler_level = respect_handler_level
        self._source = (queue, capacity, namespace)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def start(self) -> None:
        """Opens the queue and starts the thread; `RuntimeError` where it runs already."""
        if self._running() is not None:
            raise RuntimeError("this listener has been started already")
        queue, owned = _opened(*self._source)
        self._pid = os.getpid()
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(queue, owned, self._stopping), name="isthmus-log-listener", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Hands on what is in the queue, then ends the thread. Where none runs, does nothing."""
        thread = self._running()
        self._thread = None
        if thread is not None:
            self._stopping.set()
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def handle(self, record: logging.LogRecord) -> None:
        """Gives one record to every handler that wants it."""
        for handler in self.handlers:
            if self.respect_handler_level and record.levelno < handler.level:
                continue
            try:
                handler.handle(record)
            except Exception:  # noqa: BLE001 - a filter's, mostly; the others get the record all the same
                handler.handleError(record)

    def _running(self) -> threading.Thread | None:
        """The thread, where it is one of this process: a forked child has not inherited it."""
        return self._thread if self._pid == os.getpid() else None

    def _run(self, queue: isthmus.Queue[bytes], owned: bool, stopping: threading.Event) -> None:
        try:
            while not stopping.is_set():
                with contextlib.suppress(isthmus.Empty):
                    self._receive(_next(queue, stopping))
            # What is there now, and no more: others may go on logging for ever.
            for _ in range(queue.qsize()):
                self._receive(queue.get(_LOOK))
        except (isthmus.Empty, isthmus.ShutDown, isthmus.ClosedError):
            pass
        except isthmus.PeerDied as death:
            self._warn(str(death), process=death.pid)
        finally:
            if owned:
                queue.close()

    def _receive(self, message: bytes) -> None:
        try:
            record = _decode(message)
        except _Unfit as error:
            self._warn(f"skipped a message of {len(message)} bytes that is no log record: {error}")
        else:
            self.handle(record)

    def _warn(self, text: str, **fields: Any) -> None:
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
        self.handle(logging.makeLogRecord({**about, **fields}))


def _next(queue: isthmus.Queue[bytes], stopping: threading.Event) -> bytes:
    try:
        return queue.get(_LOOK)
    except isthmus.ShutDown:
        # Ended, which a try says as well; or this process was asked to end, and the job in hand logs on.
        stopping.wait(_LOOK)
        return queue.get(0)


def _opened(
    queue: isthmus.Queue[bytes] | str, capacity: int | None, namespace: str | os.PathLike[str] | None
) -> tuple[isthmus.Queue[bytes], bool]:
    """The queue, and whether it was opened here."""
    if isinstance(queue, str):
        return isthmus.Queue(queue, type=bytes, capacity=capacity, namespace=namespace), True
    if queue.type is not bytes:
        raise isthmus.IncompatibleError(f"log records are bytes, and this queue has type={queue.type!r}")
    return queue, False


def _encode(
    record: logging.LogRecord, text: str, exception: str | None, stack: str | None, *, extra: bool = True
) -> bytes:
    found = vars(record)
    fields = [*map(found.get, _NAMES), text, exception, stack]
    added = {name: value for name, value in found.items() if name not in _RESERVED} if extra else {}
    try:
        return _encoder.encode([*fields, added])
    except _Unfit:
        plain = {name: _plain(value) for name, value in added.items() if _is_plain(_plain(value))}
        return _encoder.encode([*map(_plain, fields), plain])


def _plain(value: object) -> object:
    """A text without what UTF-8 does not have (parts of file names, mostly); anything else as it is."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _is_plain(value: object) -> bool:
    try:
        _encoder.encode(value)
    except _Unfit:
        return False
    return True


def _decode(message: bytes) -> logging.LogRecord:
    fields = msgspec.structs.asdict(_decoder.decode(message))
    added = fields.pop("extra")
    fields.update((name, value) for name, value in added.items() if name not in _RESERVED)
    return logging.makeLogRecord(fields)

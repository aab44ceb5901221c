"""`Receiver`: signals as values that are read, none of them lost. See signalfd(2)."""

import os
import select
import signal as _signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from isthmus import _core
from isthmus._errors import ClosedError, Empty, ShutDown
from isthmus._stopping import await_readable, deadline, is_readable

from . import _capture
from ._info import RECORD, SignalInfo, catchable, name_of, parse

__all__ = ["Receiver", "on_signal"]

_BATCH = 64 * RECORD


class Receiver:
    """Receives signals as values, with their sender and payload: `for info in Receiver(signal.SIGRTMIN):`.

    While it is open the signals interrupt nothing: they are blocked in every thread of this process, threads
    that were there before included, and stay queued in the kernel until they are read. Real-time signals are
    all there, in the order in which they were sent; of other signals the kernel keeps one. Handlers
    (`signal.signal`, `loop.add_signal_handler`) are not called for them. Any number of threads may read; each
    signal goes to one. A signal has one receiver a process.

    What children and threads get: threads inherit the mask, as they must. Forked children (`os.fork`,
    multiprocessing) start with the mask from before and a closed receiver. Programs and interpreters that are
    *started* would inherit the mask: start them in `with isthmus.signals.children():`.

    `close()` (or `with`) puts back what was before; what was not read is thrown away with a
    `ResourceWarning`.
    """

    def __init__(self, *signals: int) -> None:
        self.signals = catchable(signals)
        """The numbers that it receives."""
        self._closed = True
        self._buffer: deque[SignalInfo] = deque()
        self._caller: threading.Thread | None = None
        with _capture.lock:
            for other in _capture.receiving:
                if both := self.signals & other.signals:
                    names = ", ".join(name_of(number) for number in sorted(both))
                    raise ValueError(f"{names}: another Receiver of this process receives it")
            self._open()

    def _open(self) -> None:
        main = threading.main_thread()
        self._thread = threading.current_thread()
        # What is unblocked again in the main thread, should this one be another.
        self._main_added = frozenset() if self._thread is main else self.signals - _blocked_by_main()
        self._descriptor = _core.signal_descriptor(sorted(self.signals))
        try:
            self._epoll = select.epoll()
        except BaseException:
            os.close(self._descriptor)
            raise
        self.added = self.signals - _signal.pthread_sigmask(_signal.SIG_BLOCK, self.signals)
        try:
            noted = _capture.take_over(self.signals)
            self._capture = _capture.Capture(self.signals, settle=True)
            # No thread takes them any more: what came while `block` scopes held them is received.
            for capture in noted:
                capture.resend()
        except BaseException:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, self.added)
            os.close(self._descriptor)
            self._epoll.close()
            raise
        self._epoll.register(self._descriptor, select.EPOLLIN)
        self._epoll.register(self._capture.bell, select.EPOLLIN)
        self._closed = False
        _capture.receiving.append(self)

    @property
    def closed(self) -> bool:
        """True after `close()`, and in a forked child."""
        return self._closed

    def get(self, timeout: float | None = None) -> SignalInfo:
        """The next signal; `Empty` when none came in `timeout` seconds (None waits, 0 tries).

        `ShutDown` when `graceful_shutdown` asks this process to end, `ClosedError` once closed.
        """
        end = deadline(timeout)
        while True:
            info = self._take()
            if info is not None:
                return info
            if not await_readable(self.fileno(), end):
                raise Empty(f"no signal came in {timeout:g} s")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SignalInfo:
        """The next signal; the end once this process is asked to end, or the receiver is closed."""
        try:
            return self.get()
        except (ShutDown, ClosedError):
            raise StopIteration from None

    def fileno(self) -> int:
        """A descriptor that is readable while a signal waits: for select, poll and event loops."""
        if self._closed:
            raise ClosedError("this receiver is closed")
        return self._epoll.fileno()

    def start(self, callback: Callable[[SignalInfo], object]) -> None:
        """Starts a thread that calls `callback(info)` for each signal, one after the other, until `close()`.

        Unlike in a signal handler the callback may do anything: it interrupts nobody. What it raises goes
        to `threading.excepthook`, and the next signal to the callback.
        """
        if self._closed:
            raise ClosedError("this receiver is closed")
        if self._caller is not None:
            raise RuntimeError("this receiver has a callback already")
        self._caller = threading.Thread(
            target=self._call, args=(callback,), name="isthmus-signals", daemon=True
        )
        self._caller.start()

    def close(self) -> None:
        """Stops receiving. From the moment on at which it returns signals do what they did before.

        Threads that wait get `ClosedError`, iterations end. The mask is put back in the thread that opened
        the receiver if that is the one that closes it, and in the main thread; other threads keep theirs.
        """
        with _capture.lock:
            if self._closed:
                return
            while not is_empty(self._descriptor, self._capture.bell):
                self._fill()
            unread = len(self._buffer)
            self._closed = True
            os.eventfd_write(self._capture.bell, 1)  # whoever waits looks, and finds it closed
            _capture.receiving.remove(self)
        caller = self._caller
        if caller is not None and caller is not threading.current_thread():
            caller.join()
        with _capture.lock:
            self._epoll.close()
            os.close(self._descriptor)
            self._capture.close()
            if threading.current_thread() is self._thread:
                _signal.pthread_sigmask(_signal.SIG_UNBLOCK, self.added)
            elif self._thread is threading.main_thread():
                self._main_added = self.added
            if self._main_added:
                _core.signal_unblock_main(sorted(self._main_added))
        if unread:
            warnings.warn(
                f"{unread} signals were not read: they are thrown away", ResourceWarning, stacklevel=2
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(name_of(number) for number in sorted(self.signals))
        return f"<isthmus.signals.Receiver of {names}{' (closed)' if self._closed else ''}>"

    def in_child(self) -> None:
        """Called in a forked child, which receives nothing; the descriptors are its parent's too."""
        self._closed = True
        self._buffer.clear()
        self._epoll.close()
        os.close(self._descriptor)
        self._capture.drop()

    def _take(self) -> SignalInfo | None:
        with _capture.lock:
            if self._closed:
                raise ClosedError("this receiver is closed")
            if not self._buffer:
                self._fill()
            return self._buffer.popleft() if self._buffer else None

    def _fill(self) -> None:
        # What was written down left the kernel's queue before what is still in it.
        if records := self._capture.take():
            self._buffer.extend(parse(records))
            return
        with suppress(BlockingIOError):
            self._buffer.extend(parse(os.read(self._descriptor, _BATCH)))

    def _call(self, callback: Callable[[SignalInfo], object]) -> None:
        while True:
            try:
                info = self.get()
            except (ClosedError, ShutDown):
                return
            try:
                callback(info)
            except Exception:  # noqa: BLE001 - whatever it raises, the next signal is the next signal
                kind, error, traceback = sys.exc_info()
                assert kind is not None
                threading.excepthook(threading.ExceptHookArgs((kind, error, traceback, self._caller)))


def on_signal(callback: Callable[[SignalInfo], object], *signals: int) -> Receiver:
    """Calls `callback(info)` for each of these signals, in a thread of its own: `Receiver` and its `start`.

    Ends with the receiver that it returns: `with on_signal(print, signal.SIGUSR1): …`.
    """
    receiver = Receiver(*signals)
    receiver.start(callback)
    return receiver


def is_empty(*descriptors: int) -> bool:
    """Whether nothing can be read from any of them."""
    return not any(is_readable(fd) for fd in descriptors)


def _blocked_by_main() -> frozenset[int]:
    """What the main thread blocks, asked from another one."""
    status = Path(f"/proc/self/task/{os.getpid()}/status").read_text()
    bits = int(status.split("SigBlk:")[1].split()[0], 16)
    return frozenset(number for number in range(1, 65) if bits >> (number - 1) & 1)

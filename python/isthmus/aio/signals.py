"""asyncio: signals as values, timers, the end of processes, and a graceful end of one's own.

The names of `isthmus.signals`, awaited where they wait. What never waits is called as there: `send`,
`sigqueue`, `resume`, `block`, `children`, `Alarm`. No thread is started, and no loop is woken for nothing:
everything here is a descriptor that becomes readable. `block` and `children` must not have an `await` inside:
other tasks would run in them.
"""

import asyncio
import signal as _signal
import threading
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from isthmus import _stopping
from isthmus._errors import ClosedError, Empty, ShutDown, Timeout
from isthmus._stopping import deadline, remaining
from isthmus.signals import ProcessHandle, SignalInfo, Termination
from isthmus.signals import Receiver as SyncReceiver
from isthmus.signals import Timer as SyncTimer
from isthmus.signals._control import code_of_the_ended, members
from isthmus.signals._info import catchable
from isthmus.signals._shutdown import Claim, Ending, claim
from isthmus.signals._target import Target

from ._driver import TURN, checkpoint
from ._ready import forget, readable

__all__ = ["GracefulShutdown", "Receiver", "Timer", "graceful_shutdown", "terminate", "wait_for_exit"]


class Receiver:
    """Receives signals as values: `async for info in aio.signals.Receiver(signal.SIGRTMIN):`.

    `Receiver(receiver)` wraps an open `isthmus.signals.Receiver`, which goes on working; with signals it
    opens one. All that is said there holds here. Handlers of `loop.add_signal_handler` for *other* signals
    work beside it; for the same signals they are not called while it is open, and again when it is closed.
    """

    __slots__ = ("_receiver", "_turn")

    def __init__(self, *signals: int | SyncReceiver) -> None:
        self._turn = 0
        if len(signals) == 1 and isinstance(signals[0], SyncReceiver):
            self._receiver = signals[0]
        else:
            self._receiver = SyncReceiver(*signals)  # type: ignore[arg-type]  # it says what is none

    @property
    def sync(self) -> SyncReceiver:
        """The receiver for code that is not asynchronous."""
        return self._receiver

    @property
    def closed(self) -> bool:
        """True after `close()`, and in a forked child."""
        return self._receiver.closed

    async def get(self, timeout: float | None = None) -> SignalInfo:
        """The next signal; `Empty` when none came in `timeout` seconds (None waits, 0 tries).

        A task that is cancelled here has taken none.
        """
        end = deadline(timeout)
        self._turn = (self._turn + 1) % TURN
        if not self._turn:
            await checkpoint()
        while (info := self._receiver._take()) is None:
            if not await readable(self._receiver.fileno(), remaining(end)):
                raise Empty(f"no signal came in {timeout:g} s")
        return info

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SignalInfo:
        """The next signal; the end once the receiver is closed."""
        try:
            return await self.get()
        except ClosedError:
            raise StopAsyncIteration from None

    def fileno(self) -> int:
        """A descriptor that is readable while a signal waits."""
        return self._receiver.fileno()

    def close(self) -> None:
        """Stops receiving: tasks that wait get `ClosedError`, iterations end."""
        if not self._receiver.closed:
            forget(self._receiver.fileno())
        self._receiver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._receiver).replace("signals.", "aio.signals.", 1)


class Timer:
    """Runs out after `after` seconds, and with `interval` again: `async for times in Timer(1, 1):`.

    `Timer(timer)` wraps an open `isthmus.signals.Timer`. Unlike `asyncio.sleep` in a loop it does not drift,
    and says how often it ran out while the loop was busy.
    """

    __slots__ = ("_timer", "_turn")

    def __init__(self, after: float | SyncTimer, interval: float | None = None) -> None:
        self._turn = 0
        self._timer = after if isinstance(after, SyncTimer) else SyncTimer(after, interval)

    @property
    def sync(self) -> SyncTimer:
        """The timer for code that is not asynchronous."""
        return self._timer

    def set(self, after: float, interval: float | None = None) -> None:
        """Runs out in `after` seconds, with `interval` again every so many; the setting before is gone."""
        self._timer.set(after, interval)

    def cancel(self) -> None:
        """Runs out no more, until it is set again."""
        self._timer.cancel()

    def remaining(self) -> float:
        """Seconds until it runs out next; 0 for one that is not set."""
        return self._timer.remaining()

    def is_over(self) -> bool:
        """True for a timer that has nothing to tell, and will not run out unless it is set again."""
        return self._timer.is_over()

    def fileno(self) -> int:
        """A descriptor that is readable once it has run out."""
        return self._timer.fileno()

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._timer.closed

    async def get(self, timeout: float | None = None) -> int:
        """Waits until it has run out: how often, since the last time. `Empty` after `timeout` seconds."""
        end = deadline(timeout)
        self._turn = (self._turn + 1) % TURN
        if not self._turn:
            await checkpoint()
        while not (times := self._timer._take()):
            if not await readable(self._timer.fileno(), remaining(end)):
                raise Empty(f"the timer has not run out in {timeout:g} s")
        return times

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        """As `get`; the end for a timer that will not run out any more."""
        if self._timer.is_over():
            raise StopAsyncIteration
        return await self.get()

    def close(self) -> None:
        """Ends the timer: tasks that wait for it get `ClosedError`."""
        if not self._timer.closed:
            forget(self._timer.fileno())
        self._timer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._timer).replace("signals.", "aio.signals.", 1)


async def wait_for_exit(target: Target, timeout: float | None = None) -> int | None:
    """Waits for the end of any process, as `isthmus.signals.wait_for_exit` does."""
    with suppress(ProcessLookupError), ProcessHandle(target) as handle:
        try:
            if not await readable(handle.fileno(), remaining(deadline(timeout))):
                raise Timeout(f"process {handle.pid} has not ended in {timeout:g} s")
            return handle.status()
        finally:
            forget(handle.fileno())
    return code_of_the_ended(target)


async def terminate(
    target: Target, grace: float = 10.0, *, group: bool = False, timeout: float | None = None
) -> Termination:
    """Ends a process, as `isthmus.signals.terminate` does: SIGTERM, and SIGKILL after `grace` seconds.

    Cancelled in the meantime it sends nothing more.
    """
    limit = deadline(grace)
    try:
        handle = ProcessHandle(target)
    except ProcessLookupError:
        return Termination(code_of_the_ended(target), False)
    with handle:
        try:
            for number in (_signal.SIGTERM, _signal.SIGCONT):
                with suppress(ProcessLookupError):
                    handle.send(number, group=group)
            if killed := not await _ended(handle, limit, group):
                with suppress(ProcessLookupError):
                    handle.send(_signal.SIGKILL, group=group)
                if not await _ended(handle, deadline(timeout), group):
                    raise Timeout(f"process {handle.pid} was killed and has not ended after {timeout:g} s")
            return Termination(handle.status(), killed)
        finally:
            forget(handle.fileno())


async def _ended(handle: ProcessHandle, end: float | None, group: bool) -> bool:
    if not await readable(handle.fileno(), remaining(end)):
        return False
    pause = 0.001
    while group and any(True for _ in members(handle.pid)):  # nobody tells when a group is empty
        if remaining(end) == 0:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


class GracefulShutdown(Claim):
    """What `graceful_shutdown` gives: whether this process was asked to end, and ways to act on it."""

    def __init__(self, ends: tuple[Ending, ...], signals: Iterable[int], cancel: bool) -> None:
        super().__init__(ends)
        self._signals = catchable(signals)
        self._cancels = cancel
        self._before: dict[int, Any] = {}
        self._asked = asyncio.Event()
        self._finishing = 0
        self._cancelled = False
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._running: set[asyncio.Future[Any]] = set()

    def request(self, signal: int = _signal.SIGTERM) -> None:
        """Asks this process to end, as the signal does; for other reasons to end, from the loop's thread."""
        if self._got is not None:
            return
        self._got = signal
        self._asked.set()
        _stopping.tell(stopping=True)
        for answer in self._end_all():
            if isinstance(answer, Awaitable):
                self._running.add(asyncio.ensure_future(answer))
        self._cancel()

    async def wait(self, timeout: float | None = None) -> bool:
        """Sleeps until this process is asked to end; False when `timeout` seconds were over first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(remaining(deadline(timeout))):
                await self._asked.wait()
        return self.requested

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """What is begun in this block is finished: the body is cancelled at its end, not inside."""
        self._finishing += 1
        try:
            yield
        finally:
            self._finishing -= 1
            if self.requested:
                self._cancel()

    async def __aenter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "graceful_shutdown is for the main thread's loop: Python runs signal handlers there"
            )
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        claim(self)
        loop = asyncio.get_running_loop()
        for number in self._signals:
            # What was ignored when we began stays so: nohup and background jobs of a script rely on it.
            if (before := _signal.getsignal(number)) != _signal.SIG_IGN:
                self._before[number] = before
                loop.add_signal_handler(number, self._on_signal, number)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        loop = asyncio.get_running_loop()
        for number, before in self._before.items():
            loop.remove_signal_handler(number)
            # None is a handler that was not installed by Python, and cannot be put back by it.
            _signal.signal(number, _signal.SIG_DFL if before is None else before)
        self._before.clear()
        claim(None)
        ours = isinstance(error, ShutDown) and self.requested
        if self._cancelled and self._task is not None:
            # As asyncio.timeout: somebody else may have cancelled the task as well.
            alone = self._task.uncancel() <= self._cancelling
            ours = ours or (alone and isinstance(error, asyncio.CancelledError))
        if self._running:
            await asyncio.gather(*self._running)
        return ours

    def _cancel(self) -> None:
        if self._cancels and not self._cancelled and not self._finishing and self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def _on_signal(self, number: int) -> None:
        if self._got is not None and number == _signal.SIGINT:
            raise KeyboardInterrupt
        self.request(number)


def graceful_shutdown(
    *ends: Ending, signals: Iterable[int] = (_signal.SIGTERM, _signal.SIGINT), cancel: bool = True
) -> GracefulShutdown:
    """SIGTERM and Ctrl+C end the body: `async with aio.signals.graceful_shutdown() as stop:`.

    The first signal cancels the task at its next `await`, so that `finally` blocks run; the block is then
    left normally, as that of `asyncio.timeout`. Inside of `with stop.finishing():` the job in hand is
    finished first. With `cancel=False` the task goes on, and `stop`, `await stop.wait()` and the shutdown of
    `ends` (queues that are this service's own) tell it. Calls of `isthmus` that wait for work in other
    threads raise `ShutDown`.

    A second Ctrl+C ends at once: `KeyboardInterrupt` out of the loop. A second SIGTERM changes nothing.
    Signals that were ignored stay ignored; what handled them before, `asyncio.run` included, does so again
    afterwards.
    """
    return GracefulShutdown(ends, signals, cancel)


for _name in __all__:
    globals()[_name].__module__ = __name__
del _name

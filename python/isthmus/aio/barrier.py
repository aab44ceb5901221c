"""`aio.Barrier`: all wait until so many have come, from asyncio."""

from isthmus._errors import BrokenBarrierError
from isthmus.barrier import Barrier as SyncBarrier

from ._sync import Wrapper, wait
from ._tasks import context

__all__ = ["Barrier"]


class Barrier(Wrapper[SyncBarrier]):
    """A place where tasks, threads and processes wait for each other, from asyncio; see `isthmus.Barrier`.

    A task that is cancelled while it waits breaks the barrier, like one that dies.
    """

    __slots__ = ()

    _class = SyncBarrier

    async def wait(self, timeout: float | None = None) -> int:
        """Waits until all have come; a number from 0 to `parties - 1`. See `isthmus.Barrier.wait`."""
        barrier, me = self._sync, context()
        arrival = barrier._arrive(context=me)
        if arrival is None:
            raise BrokenBarrierError("the barrier is broken: it takes a reset()")
        if arrival[3]:
            return barrier._finish(arrival, me)
        try:
            came = await wait(barrier, "open", arrival[1], timeout)
        except BaseException:
            if barrier._outcome(arrival, context=me) is None:
                barrier.abort()
            raise
        if not came:
            barrier.abort()
        if barrier._outcome(arrival, context=me):
            return arrival[0]
        if not came:
            raise BrokenBarrierError(f"the others did not come within {timeout} seconds")
        raise BrokenBarrierError("one who waited was killed or gave up, or the barrier was reset")

    def abort(self) -> None:
        """Breaks the barrier for all who wait and come, until `reset()`."""
        self._sync.abort()

    def reset(self) -> None:
        """Makes the barrier whole again; those who wait now get `BrokenBarrierError`."""
        self._sync.reset()

    @property
    def parties(self) -> int:
        """How many open it."""
        return self._sync.parties

    @property
    def n_waiting(self) -> int:
        """How many wait; another moment may differ."""
        return self._sync.n_waiting

    @property
    def broken(self) -> bool:
        """True until `reset()` after somebody died, gave up or called `abort()`."""
        return self._sync.broken

"""`Barrier`: all wait until so many have come."""

import os
from collections.abc import Callable
from typing import Self

from ._errors import BrokenBarrierError
from ._sync import Named

__all__ = ["Barrier"]


class Barrier(Named):
    """A place where so many processes or threads wait for each other: `wait` returns when all have come.

    `Barrier(name, parties)` opens the barrier of that name, or creates it; `Barrier(parties=n)` is anonymous:
    it reaches other processes by fork and by pickling. It opens again and again.

    A waiter that is killed, gives up (`timeout`), or calls `abort` breaks the barrier: the others get
    `BrokenBarrierError` at once (within 100 ms after a kill), and so does everyone until `reset`.
    """

    __slots__ = ("_action",)

    _kind = "barrier"
    _default = 0

    _action: Callable[[], object] | None

    def __new__(  # noqa: D102 - the class says it
        cls,
        name: str | None = None,
        parties: int | None = None,
        action: Callable[[], object] | None = None,
        *,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        return cls._made(name, "open_or_create", parties, namespace)._with(action)

    @classmethod
    def create(
        cls,
        name: str,
        parties: int,
        action: Callable[[], object] | None = None,
        *,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates the barrier; `FileExistsError` where the name is taken."""
        return cls._made(name, "create", parties, namespace)._with(action)

    def _with(self, action: Callable[[], object] | None) -> Self:
        self._action = action
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Waits until all have come; a number from 0 to `parties - 1`, another for each.

        One of them, the last to come, runs the `action` first, if its handle has one; should that raise, the
        barrier breaks. `BrokenBarrierError` where it is or gets broken, or `timeout` seconds go by, which
        breaks it. `ShutDown`, which breaks it too, when this process is asked to end (`graceful_shutdown`).
        """
        arrival = self._arrive()
        if arrival is None:
            raise BrokenBarrierError("the barrier is broken: it takes a reset()")
        if arrival[3]:
            return self._finish(arrival)
        try:
            came = self._wait("open", arrival[1], timeout)
        except BaseException:
            self.abort()
            self._outcome(arrival)
            raise
        if not came:
            self.abort()
        if self._outcome(arrival):
            return arrival[0]
        if not came:
            raise BrokenBarrierError(f"the others did not come within {timeout} seconds")
        raise BrokenBarrierError("one who waited was killed or gave up, or the barrier was reset")

    def _finish(self, arrival: tuple[int, int, int, bool], context: int | None = None) -> int:
        action = getattr(self, "_action", None)
        try:
            if action is not None:
                action()
            opened = self._open(arrival, context=context)
        except BaseException:
            self.abort()
            self._outcome(arrival, context=context)
            raise
        self._outcome(arrival, context=context)
        if not opened:
            raise BrokenBarrierError("one who waited was killed or gave up, or the barrier was reset")
        return arrival[0]

    def reset(self) -> None:
        """Makes the barrier whole again; those who wait now get `BrokenBarrierError`."""
        self._reset()

    @property
    def parties(self) -> int:
        """How many open it."""
        return self._limit()

    @property
    def n_waiting(self) -> int:
        """How many wait; another moment may differ."""
        return self._barrier()[0]

    @property
    def broken(self) -> bool:
        """True until `reset()` after somebody died, gave up or called `abort()`."""
        return self._barrier()[1]
